package healthcheck

import (
	"context"
	"sync"
	"time"
)

// Readiness watches whether a container may be routed to. It never fails the container.
type Readiness struct {
	Checks []Check
	// UnhealthyInterval is the pause between probes while not ready.
	UnhealthyInterval time.Duration
	Texts             Texts
	Report            Reporter
	// SetRoutable is called with each change.
	SetRoutable func(routable bool)
	// Routable is the flag that an earlier process left.
	Routable bool
	// Resumed leaves out the opening line.
	Resumed bool
}

// Run is ready at once and watches until ctx ends, whose error it returns.
func (r Readiness) Run(ctx context.Context, ready func()) error {
	ready()
	if !r.Resumed {
		r.Report.Transition(true, "Starting readiness health monitoring of container")
	}
	routable := r.Routable
	for {
		if !routable {
			if !r.untilReady(ctx) {
				return ctx.Err()
			}
			r.Report.Transition(true, "Container passed the readiness health check. Container marked ready and added to route pool.")
			r.SetRoutable(true)
		}
		failure := watch(ctx, r.Checks, routable)
		if failure == nil {
			return ctx.Err()
		}
		routable = false
		r.Report.Failure(r.Texts.Readiness + failure.Error())
		r.Report.Transition(false, "Container failed the readiness health check. Container marked not ready and removed from route pool.")
		r.SetRoutable(false)
	}
}

func (r Readiness) untilReady(ctx context.Context) bool {
	var group sync.WaitGroup
	passed := make([]bool, len(r.Checks))
	for i, check := range r.Checks {
		group.Go(func() {
			_, err := untilPassed(ctx, check.Probe, 0, r.UnhealthyInterval)
			passed[i] = err == nil
		})
	}
	group.Wait()
	for _, ok := range passed {
		if !ok {
			return false
		}
	}
	return ctx.Err() == nil
}

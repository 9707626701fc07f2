package healthcheck

import (
	"context"
)

// Readiness watches whether a container may be routed to. It never fails the container.
type Readiness struct {
	Checks []Check
	// Timing is that of probes while not ready; StartTimeout is not used.
	Timing Timing
	Texts  Texts
	Report Reporter
	// SetRoutable is called with each change.
	SetRoutable func(routable bool)
	// Routable is the flag that an earlier process left.
	Routable bool
	// Resumed leaves out the opening line.
	Resumed bool
}

// Watch begins to watch and returns; it is a step.Watch that is ready at once and never fails.
func (r Readiness) Watch(ctx context.Context, ready func(), _ func(error)) (stop func()) {
	ready()
	if !r.Resumed {
		r.Report.Transition(true, "Starting readiness health monitoring of container")
	}
	w := &watch{ctx: ctx, checks: r.Checks, schedule: newSchedule(r.Checks, r.Timing, r.Routable)}
	w.changed = func(err error) (more bool) {
		if err == nil {
			r.Report.Transition(true, "Container passed the readiness health check. Container marked ready and added to route pool.")
		} else {
			r.Report.Failure(r.Texts.Readiness + err.Error())
			r.Report.Transition(false, "Container failed the readiness health check. Container marked not ready and removed from route pool.")
		}
		r.SetRoutable(err == nil)
		return true
	}
	w.start()
	return w.stop
}

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Timing of a monitor.
type Timing struct {
	// InitialDelay before the first probe.
	InitialDelay time.Duration
	// UnhealthyInterval is the pause between probes until one passes.
	UnhealthyInterval time.Duration
	// StartTimeout is the time to become healthy; zero means no limit.
	StartTimeout time.Duration
}

// Check is a probe with the pause between probes once it has passed; zero means never again.
type Check struct {
	Probe           Probe
	HealthyInterval time.Duration
}

// Texts are the prefixes of failures; a monitor action has none, because its own output says it all.
type Texts struct {
	// Startup says that the failure of a startup is worded as "Timed out after …".
	Startup   bool
	Liveness  string
	Readiness string
}

// DeclarativeTexts are those of checks that the executor makes itself.
var DeclarativeTexts = Texts{
	Startup:   true,
	Liveness:  "Liveness check unsuccessful: ",
	Readiness: "Readiness check unsuccessful: ",
}

// Reporter takes what the user is told. Only changes are told, never single probes.
type Reporter interface {
	// Transition is a change of state, good or bad.
	Transition(good bool, message string)
	// Failure is the text of a failed check that led to a change.
	Failure(message string)
}

// UnhealthyError ends a container.
type UnhealthyError struct{ Text string }

func (e *UnhealthyError) Error() string { return e.Text }

// Monitor waits until all checks have passed and then watches them.
type Monitor struct {
	Checks []Check
	Timing Timing
	Texts  Texts
	Report Reporter
	// Resumed says that the container was healthy before this process started: only the watch goes on.
	Resumed bool
}

// Run calls ready once all checks have passed. It returns an UnhealthyError when they do not pass in time or when one
// fails later, and the context's error when it is interrupted.
func (m Monitor) Run(ctx context.Context, ready func()) error {
	if !m.Resumed {
		m.Report.Transition(true, "Starting health monitoring of container")
		start := time.Now()
		if failures, err := m.startup(ctx); err != nil {
			return err
		} else if len(failures) > 0 {
			text := strings.Join(failures, "; ")
			took := time.Since(start).Round(time.Millisecond)
			m.Report.Failure(text)
			m.Report.Transition(false, fmt.Sprintf("Failed after %v: startup health check never passed.", took))
			return &UnhealthyError{Text: fmt.Sprintf("Instance never healthy after %v: %s", took, text)}
		}
		m.Report.Transition(true, "Container became healthy")
	}
	ready()
	failure := watch(ctx, m.Checks, m.Resumed)
	if failure == nil {
		return ctx.Err()
	}
	text := m.Texts.Liveness + failure.Error()
	m.Report.Failure(text)
	m.Report.Transition(false, "Container became unhealthy")
	return &UnhealthyError{Text: "Instance became unhealthy: " + text}
}

var errStartTimeout = errors.New("start timeout")

// startup runs all checks side by side and returns the texts of those that did not pass in time.
func (m Monitor) startup(ctx context.Context) ([]string, error) {
	limited := ctx
	if m.Timing.StartTimeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, m.Timing.StartTimeout, errStartTimeout)
		defer cancel()
	}
	start := time.Now()
	texts := make([]string, len(m.Checks))
	var group sync.WaitGroup
	for i, check := range m.Checks {
		group.Go(func() {
			attempts, last := untilPassed(limited, check.Probe, m.Timing.InitialDelay, m.Timing.UnhealthyInterval)
			if last == nil {
				return
			}
			texts[i] = last.Error()
			if m.Texts.Startup {
				texts[i] = fmt.Sprintf("Timed out after %v (%d attempts) waiting for startup check to succeed: %v",
					time.Since(start).Round(time.Millisecond), attempts, last)
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	failures := texts[:0]
	for _, text := range texts {
		if text != "" {
			failures = append(failures, text)
		}
	}
	return failures, nil
}

// untilPassed probes until one passes (nil) or ctx ends; then it returns the last failure.
func untilPassed(ctx context.Context, probe Probe, delay, interval time.Duration) (attempts int, last error) {
	last = errors.New("no health check was made")
	for wait(ctx, delay) {
		err := probe(ctx)
		if err == nil {
			return attempts + 1, nil
		}
		// A probe that the end of the time cut off says less than the one before it.
		if ctx.Err() == nil || attempts == 0 {
			last = err
		}
		attempts++
		delay = interval
	}
	return attempts, last
}

// watch probes at each check's own interval. It returns the first failure, or nil when ctx ends.
func watch(ctx context.Context, checks []Check, resumed bool) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var (
		group sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, check := range checks {
		if check.HealthyInterval <= 0 {
			continue
		}
		group.Go(func() {
			delay := check.HealthyInterval
			if resumed {
				delay = rand.N(delay) //nolint:gosec // spreads the checks of a cell that has just restarted
			}
			for wait(watching, delay) {
				err := check.Probe(watching)
				if err != nil && watching.Err() == nil {
					once.Do(func() { first = err })
					stop()
				}
				delay = check.HealthyInterval
			}
		})
	}
	if group.Wait(); first == nil {
		<-ctx.Done()
	}
	return first
}

// wait returns false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

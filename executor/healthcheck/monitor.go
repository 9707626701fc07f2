package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Timing of a monitor.
type Timing struct {
	// InitialDelay before the first probe.
	InitialDelay time.Duration
	// FirstRetry is the pause after the first probe of a starting application; it doubles with each probe until it is
	// UnhealthyInterval. Zero means UnhealthyInterval from the beginning.
	FirstRetry time.Duration
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
	// Unhealthy, if set, is called with the failure of a check that had passed before; see KindOf.
	Unhealthy func(err error)
	// Resumed says that the container was healthy before this process started: only the watch goes on.
	Resumed bool
}

// Watch begins to monitor and returns; it is a step.Watch. Ready is called once all checks have passed, and failed with an
// UnhealthyError when they do not pass in time or when one fails later.
func (m Monitor) Watch(ctx context.Context, ready func(), failed func(error)) (stop func()) {
	start := time.Now()
	w := &watch{ctx: ctx, checks: m.Checks, schedule: newSchedule(m.Checks, m.Timing, m.Resumed)}
	w.changed = func(err error) (more bool) {
		if err == nil {
			m.Report.Transition(true, "Container became healthy")
			ready()
			return true
		}
		if m.Unhealthy != nil {
			m.Unhealthy(err)
		}
		text := m.Texts.Liveness + err.Error()
		m.Report.Failure(text)
		m.Report.Transition(false, "Container became unhealthy")
		failed(&UnhealthyError{Text: "Instance became unhealthy: " + text})
		return false
	}
	if m.Resumed {
		ready()
	} else {
		m.Report.Transition(true, "Starting health monitoring of container")
		if m.Timing.StartTimeout > 0 {
			w.deadline = start.Add(m.Timing.StartTimeout)
		}
		w.expired = func() { failed(m.neverHealthy(w.schedule.checks, time.Since(start).Round(time.Millisecond))) }
	}
	w.start()
	return w.stop
}

// neverHealthy tells of checks that did not pass in time.
func (m Monitor) neverHealthy(checks []checkState, took time.Duration) error {
	var texts []string
	for _, c := range checks {
		if c.passed {
			continue
		}
		last := c.last
		if last == nil {
			last = errNoCheck
		}
		text := last.Error()
		if m.Texts.Startup {
			text = fmt.Sprintf("Timed out after %v (%d attempts) waiting for startup check to succeed: %v", took, c.attempts, last)
		}
		texts = append(texts, text)
	}
	text := strings.Join(texts, "; ")
	m.Report.Failure(text)
	m.Report.Transition(false, fmt.Sprintf("Failed after %v: startup health check never passed.", took))
	return &UnhealthyError{Text: fmt.Sprintf("Instance never healthy after %v: %s", took, text)}
}

var (
	errStartTimeout = errors.New("start timeout")
	errNoCheck      = errors.New("no health check was made")
)

package healthcheck

import "time"

// schedule says when each of some checks is due next and what their answers mean together. It is pure: it knows durations
// and no clock. Down, every check is repeated until it has passed once, and when all have, the schedule is up. Up, every
// check has its own interval, and the first failure takes the schedule down.
type schedule struct {
	timing Timing
	up     bool
	// wasUp ends the quick first attempts: they are for an application that is just starting.
	wasUp  bool
	checks []checkState
}

// checkState is what a schedule knows of one check.
type checkState struct {
	// interval while up; zero means never again.
	interval time.Duration
	// pause is the newest one between two attempts while down.
	pause time.Duration
	// attempts, last and passed tell of the time since the schedule went down.
	attempts int
	last     error
	passed   bool
}

func newSchedule(checks []Check, timing Timing, up bool) schedule {
	s := schedule{timing: timing, up: up, wasUp: up, checks: make([]checkState, len(checks))}
	for i, c := range checks {
		s.checks[i].interval = c.HealthyInterval
	}
	return s
}

// answer takes the result of one check. Changed says that the schedule is up now, or down now for err.
func (s *schedule) answer(i int, err error) (changed bool) {
	c := &s.checks[i]
	c.attempts++
	switch {
	case s.up && err != nil:
		s.up = false
		for i := range s.checks {
			s.checks[i] = checkState{interval: s.checks[i].interval}
		}
		return true
	case s.up:
		return false
	case err != nil:
		c.last = err
		return false
	}
	c.passed, c.last = true, nil
	for _, other := range s.checks {
		if !other.passed {
			return false
		}
	}
	s.up, s.wasUp = true, true
	return true
}

// first is the pause before the first attempt of any check since the schedule was made or went down.
func (s *schedule) first() time.Duration {
	if s.wasUp {
		return 0
	}
	return s.timing.InitialDelay
}

// next is the pause before the next attempt of a check that has been answered; false means that none is due.
func (s *schedule) next(i int) (time.Duration, bool) {
	c := &s.checks[i]
	switch {
	case s.up:
		return c.interval, c.interval > 0
	case c.passed:
		return 0, false
	case c.attempts == 0: // it was under way when the schedule went down
		return s.first(), true
	case s.wasUp || s.timing.FirstRetry <= 0:
		c.pause = s.timing.UnhealthyInterval
	case c.pause == 0:
		c.pause = min(s.timing.FirstRetry, s.timing.UnhealthyInterval)
	default:
		c.pause = min(2*c.pause, s.timing.UnhealthyInterval)
	}
	return c.pause, true
}

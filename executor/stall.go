package executor

import (
	"sync/atomic"
	"time"
)

// Stall says how long the container engine has not answered. It may be read while Open still waits for the engine.
type Stall struct{ since atomic.Int64 } // Unix nanoseconds; 0 while it answers

// Duration since the engine last answered, or since it was first asked; 0 while it answers.
func (s *Stall) Duration() time.Duration {
	since := s.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// note takes the result of a question to the engine.
func (s *Stall) note(err error) {
	if err == nil {
		s.since.Store(0)
		return
	}
	s.since.CompareAndSwap(0, time.Now().UnixNano())
}

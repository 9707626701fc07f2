package proxy

import (
	"context"
	"time"
)

// stopper ends the context that withTimeout made.
type stopper struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// withTimeout returns a context that ends with cause errTimeout after d (0: never). Unlike the standard one its
// timeout can be taken off while the context lives on, as an upgraded connection needs it.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, stopper) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := stopper{cancel: cancel}
	if d > 0 {
		s.timer = time.AfterFunc(d, func() { cancel(errTimeout) })
	}
	return ctx, s
}

// disarm takes the timeout off.
func (s stopper) disarm() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// stop ends the context.
func (s stopper) stop() {
	s.disarm()
	s.cancel(nil)
}

package lockclient

import "context"

// While runs the work that the lock protects. The context of work ends when ctx ends, or with ErrLost as its cause when
// the lock is lost. When work has returned, the lock is released: so there are never two that work.
//
// It returns an error that wraps ErrLost if the lock is lost, whatever work said, and else what work returned. It does
// what Hold does; call one of them, once.
func (l *Lock) While(ctx context.Context, work func(context.Context) error) error {
	hold, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	held := make(chan error, 1)
	go func() {
		err := l.Hold(hold)
		stop(err)
		held <- err
	}()
	err := work(working)
	release()
	if lost := <-held; lost != nil {
		return lost
	}
	return err
}

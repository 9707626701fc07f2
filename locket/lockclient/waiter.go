package lockclient

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"diego.internal/locket/internal/lease"
)

// pollEvery is the pause between requests for a lock that another process holds. It is the safety
// net below the watch: with a server that takes requests but tells no changes, it bounds a take-over
// to this long after the expiry.
const pollEvery = time.Second

// waiter waits for a lock to become free. The watch begins with the first wait, so that a process
// that gets the lock at once never opens one.
type waiter struct {
	backend Backend
	claim   Claim
	log     *slog.Logger

	free    chan struct{} // of one element: the lock was told to be free
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newWaiter(backend Backend, claim Claim, log *slog.Logger) *waiter {
	return &waiter{backend: backend, claim: claim, log: log, free: make(chan struct{}, 1)}
}

// wait returns nil when asking again makes sense, or the cause of ctx. The refusal is that of the last
// request.
func (w *waiter) wait(ctx context.Context, refusal error) error {
	if w.cancel == nil {
		w.log.InfoContext(ctx, "lock-is-held-by-another", "holder", HolderIn(refusal))
		watchCtx, cancel := context.WithCancel(ctx)
		w.cancel = cancel
		w.running.Go(func() { w.watch(watchCtx) })
	}
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.free:
	case <-poll.C:
	}
	return nil
}

// stop ends the watch and waits for it.
func (w *waiter) stop() {
	if w.cancel != nil {
		w.cancel()
		w.running.Wait()
	}
}

// watch follows the key until ctx ends, and reconnects when the stream breaks.
func (w *waiter) watch(ctx context.Context) {
	follow(ctx, w.log, func(progress func()) error {
		held := false
		return w.backend.Watch(ctx, Filter{Type: w.claim.Type, Prefix: w.claim.Key}, func(e Event) {
			progress()
			switch {
			case e.Kind == Synced && !held:
				w.tell()
			case e.Held.Key != w.claim.Key: // a longer key with our prefix
			case e.Kind == Acquired:
				held = true
			case e.Kind == Released || e.Kind == Expired:
				w.tell()
			}
		})
	})
}

func (w *waiter) tell() {
	select {
	case w.free <- struct{}{}:
	default: // the waiter has not even taken the last one
	}
}

// follow runs watch again and again until ctx ends, with a pause that grows while watch makes no
// progress. watch has to call progress when it receives something.
func follow(ctx context.Context, log *slog.Logger, watch func(progress func()) error) {
	failures := 0
	for ctx.Err() == nil {
		err := watch(func() { failures = 0 })
		if ctx.Err() != nil {
			return
		}
		failures++
		log.DebugContext(ctx, "watch-ended", "error", err)
		pause := time.NewTimer(lease.RetryAfter(failures))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

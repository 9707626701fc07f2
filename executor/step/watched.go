package step

import (
	"context"
	"errors"
	"sync"
)

// Watch observes a container beside its step and costs no goroutine while nothing happens. It starts at once and returns.
// It calls ready (at most once) when it is content, and failed (at most once) when the container must end. When ctx has
// ended it starts nothing more, and stop waits until nothing of it is under way.
type Watch func(ctx context.Context, ready func(), failed func(error)) (stop func())

// Watched runs inner, in the caller's goroutine, and watches it meanwhile. It is ready when inner and all watches are. A
// watch that fails interrupts inner. An inner step that ends cleanly ends the watches too, unless daemon says that it may
// have left something behind that they go on to watch.
func Watched(inner Step, daemon bool, watches ...Watch) Step {
	if len(watches) == 0 {
		return inner
	}
	return func(ctx context.Context, ready func()) error {
		group, cancel := context.WithCancel(ctx)
		defer cancel()
		found := &findings{end: cancel}
		countdown := after(1+len(watches), ready)
		stops := make([]func(), len(watches))
		Aside(func() {
			for i, watch := range watches {
				stops[i] = watch(group, sync.OnceFunc(countdown), found.add)
			}
		})
		err := inner(group, sync.OnceFunc(countdown))
		if err == nil && daemon {
			<-group.Done()
			if found.none() {
				err = interrupted(ctx)
			}
		}
		cancel()
		for _, stop := range stops {
			stop()
		}
		return found.with(err)
	}
}

// findings are the failures of watches, in their order.
type findings struct {
	end func()

	mu       sync.Mutex
	failures JoinedError
}

func (f *findings) add(err error) {
	f.mu.Lock()
	f.failures = append(f.failures, err)
	f.mu.Unlock()
	f.end()
}

func (f *findings) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.failures) == 0
}

// with joins them with the result of the watched step, which says last what it said because of them.
func (f *findings) with(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(err, ErrDetached) {
		return err // the container goes on, and the next process of ours comes to its own findings
	}
	return append(f.failures, err).join()
}

// Aside runs f in a goroutine of its own and waits for it. A stack that has grown stays large while its goroutine waits, and
// one that waits for the life of a container should not have grown before.
func Aside(f func()) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		f()
	}()
	<-over
}

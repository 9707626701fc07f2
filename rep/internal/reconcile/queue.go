package reconcile

import (
	"context"
	"sync"
)

// queue runs operations keyed by what they are about: those of one key one after the other, and of those that wait for
// the same key only the newest. Different keys run concurrently, up to the width.
type queue struct {
	slots chan struct{}

	mu   sync.Mutex
	idle sync.Cond             // on mu; signalled when keys becomes empty
	keys map[string]*operation // guarded by mu; what waits behind the running operation of a key, nil if nothing does
}

// operation is one submitted function. Over is closed when it has ended or will never run.
type operation struct {
	run  func(context.Context)
	over chan struct{}
}

func newQueue(width int) *queue {
	q := &queue{slots: make(chan struct{}, width), keys: map[string]*operation{}}
	q.idle.L = &q.mu
	return q
}

// submit never blocks. The operation does not run if ctx ends first, or if a newer one of the key comes before its turn.
// The channel is closed when it has run or will not any more.
func (q *queue) submit(ctx context.Context, key string, run func(context.Context)) <-chan struct{} {
	next := &operation{run: run, over: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting, busy := q.keys[key]
	if !busy {
		q.keys[key] = nil
		go q.work(ctx, key, next)
		return next.over
	}
	if waiting != nil {
		close(waiting.over)
	}
	q.keys[key] = next
	return next.over
}

// work runs the operations of a key until none waits.
func (q *queue) work(ctx context.Context, key string, current *operation) {
	for current != nil {
		select {
		case q.slots <- struct{}{}:
			if ctx.Err() == nil {
				current.run(ctx)
			}
			<-q.slots
		case <-ctx.Done():
		}
		close(current.over)
		current = q.next(key)
	}
}

func (q *queue) next(key string) *operation {
	q.mu.Lock()
	defer q.mu.Unlock()
	current := q.keys[key]
	if current == nil {
		delete(q.keys, key)
		if len(q.keys) == 0 {
			q.idle.Broadcast()
		}
		return nil
	}
	q.keys[key] = nil
	return current
}

// wait blocks until no operation runs or waits.
func (q *queue) wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.keys) > 0 {
		q.idle.Wait()
	}
}

package reconcile

import (
	"context"
	"sync"
)

// queue runs operations keyed by what they are about: those of one key one after the other, and of those that wait for
// the same key only the newest. Different keys run concurrently, up to the width.
type queue struct {
	slots chan struct{}
	group sync.WaitGroup

	mu   sync.Mutex
	keys map[string]*pending // guarded by mu; present while an operation of the key runs or waits
}

// pending is the operation that waits behind the running one; nil if none does.
type pending struct{ next func(context.Context) }

func newQueue(width int) *queue {
	return &queue{slots: make(chan struct{}, width), keys: map[string]*pending{}}
}

// submit never blocks. The operation does not run if ctx ends first.
func (q *queue) submit(ctx context.Context, key string, operation func(context.Context)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if waiting, busy := q.keys[key]; busy {
		waiting.next = operation
		return
	}
	q.keys[key] = &pending{}
	q.group.Go(func() { q.work(ctx, key, operation) })
}

func (q *queue) work(ctx context.Context, key string, operation func(context.Context)) {
	for operation != nil {
		select {
		case q.slots <- struct{}{}:
			operation(ctx)
			<-q.slots
		case <-ctx.Done():
		}
		operation = q.next(ctx, key)
	}
}

func (q *queue) next(ctx context.Context, key string) func(context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	operation := q.keys[key].next
	if operation == nil || ctx.Err() != nil {
		delete(q.keys, key)
		return nil
	}
	q.keys[key].next = nil
	return operation
}

// wait blocks until every submitted operation has ended.
func (q *queue) wait() { q.group.Wait() }

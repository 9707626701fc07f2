// Package keylock locks things by key, one lock each, for as long as somebody holds it or waits for it. It does not know what the
// keys stand for.
package keylock

import (
	"context"
	"sync"
)

// Locks are the locks of any number of keys. The zero value has none. It is safe for concurrent use.
type Locks[K comparable] struct {
	mu    sync.Mutex
	locks map[K]*lock
}

type lock struct {
	held  chan struct{} // holds one token while locked
	users int           // guarded by Locks.mu; who holds it or waits for it
}

// Lock waits until the key is free, or returns the cause of ctx's end. The caller calls unlock once.
func (k *Locks[K]) Lock(ctx context.Context, key K) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = make(map[K]*lock)
	}
	l := k.locks[key]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// Len is how many keys are locked or waited for.
func (k *Locks[K]) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.locks)
}

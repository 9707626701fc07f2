package cache

import (
	"context"
	"sync"
)

// keyLocks is one lock per entry, for as long as somebody holds it or waits for it.
type keyLocks struct {
	mu    sync.Mutex
	locks map[entry]*keyLock
}

type keyLock struct {
	held  chan struct{} // holds one token while locked
	users int
}

// lock waits until the entry is free or ctx ends. The caller calls unlock once.
func (k *keyLocks) lock(ctx context.Context, e entry) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = make(map[entry]*keyLock)
	}
	l := k.locks[e]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.locks[e] = l
	}
	l.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, e)
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

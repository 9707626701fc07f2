package effect

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// pending is a set of keys, each with the time from which on something is to be done about it. Adding
// never blocks, and a key that is there already costs nothing, so its size is bounded by that of the
// state. It is safe for concurrent use.
type pending[K comparable] struct {
	mu    sync.Mutex
	items map[K]*item[K]
	due   dueHeap[K]
	added uint64
	wake  chan struct{}
}

type item[K comparable] struct {
	key      K
	at       time.Time
	number   uint64 // keys that are due at the same time are taken in the order in which they came
	position int
}

func newPending[K comparable]() *pending[K] {
	return &pending[K]{items: map[K]*item[K]{}, wake: make(chan struct{}, 1)}
}

// add puts a key into the set. One that is there already becomes due at the earlier of both times.
func (p *pending[K]) add(at time.Time, keys ...K) {
	if len(keys) == 0 {
		return
	}
	p.mu.Lock()
	for _, key := range keys {
		switch known := p.items[key]; {
		case known == nil:
			p.added++
			fresh := &item[K]{key: key, at: at, number: p.added}
			p.items[key] = fresh
			heap.Push(&p.due, fresh)
		case at.Before(known.at):
			known.at = at
			heap.Fix(&p.due, known.position)
		}
	}
	p.mu.Unlock()
	p.signal()
}

func (p *pending[K]) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// len returns how many keys there are, due or not.
func (p *pending[K]) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.items)
}

// takeDue removes up to limit keys that are due and returns them, the longest due first; and when the
// next one is due, the zero time if there is none.
func (p *pending[K]) takeDue(now time.Time, limit int) (taken []K, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.due) > 0 && len(taken) < limit && !p.due[0].at.After(now) {
		first, _ := heap.Pop(&p.due).(*item[K])
		delete(p.items, first.key)
		taken = append(taken, first.key)
	}
	if len(p.due) > 0 {
		next = p.due[0].at
	}
	return taken, next
}

// take waits until at least one key is due and removes up to limit of those that are. It returns nil
// when ctx ends. Only one goroutine may wait at a time.
func (p *pending[K]) take(ctx context.Context, limit int) []K {
	for ctx.Err() == nil {
		taken, next := p.takeDue(time.Now(), limit)
		if len(taken) > 0 {
			return taken
		}
		p.await(ctx, next)
	}
	return nil
}

// await returns when a key was added, next has come, or ctx ends.
func (p *pending[K]) await(ctx context.Context, next time.Time) {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-p.wake:
	case <-due:
	}
}

// dueHeap implements heap.Interface, the earliest first.
type dueHeap[K comparable] []*item[K]

func (h dueHeap[K]) Len() int { return len(h) }
func (h dueHeap[K]) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].number < h[j].number
	}
	return h[i].at.Before(h[j].at)
}

func (h dueHeap[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}

// Push implements heap.Interface.
func (h *dueHeap[K]) Push(x any) {
	added, _ := x.(*item[K])
	added.position = len(*h)
	*h = append(*h, added)
}

// Pop implements heap.Interface.
func (h *dueHeap[K]) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

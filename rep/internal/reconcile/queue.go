package reconcile

import (
	"context"
	"sync"
)

// queue runs operations keyed by what they are about: those of one key one after the other, and of those that wait for
// the same key only the newest. Different keys run concurrently, up to the width, and get their turns in order. What waits
// costs no goroutine: a cell may have very much to begin at once.
type queue struct {
	width int

	mu      sync.Mutex
	idle    sync.Cond        // on mu; signalled when lines becomes empty
	workers int              // goroutines that run operations, at most width
	lines   map[string]*line // by key; those with an operation that waits or runs
	ready   []*line          // those with an operation that waits and none that runs, in order
}

// line is what one key has to do.
type line struct {
	key     string
	next    *operation // nil if nothing waits
	running bool
}

// operation is one submitted function. Over is closed when it has ended or will never run.
type operation struct {
	run  func()
	over chan struct{}
}

func newQueue(width int) *queue {
	q := &queue{width: width, lines: map[string]*line{}}
	q.idle.L = &q.mu
	return q
}

// submit never blocks. The operation does not run if ctx ends first, or if a newer one of the key comes before its turn.
// The channel is closed when it has run or will not any more.
func (q *queue) submit(ctx context.Context, key string, run func(context.Context)) <-chan struct{} {
	next := &operation{over: make(chan struct{}), run: func() {
		if ctx.Err() == nil {
			run(ctx)
		}
	}}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[key]
	if l == nil {
		l = &line{key: key}
		q.lines[key] = l
	}
	overtaken := l.next
	l.next = next
	if overtaken != nil {
		close(overtaken.over)
	} else if !l.running {
		q.ready = append(q.ready, l)
		if q.workers < q.width {
			q.workers++
			go q.work()
		}
	}
	return next.over
}

// work runs operations until none is ready.
func (q *queue) work() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) > 0 {
		l := q.ready[0]
		q.ready[0] = nil
		q.ready = q.ready[1:]
		current := l.next
		l.next, l.running = nil, true
		q.mu.Unlock()
		current.run()
		close(current.over)
		q.mu.Lock()
		l.running = false
		if l.next != nil {
			q.ready = append(q.ready, l)
			continue
		}
		delete(q.lines, l.key)
		if len(q.lines) == 0 {
			q.idle.Broadcast()
		}
	}
	q.workers--
}

// wait blocks until no operation runs or waits.
func (q *queue) wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) > 0 {
		q.idle.Wait()
	}
}

package batch

import (
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/auctioneer/internal/work"
	"diego.internal/servicekit/fault"
)

// ErrQueueFull is returned for work that comes while too much is waiting.
var ErrQueueFull = fault.New(codes.ResourceExhausted, "QueueFull", "too much work is waiting for a cell")

// heldLimit is how long work is held back that nobody asks for again. The BBS asks every
// half minute for what it still wants, so the rest is not wanted any more.
const heldLimit = 10 * time.Minute

// Queue gathers work until the loop takes it. There is at most one piece of work per
// key: the latest request counts, with the time of the first. It is safe for concurrent
// use.
type Queue struct {
	limit  int
	signal chan struct{} // has one element while there is new work

	mu      sync.Mutex
	waiting map[work.Key]*work.Work
	held    map[work.Key]*work.Work // waits for starts to finish
	taken   map[work.Key]*work.Work // is being placed
	// placed is what was placed while work is recovered; nil at other times.
	placed map[work.Key]bool
}

// NewQueue makes a queue for at most limit pieces of work.
func NewQueue(limit int) *Queue {
	return &Queue{
		limit: limit, signal: make(chan struct{}, 1),
		waiting: map[work.Key]*work.Work{}, held: map[work.Key]*work.Work{}, taken: map[work.Key]*work.Work{},
	}
}

// Add queues new work. It takes all or, with ErrQueueFull, nothing.
func (q *Queue) Add(works []*work.Work) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.fits(len(works)); err != nil {
		return err
	}
	for _, w := range works {
		q.put(w)
	}
	q.wake()
	return nil
}

// recover begins a recovery: until the function that it returns is called, the queue
// remembers what is placed.
func (q *Queue) recover() (end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.placed = map[work.Key]bool{}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.placed = nil
	}
}

// addRecovered queues work of a list that was true when the recovery began or later: what
// was placed or is being placed since is not wanted again. It takes all or nothing.
func (q *Queue) addRecovered(works []*work.Work) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.fits(len(works)); err != nil {
		return err
	}
	for _, w := range works {
		if key := w.Key(); !q.placed[key] && q.taken[key] == nil {
			q.put(w)
		}
	}
	q.wake()
	return nil
}

// Fits returns ErrQueueFull if the queue has no room for n more pieces of work now, so
// that nobody need make them in vain.
func (q *Queue) Fits(n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fits(n)
}

func (q *Queue) fits(n int) error {
	if waiting := len(q.waiting) + len(q.held); n > q.limit-waiting {
		return ErrQueueFull.With("%d wait already, the limit is %d", waiting, q.limit)
	}
	return nil
}

// put stores w in place of an earlier request, whose place in time it takes.
func (q *Queue) put(w *work.Work) {
	key := w.Key()
	for _, from := range []map[work.Key]*work.Work{q.waiting, q.held} {
		if earlier, ok := from[key]; ok {
			w.Queued = earlier.Queued
			w.Held = w.Held || earlier.Held
			delete(from, key)
		}
	}
	q.waiting[key] = w
}

func (q *Queue) wake() {
	if len(q.waiting) == 0 {
		return
	}
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// poke raises the signal again after a batch that took nothing.
func (q *Queue) poke() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake()
}

// Take hands out what waits, and with held set also what is held back, less what nobody
// wants any more. Everything taken must come back by Placed, Dropped, Again or Hold.
func (q *Queue) Take(held bool) []*work.Work {
	q.mu.Lock()
	defer q.mu.Unlock()
	if held {
		old := time.Now().Add(-heldLimit)
		maps.DeleteFunc(q.held, func(_ work.Key, w *work.Work) bool { return w.Asked.Before(old) })
	}
	select {
	case <-q.signal:
	default:
	}
	out := make([]*work.Work, 0, len(q.waiting))
	sources := []map[work.Key]*work.Work{q.waiting}
	if held {
		sources = append(sources, q.held)
	}
	for _, from := range sources {
		for key, w := range from {
			if q.taken[key] != nil {
				continue // its earlier form is still with a cell that has not answered
			}
			out = append(out, w)
			q.taken[key] = w
			delete(from, key)
		}
	}
	return out
}

// Placed ends work that a cell accepted. The same request made again meanwhile is
// answered by it too.
func (q *Queue) Placed(w *work.Work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := w.Key()
	delete(q.taken, key)
	if q.placed != nil {
		q.placed[key] = true
	}
	if again := q.waiting[key]; again != nil && again.Same(w) {
		delete(q.waiting, key)
	}
	q.wake()
}

// Dropped ends work that was refused for good.
func (q *Queue) Dropped(w *work.Work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.taken, w.Key())
	q.wake()
}

// Again returns work for the next batch.
func (q *Queue) Again(w *work.Work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := w.Key()
	delete(q.taken, key)
	if newer := q.waiting[key]; newer == nil {
		q.waiting[key] = w
	}
	q.wake()
}

// Hold keeps work until starts finish.
func (q *Queue) Hold(w *work.Work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := w.Key()
	delete(q.taken, key)
	if newer := q.waiting[key]; newer == nil {
		q.held[key] = w
	}
}

// Place is where a piece of work is in the queue.
type Place string

// The places.
const (
	// Unknown work is not asked for, or placed, or given up.
	Unknown Place = "unknown"
	// Waiting work is decided by the next batch.
	Waiting Place = "waiting"
	// Held work is tried again as starts finish or cells answer.
	Held Place = "held"
	// Taken work is being decided, or a cell has not answered yet to it.
	Taken Place = "taken"
)

// Find returns where a piece of work is.
func (q *Queue) Find(key work.Key) Place {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.taken[key] != nil:
		return Taken
	case q.waiting[key] != nil:
		return Waiting
	case q.held[key] != nil:
		return Held
	default:
		return Unknown
	}
}

// Lengths returns how much waits, is held back and is being placed.
func (q *Queue) Lengths() (waiting, held, taken int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting), len(q.held), len(q.taken)
}

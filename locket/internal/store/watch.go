package store

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/fault"
)

// ErrBehind says that a watch cannot go on where it stands and has to start anew.
var ErrBehind = fault.New(codes.Aborted, "WatchBehind", "the watch has to start anew")

// queueLimit is how many changes a watch may be behind. A mass start of a few thousand cells fits.
const queueLimit = 20_000

// Watch is one subscription to changes. Its methods may be used by one goroutine.
type Watch struct {
	// Held is what was held when the watch began, in key order.
	Held []lease.Held

	typ    lease.Type
	prefix string
	all    *subscriptions
	after  int64 // changes up to here are in Held already

	signal chan struct{} // of one element: there is something to take
	// The rest is guarded by all.mu.
	queue []lease.Change
	end   error
}

// Watch begins a watch on the claims of one type whose key starts with prefix. Close it.
func (s *Store) Watch(ctx context.Context, typ lease.Type, prefix string) (*Watch, error) {
	// Subscribed before the snapshot is read: what happens between is in the queue, and what is in
	// both is recognised by its revision.
	w, err := s.feed.subscribe(typ, prefix)
	if err != nil {
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	snap, err := s.snapshotOf(ctx, typ, prefix)
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	w.Held, w.after = snap.held, snap.revision
	return w, nil
}

// Changed has an element when Take has something to return.
func (w *Watch) Changed() <-chan struct{} { return w.signal }

// Take returns the changes since the last Take, in order. It returns an error, after the last
// change, when the watch has ended: ErrBehind or ErrUnavailable.
func (w *Watch) Take() ([]lease.Change, error) {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	taken := w.queue
	w.queue = nil
	for len(taken) > 0 && taken[0].Revision <= w.after {
		taken = taken[1:]
	}
	return taken, w.end
}

// Close ends the watch.
func (w *Watch) Close() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	w.all.remove(w)
}

// subscriptions are the watches of this server.
type subscriptions struct {
	metrics *metrics
	mu      sync.Mutex
	sighted bool // the feed sees the log
	watches map[*Watch]struct{}
}

func newSubscriptions(m *metrics) *subscriptions {
	return &subscriptions{metrics: m, watches: map[*Watch]struct{}{}}
}

func (s *subscriptions) subscribe(typ lease.Type, prefix string) (*Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sighted {
		return nil, ErrUnavailable.With("the log of claims cannot be read")
	}
	w := &Watch{typ: typ, prefix: prefix, all: s, signal: make(chan struct{}, 1)}
	s.watches[w] = struct{}{}
	s.metrics.watches.Set(float64(len(s.watches)))
	return w, nil
}

// see notes whether the feed sees the log. Until it does, no watch begins.
func (s *subscriptions) see(sighted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sighted = sighted
}

// deliver queues the changes for every watch that asked for them.
func (s *subscriptions) deliver(changes []lease.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		for _, c := range changes {
			if c.Held.Type == w.typ && strings.HasPrefix(c.Held.Key, w.prefix) {
				w.queue = append(w.queue, c)
			}
		}
		if len(w.queue) > queueLimit {
			w.queue = nil
			s.finish(w, ErrBehind.With("more than %d changes behind", queueLimit))
		}
		w.tell()
	}
}

// backlog is how many changes wait for the watch that is furthest behind.
func (s *subscriptions) backlog() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := 0
	for w := range s.watches {
		longest = max(longest, len(w.queue))
	}
	return float64(longest)
}

// cut ends every watch.
func (s *subscriptions) cut(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		s.finish(w, reason)
		w.tell()
	}
}

func (s *subscriptions) finish(w *Watch, reason error) {
	w.end = reason
	s.metrics.watchesCut.Inc()
	s.remove(w)
}

func (s *subscriptions) remove(w *Watch) {
	delete(s.watches, w)
	s.metrics.watches.Set(float64(len(s.watches)))
}

// tell signals that there is something to take. The caller holds mu.
func (w *Watch) tell() {
	if len(w.queue) == 0 && w.end == nil {
		return
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

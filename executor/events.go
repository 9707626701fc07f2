package executor

import (
	"context"
	"sync"

	"diego.internal/executor/container"
)

// maxPendingEvents bounds what one slow reader can hold up; beyond it the reader is told to look at everything.
const maxPendingEvents = 4096

// EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	EventReserved EventKind = iota + 1
	// EventRunning comes when a container runs, and again on each change of its routable flag, routes or tags.
	EventRunning
	EventComplete
	// EventResync says that events were lost: look at all containers. It has no container.
	EventResync
)

// Event tells of a change. Of several changes of one container that nobody fetched only the newest is kept.
type Event struct {
	Kind      EventKind
	Container container.Record
}

// hub hands events to every subscription. It never blocks.
type hub struct {
	mu     sync.Mutex
	subs   map[*Subscription]struct{}
	closed bool
}

func newHub() *hub { return &hub{subs: make(map[*Subscription]struct{})} }

func (h *hub) subscribe() *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Subscription{hub: h, pending: make(map[string]Event), wake: make(chan struct{}, 1), done: make(chan struct{})}
	if h.closed {
		close(s.done)
		return s
	}
	h.subs[s] = struct{}{}
	return s
}

func (h *hub) emit(kind EventKind, record container.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.add(Event{Kind: kind, Container: record})
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		close(s.done)
	}
	clear(h.subs)
}

// Subscription collects events for one reader.
type Subscription struct {
	hub  *hub
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pending map[string]Event
	order   []string
	resync  bool
}

func (s *Subscription) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	guid := e.Container.GUID
	if _, waiting := s.pending[guid]; !waiting {
		if len(s.pending) >= maxPendingEvents {
			clear(s.pending)
			s.order, s.resync = nil, true
		}
		s.order = append(s.order, guid)
	}
	s.pending[guid] = e
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next blocks until there is an event, and returns ctx's error or, after Close or the client's Close, ErrClosed. One
// goroutine at a time may call it.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.take(); ok {
			return e, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-s.done:
			return Event{}, ErrClosed
		}
	}
}

func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resync {
		s.resync = false
		return Event{Kind: EventResync}, true
	}
	if len(s.order) == 0 {
		return Event{}, false
	}
	guid := s.order[0]
	s.order = s.order[1:]
	e := s.pending[guid]
	delete(s.pending, guid)
	return e, true
}

// Close ends the subscription. It may be repeated.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if _, open := s.hub.subs[s]; open {
		delete(s.hub.subs, s)
		close(s.done)
	}
}

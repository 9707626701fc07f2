package cells

import (
	"time"

	"diego.internal/auctioneer/internal/work"
)

// reservations tells which cell holds room for a piece of work that it has not begun with; if several do, the one that said
// so last. Guarded by Fleet.mu.
type reservations map[work.Key]*member

// replace takes over what a member has reserved now.
func (r reservations) replace(m *member, keys []work.Key) {
	for _, key := range m.reserved {
		if r[key] == m {
			delete(r, key)
		}
	}
	for _, key := range keys {
		r[key] = m
	}
	m.reserved = keys
}

// add notes what a member has just accepted.
func (r reservations) add(m *member, works []*work.Work) {
	for _, w := range works {
		r[w.Key()] = m
		m.reserved = append(m.reserved, w.Key())
	}
}

// reservationLife is how long a cell keeps room for work that it does not begin with (executor.reserved_expiration, one minute),
// and a little more. What a cell said longer ago than that tells nothing.
const reservationLife = 70 * time.Second

// Reservation says whether a cell holds room for a piece of work and has not begun with it.
type Reservation int

// The reservations.
const (
	// NotReserved work has no place, or its place is on a cell that does not answer.
	NotReserved Reservation = iota
	// WasReserved work had a place before the time in question; what has become of it, the next state of its cell tells.
	WasReserved
	// StillReserved work had its place at the time in question or later.
	StillReserved
)

// Reservation tells about a piece of work that was asked for at a time.
func (f *Fleet) Reservation(key work.Key, asked time.Time) Reservation {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m := f.reserved[key]; {
	case m == nil, m.failures > 0, time.Since(m.trueAt) > reservationLife:
		return NotReserved
	case m.trueAt.Before(asked):
		return WasReserved
	default:
		return StillReserved
	}
}

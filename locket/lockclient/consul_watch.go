package lockclient

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"
)

const (
	// consulWait is how long a blocking query waits for news. Consul adds up to a sixteenth.
	consulWait = 10 * time.Second
	// consulSilence is when a query that should have been answered by then is given up.
	consulSilence = consulWait + consulWait/16 + 4*time.Second
	// markerAge is ample for every watch to have seen the mark: one that has not takes the release for an
	// expiry.
	markerAge = 10 * time.Minute
	// queriesPerSecond and queryBurst pace the queries: some changes wake a query without being news for
	// it, and a prefix without keys is woken by every change.
	queriesPerSecond = 20
	queryBurst       = 5
)

// Watch implements Backend, by blocking queries. Those tell what is, not what has happened; the changes
// are found by comparing one answer with the next. What can be known of a holder that is gone:
//
//   - released, if the entry is still there and marked, or if its successor's entry says so;
//   - expired, if the session of a lock ended or a contender took it over (the successor's entry says
//     which), or if the entry of a presence has vanished, which Consul does when its session ends. A
//     presence that an operator deletes looks the same.
//
// When several holders come and go between two answers, those in the middle are not told; the end of
// the first is told as an expiry for a lock, and as a take-over for a presence.
func (c *consul) Watch(ctx context.Context, filter Filter, handle func(Event)) error {
	w := &consulWatch{store: c, filter: filter, handle: handle, markers: map[string]marker{}}
	pace := rate.NewLimiter(queriesPerSecond, queryBurst)
	index := uint64(0)
	for {
		if err := pace.Wait(ctx); err != nil {
			return watchEnd(ctx, err)
		}
		pairs, next, err := c.list(ctx, filter.Prefix, index)
		if err != nil {
			return watchEnd(ctx, err)
		}
		// An index that goes back means another history: a restored snapshot. The next query asks for
		// what is, as the first did.
		if next < index {
			next = 0
		}
		index = next
		w.take(pairs)
		if ctx.Err() != nil {
			return watchEnd(ctx, ctx.Err())
		}
		w.sweep(ctx)
	}
}

// list returns the entries below prefix, when something has changed since index.
func (c *consul) list(ctx context.Context, prefix string, index uint64) (api.KVPairs, uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, consulSilence, errSilent)
	defer cancel()
	pairs, meta, err := c.client.KV().List(c.claimKey(prefix), (&api.QueryOptions{
		WaitIndex: index, WaitTime: consulWait,
	}).WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		return nil, 0, fmt.Errorf("listing %q in consul: %w", c.claimKey(prefix), err)
	}
	return pairs, max(meta.LastIndex, 1), nil // 0 would not block
}

// consulWatch turns one answer after the other into events.
type consulWatch struct {
	store   *consul
	filter  Filter
	handle  func(Event)
	known   map[string]record // what the handler was told is held; nil before the first answer
	markers map[string]marker
}

// marker is the entry of a released presence.
type marker struct {
	index uint64
	since time.Time
}

// take tells what pairs has that the answer before had not.
func (w *consulWatch) take(pairs api.KVPairs) {
	now := map[string]record{}
	markers := map[string]marker{}
	for _, pair := range pairs {
		r := decodeRecord(strings.TrimPrefix(pair.Key, w.store.claimKey("")), pair)
		if !r.readable || r.claimType() != w.filter.Type {
			continue
		}
		now[r.key] = r
		if !r.held() && r.Released && r.claimType() == TypePresence {
			markers[r.key] = w.marked(r)
		}
	}
	w.markers = markers
	first := w.known == nil
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		was := w.known[key]
		w.compare(was, now[key])
		if is := now[key]; is.held() {
			w.known[key] = is
		} else {
			delete(w.known, key)
		}
	}
	if first {
		w.known = map[string]record{}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if _, old := w.known[key]; !old && now[key].held() {
			w.known[key] = now[key]
			w.handle(Event{Kind: Acquired, Held: now[key].asHeld()})
		}
	}
	if first {
		w.handle(Event{Kind: Synced})
	}
}

// compare tells what has become of a claim that was held.
func (w *consulWatch) compare(was, is record) {
	switch {
	case is.held() && is.Token == was.Token:
		if is.Value != was.Value {
			w.handle(Event{Kind: Updated, Held: is.asHeld()})
		}
	case is.held():
		if kind, told := endOf(was, is); told {
			w.handle(Event{Kind: kind, Held: was.asHeld()})
		}
		w.handle(Event{Kind: Acquired, Held: is.asHeld()})
	case is.readable && is.Released && is.Owner == was.Owner:
		w.handle(Event{Kind: Released, Held: was.asHeld()})
	default:
		w.handle(Event{Kind: Expired, Held: was.asHeld()})
	}
}

// endOf returns how the holder of was ended, of which no answer told, from what the present holder's
// entry says. A take-over is no event of its own.
func endOf(was, is record) (kind EventKind, told bool) {
	switch {
	case is.After != nil && is.After.Owner == was.Owner && is.After.How == endReleased:
		return Released, true
	case is.After != nil && is.After.Owner == was.Owner && is.After.How == endReplaced:
		return 0, false
	case is.After != nil && is.After.Owner != was.Owner && is.claimType() == TypePresence:
		return 0, false
	default:
		return Expired, true
	}
}

func (w *consulWatch) marked(r record) marker {
	if seen, ok := w.markers[r.key]; ok && seen.index == r.index {
		return seen
	}
	return marker{index: r.index, since: time.Now()}
}

// sweep removes the entries of presences that were released long ago, which nobody else does: a cell
// that was removed does not come back. An entry that has changed meanwhile stays, and if nothing can
// be removed, as with a token that may only read, the next watch will try.
func (w *consulWatch) sweep(ctx context.Context) {
	for key, m := range w.markers {
		if time.Since(m.since) < w.store.markerAge {
			continue
		}
		ctx, cancel := withDeadline(ctx)
		_, _, _ = w.store.client.KV().DeleteCAS(&api.KVPair{Key: w.store.claimKey(key), ModifyIndex: m.index}, (&api.WriteOptions{}).WithContext(ctx)) // see above
		cancel()
		delete(w.markers, key)
	}
}

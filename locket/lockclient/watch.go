package lockclient

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
)

// PresenceEvent is what a watcher of presences is told.
type PresenceEvent struct {
	// Kind is Acquired for a presence that is new or has a new holder, Updated for a new value,
	// Released for a clean stop, Expired for a holder that went silent, and Synced when the watch
	// has caught up, at its beginning and after each interruption.
	Kind EventKind
	// Held is the presence after the event; as it was before for Released and Expired; unset for
	// Synced.
	Held Held
	// Inferred marks an event of which the watch was not told, because it happened during an
	// interruption: it follows from comparing before and after. A presence that disappeared then
	// is told as Expired, although it may have been released.
	Inferred bool
	// All has every presence that is held now, in key order. Only for Synced.
	All []Held
}

// WatchPresences calls handle for every change of presences, one at a time and in order, until ctx
// ends; it returns the cause of ctx then. handle must not block for long: a watcher that falls far
// behind is cut off and starts anew.
//
// When the stream breaks it connects again, compares what is held with what it had told, tells the
// differences (Inferred) and then Synced with the full set. So a handler that applies the events
// always ends up with the present set, and one that trusts only Synced does too.
func WatchPresences(ctx context.Context, backend Backend, log *slog.Logger, handle func(PresenceEvent)) error {
	w := &presenceWatch{known: map[string]Held{}, handle: handle}
	follow(ctx, log, func(progress func()) error {
		w.begin()
		err := backend.Watch(ctx, Filter{Type: TypePresence}, func(e Event) {
			progress()
			w.apply(e)
		})
		if ctx.Err() == nil {
			log.InfoContext(ctx, "presence-watch-interrupted", "error", err)
		}
		return err
	})
	return context.Cause(ctx)
}

// presenceWatch turns the streams of one watch after the other into one sequence of events.
type presenceWatch struct {
	known  map[string]Held // what the handler was told is held
	fresh  map[string]Held // what the present stream said before it was synced; nil after that
	resync bool            // a stream before this one was synced
	handle func(PresenceEvent)
}

// begin starts a stream. What an unfinished one said is forgotten.
func (w *presenceWatch) begin() { w.fresh = map[string]Held{} }

func (w *presenceWatch) apply(e Event) {
	switch {
	case e.Kind == Synced:
		w.synced()
	case w.fresh != nil:
		w.fresh[e.Held.Key] = e.Held
	case e.Kind == Released || e.Kind == Expired:
		delete(w.known, e.Held.Key)
		w.handle(PresenceEvent{Kind: e.Kind, Held: e.Held})
	default:
		w.known[e.Held.Key] = e.Held
		w.handle(PresenceEvent{Kind: e.Kind, Held: e.Held})
	}
}

// synced tells the differences between what was known and what the stream began with: first who is
// gone, so that a handler never counts a cell and its successor at once.
func (w *presenceWatch) synced() {
	before, now := w.known, w.fresh
	w.known, w.fresh = now, nil
	for _, held := range inKeyOrder(before) {
		if _, still := now[held.Key]; !still {
			w.handle(PresenceEvent{Kind: Expired, Held: held, Inferred: true})
		}
	}
	all := inKeyOrder(now)
	for _, held := range all {
		was, known := before[held.Key]
		switch {
		case !known || was.Token != held.Token:
			w.handle(PresenceEvent{Kind: Acquired, Held: held, Inferred: w.resync})
		case !bytes.Equal(was.Value, held.Value):
			w.handle(PresenceEvent{Kind: Updated, Held: held, Inferred: true})
		}
	}
	w.handle(PresenceEvent{Kind: Synced, All: all})
	w.resync = true
}

func inKeyOrder(set map[string]Held) []Held {
	return slices.SortedFunc(maps.Values(set), func(a, b Held) int { return cmp.Compare(a.Key, b.Key) })
}

package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// What became of a record that is watched.
const (
	listedNow = "listed"  // it was there when the watch began
	added     = "added"   // it is new, or has come to fulfil the filters
	altered   = "changed" //
	removed   = "removed" // it is gone, or fulfils the filters no longer
)

// watched is a record of a list that is followed.
type watched[T any] struct {
	Change string `json:"change"`
	Record T      `json:"record"`
}

// watchedColumns are those of the list behind what became of the record.
func watchedColumns[T any](columns []output.Column[T]) []output.Column[watched[T]] {
	out := []output.Column[watched[T]]{{Name: "CHANGE", Cell: func(w watched[T]) string { return w.Change }, Mood: changeMood}}
	for _, column := range columns {
		out = append(out, output.Column[watched[T]]{
			Name: column.Name, Right: column.Right, Wide: column.Wide, ID: column.ID, Mood: column.Mood, Cell: func(w watched[T]) string { return column.Cell(w.Record) },
		})
	}
	return out
}

func changeMood(change string) output.Mood {
	switch change {
	case added, "acquired":
		return output.Good
	case altered, "updated":
		return output.Warning
	case removed, "released", "expired":
		return output.Bad
	default:
		return output.Faint
	}
}

// watching says how to follow a list of T: pick takes its records out of a snapshot, moved what an event makes of one of them. Of
// a record that the event made there is no before, of one that it removed no after.
type watching[T any] struct {
	columns []output.Column[T]
	match   func(T) bool
	pick    func(*bbsv1.WatchResponse_SnapshotChunk) []T
	moved   func(*bbsv1.Event) (before, after *T)
}

// watchList prints the list and then each change of it, until it is interrupted. It polls nothing.
func watchList[T any](ctx context.Context, a *app, conn grpc.ClientConnInterface, request *bbsv1.WatchRequest, w watching[T]) error {
	p := printer(a, watchedColumns(w.columns)...)
	request.Start = &bbsv1.WatchRequest_Snapshot{Snapshot: true}
	f := &feed{app: a, request: request}
	f.reset = func(_ uint64, reason bbsv1.WatchResponse_Reason) error {
		a.now = time.Now()
		if reason == bbsv1.WatchResponse_REASON_LOG_TRUNCATED {
			a.complain(fmt.Errorf("the log no longer holds what came after revision %d; the list begins again", f.last))
		}
		return nil
	}
	f.chunk = func(chunk *bbsv1.WatchResponse_SnapshotChunk) error {
		for _, record := range w.pick(chunk) {
			if !w.match(record) {
				continue
			}
			if err := p.Print(watched[T]{listedNow, record}); err != nil {
				return err
			}
		}
		return nil
	}
	f.synced = p.Flush
	f.event = func(event *bbsv1.Event, _ change) error {
		shown, record := w.becomes(event)
		if shown == "" {
			return nil
		}
		a.now = time.Now() // ages are as of each change
		return errors.Join(p.Print(watched[T]{shown, *record}), p.Flush())
	}
	return f.run(ctx, bbsv1.NewWatchClient(conn))
}

// becomes says what an event does to the list, with the filters applied on both sides of the change.
func (w watching[T]) becomes(event *bbsv1.Event) (shown string, record *T) {
	before, after := w.moved(event)
	was, is := before != nil && w.match(*before), after != nil && w.match(*after)
	switch {
	case was && is:
		return altered, after
	case is:
		return added, after
	case was && after != nil:
		return removed, after
	case was:
		return removed, before
	default:
		return "", nil
	}
}

package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

// Pauses between attempts to take up a stream again.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// errEnough is what a handler of a feed returns when it needs to see no more.
var errEnough = errors.New("enough")

// change is the batch that an event came with.
type change struct {
	revision uint64
	at       time.Time
}

// feed reads a watch of the BBS and remembers how far it is, so that no event is left out and none is handed over twice when the
// stream breaks, also in the middle of a revision whose events came in several messages. Its handlers may be nil; what they return
// ends it, as an error or, if that is errEnough, well.
type feed struct {
	app     *app
	request *bbsv1.WatchRequest

	// reset: what was known is void, a snapshot follows.
	reset func(revision uint64, reason bbsv1.WatchResponse_Reason) error
	chunk func(*bbsv1.WatchResponse_SnapshotChunk) error
	// synced: the snapshot is complete.
	synced func() error
	// began: the watch begins after this bookmark.
	began func(*bbsv1.WatchResponse_Bookmark) error
	event func(*bbsv1.Event, change) error

	// last is the newest revision of which everything is handed over; 0 before the first message.
	last uint64
	// part is the revision that is not complete yet; done of its events are handed over, seen have come on this stream.
	part       uint64
	done, seen int
	started    bool
}

// run takes the stream up again from the last revision whenever it breaks. It gives up when no BBS serves it for the time of a
// request, or at once when the BBS refuses.
func (f *feed) run(ctx context.Context, client bbsv1.WatchClient) error {
	heard, pause := time.Now(), firstPause
	for {
		if f.last > 0 {
			f.request.Start = &bbsv1.WatchRequest_AfterRevision{AfterRevision: f.last}
		}
		f.seen = 0
		var failed error // of our own output
		err := f.stream(ctx, client, func(message *bbsv1.WatchResponse) error {
			heard, pause = time.Now(), firstPause
			failed = f.take(message)
			return failed
		})
		switch {
		case errors.Is(failed, errEnough):
			return nil
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil || !passing(err), time.Since(heard) > f.app.flags.requestTime():
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
			pause = min(2*pause, maxPause)
		}
		timer.Stop()
	}
}

// stream reads one stream to its end. It is for the loop around it to try again and to lose patience, so the client, which
// would try for ten seconds whatever our limit is, gets no buffer to repeat a request from and no more time than a request.
func (f *feed) stream(ctx context.Context, client bbsv1.WatchClient, take func(*bbsv1.WatchResponse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(f.app.flags.requestTime(), func() { cancel(errSilent) })
	stream, err := client.Watch(ctx, f.request, grpc.MaxRetryRPCBufferSize(0))
	patience.Stop()
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return follow(stream, err, take)
}

// passing says whether a stream may work at the next attempt.
func passing(err error) bool {
	switch fault.Code(err) { //nolint:exhaustive // the others are refusals
	case codes.Unavailable, codes.Aborted, codes.Internal, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return true
	default:
		return false
	}
}

func (f *feed) take(message *bbsv1.WatchResponse) error {
	first := !f.started
	f.started = true
	switch m := message.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotStart_:
		if f.reset != nil {
			return f.reset(m.SnapshotStart.GetRevision(), m.SnapshotStart.GetReason())
		}
	case *bbsv1.WatchResponse_SnapshotChunk_:
		if f.chunk != nil {
			return f.chunk(m.SnapshotChunk)
		}
	case *bbsv1.WatchResponse_SnapshotEnd_:
		f.last = m.SnapshotEnd.GetRevision()
		if f.synced != nil {
			return f.synced()
		}
	case *bbsv1.WatchResponse_Bookmark_:
		f.last = max(f.last, m.Bookmark.GetRevision())
		if first && f.began != nil {
			return f.began(m.Bookmark)
		}
	case *bbsv1.WatchResponse_Changes_:
		return f.changes(m.Changes)
	}
	return nil
}

func (f *feed) changes(changes *bbsv1.WatchResponse_Changes) error {
	if changes.GetRevision() != f.part {
		f.part, f.done, f.seen = changes.GetRevision(), 0, 0
	}
	in := change{revision: changes.GetRevision(), at: changes.GetCommittedAt().AsTime()}
	for _, event := range changes.GetEvents() {
		f.seen++
		if f.seen <= f.done {
			continue // it was handed over before the stream broke
		}
		if err := f.event(event, in); err != nil {
			return err
		}
		f.done = f.seen
	}
	if !changes.GetMore() {
		f.last, f.part = changes.GetRevision(), 0
	}
	return nil
}

// complainOfGap is the handler of reset for those who want events only.
func (f *feed) complainOfGap(revision uint64, reason bbsv1.WatchResponse_Reason) error {
	if reason == bbsv1.WatchResponse_REASON_LOG_TRUNCATED {
		f.app.complain(fmt.Errorf("the log no longer holds what came after revision %d; events go on after revision %d", f.last, revision))
	}
	return nil
}

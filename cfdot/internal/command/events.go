package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

func (a *app) events() []*cobra.Command {
	lrps := a.eventCommand("lrp-events", "Follow what happens to LRPs and their instances", bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP)
	// The streams of groups that this flag left out exist no more; it is accepted because scripts give it.
	lrps.Flags().BoolP("exclude-actual-lrp-groups", "x", false, "accepted for scripts; there are no group events")
	return []*cobra.Command{lrps, a.eventCommand("task-events", "Follow what happens to tasks", bbsv1.WatchKind_WATCH_KIND_TASK)}
}

func (a *app) eventCommand(name, short string, kinds ...bbsv1.WatchKind) *cobra.Command {
	var cell, process string
	var after uint64
	var limit time.Duration
	command := &cobra.Command{
		Use: name, Short: short, Args: exactly(),
		Long: short + `, as lines of JSON with the revision of each change.
A stream that breaks off is taken up again without a gap; --after takes up an earlier one.`,
	}
	command.Flags().StringVarP(&cell, "cell-id", "c", "", "only of this cell")
	command.Flags().StringVarP(&process, "process-guid", "p", "", "only of this process")
	command.Flags().Uint64Var(&after, "after", 0, "only changes after this revision; default those from now on")
	command.Flags().DurationVar(&limit, "for", 0, "end after this time; 0 is never")
	command.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := a.flags.dialBBS()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		ctx := c.Context()
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		request := &bbsv1.WatchRequest{Kinds: kinds, CellId: cell}
		if process != "" {
			request.ProcessGuids = []string{process}
		}
		w := &watcher{app: a, request: request, last: after, printer: output.New[spec.Event](output.Options{Format: output.JSON, Out: a.Stdout})}
		err = w.watch(ctx, bbsv1.NewWatchClient(conn))
		if limit > 0 && c.Context().Err() == nil && ctx.Err() != nil {
			return nil
		}
		return err
	}
	return command
}

// Pauses between attempts to take up a stream again.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// watcher prints events and remembers how far it is, so that nothing is left out and nothing printed twice when the stream
// breaks, also in the middle of a revision whose events came in several messages.
type watcher struct {
	app     *app
	request *bbsv1.WatchRequest
	printer *output.Printer[spec.Event]

	// last is the newest revision of which everything is printed; 0 before the first message.
	last uint64
	// part is the revision that is not complete yet; printed of its events are printed, seen have come on this stream.
	part          uint64
	printed, seen int
}

// watch takes the stream up again from the last revision whenever it breaks. It gives up when no BBS serves it for the time
// of a request, or at once when the BBS refuses.
func (w *watcher) watch(ctx context.Context, client bbsv1.WatchClient) error {
	heard, pause := time.Now(), firstPause
	for {
		if w.last > 0 {
			w.request.Start = &bbsv1.WatchRequest_AfterRevision{AfterRevision: w.last}
		}
		w.seen = 0
		var failed error // of our own output
		err := w.stream(ctx, client, func(message *bbsv1.WatchResponse) error {
			heard, pause = time.Now(), firstPause
			failed = w.take(message)
			return failed
		})
		switch {
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil || !passing(err), time.Since(heard) > w.app.flags.requestTime():
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
func (w *watcher) stream(ctx context.Context, client bbsv1.WatchClient, take func(*bbsv1.WatchResponse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(w.app.flags.requestTime(), func() { cancel(errSilent) })
	stream, err := client.Watch(ctx, w.request, grpc.MaxRetryRPCBufferSize(0))
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

func (w *watcher) take(message *bbsv1.WatchResponse) error {
	switch m := message.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotStart_:
		if m.SnapshotStart.GetReason() == bbsv1.WatchResponse_REASON_LOG_TRUNCATED {
			w.app.complain(fmt.Errorf("the log no longer holds what came after revision %d; events go on after revision %d", w.last, m.SnapshotStart.GetRevision()))
		}
	case *bbsv1.WatchResponse_SnapshotEnd_:
		w.last = m.SnapshotEnd.GetRevision()
	case *bbsv1.WatchResponse_Bookmark_:
		w.last = max(w.last, m.Bookmark.GetRevision())
	case *bbsv1.WatchResponse_Changes_:
		return w.print(m.Changes)
	}
	return nil
}

func (w *watcher) print(changes *bbsv1.WatchResponse_Changes) error {
	if changes.GetRevision() != w.part {
		w.part, w.printed, w.seen = changes.GetRevision(), 0, 0
	}
	for _, event := range changes.GetEvents() {
		w.seen++
		if w.seen <= w.printed {
			continue // it was printed before the stream broke
		}
		if shown, known := spec.EventOf(event); known {
			shown.Revision, shown.At = changes.GetRevision(), changes.GetCommittedAt().AsTime().UnixNano()
			if err := w.printer.Print(shown); err != nil {
				return err
			}
		}
		w.printed = w.seen
	}
	if !changes.GetMore() {
		w.last, w.part = changes.GetRevision(), 0
	}
	return nil
}

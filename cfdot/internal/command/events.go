package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
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
		Example: "  cfdot " + name + " | jq -c '[.revision, .type]'",
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
		err = a.follow(ctx, conn, request, after)
		if limit > 0 && c.Context().Err() == nil && ctx.Err() != nil {
			return nil
		}
		return err
	}
	return command
}

// follow prints events and takes the stream up again from the last revision when it breaks. It gives up when no BBS serves
// the stream for the time of a request.
func (a *app) follow(ctx context.Context, conn *grpc.ClientConn, request *bbsv1.WatchRequest, last uint64) error {
	p := output.New[spec.Event](output.Options{Format: output.JSON, Out: a.Stdout})
	lastHeard := time.Now()
	pause := 100 * time.Millisecond
	for {
		if last > 0 {
			request.Start = &bbsv1.WatchRequest_AfterRevision{AfterRevision: last}
		}
		stream, err := bbsv1.NewWatchClient(conn).Watch(ctx, request)
		printed := error(nil)
		err = receive(stream, err, func(message *bbsv1.WatchResponse) error {
			lastHeard, pause = time.Now(), 100*time.Millisecond
			var revision uint64
			revision, printed = a.printMessage(p, message)
			last = max(last, revision)
			return printed
		})
		switch {
		case printed != nil:
			return printed
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			return nil
		case a.flags.limit > 0 && time.Since(lastHeard) > a.flags.limit:
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
			pause = min(2*pause, 2*time.Second)
		}
		timer.Stop()
	}
}

// printMessage returns the revision up to which everything has been printed, or 0.
func (a *app) printMessage(p *output.Printer[spec.Event], message *bbsv1.WatchResponse) (uint64, error) {
	switch m := message.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotStart_:
		if m.SnapshotStart.GetReason() == bbsv1.WatchResponse_REASON_LOG_TRUNCATED {
			fmt.Fprintf(a.Stderr, "the log no longer holds what came after the revision asked for; events begin after revision %d\n", m.SnapshotStart.GetRevision())
		}
	case *bbsv1.WatchResponse_SnapshotEnd_:
		return m.SnapshotEnd.GetRevision(), nil
	case *bbsv1.WatchResponse_Bookmark_:
		return m.Bookmark.GetRevision(), nil
	case *bbsv1.WatchResponse_Changes_:
		for _, event := range m.Changes.GetEvents() {
			shown, known := spec.EventOf(event)
			if !known {
				continue
			}
			shown.Revision, shown.At = m.Changes.GetRevision(), m.Changes.GetCommittedAt().AsTime().UnixNano()
			if err := p.Print(shown); err != nil {
				return 0, err
			}
		}
		if !m.Changes.GetMore() {
			return m.Changes.GetRevision(), nil
		}
	}
	return 0, nil
}

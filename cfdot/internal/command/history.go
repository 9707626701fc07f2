package command

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	"diego.internal/cfdot/internal/story"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

// usualHistory is how far back people are shown events unless they say otherwise. The log holds at least as much by default.
const usualHistory = time.Hour

// errNoHistory is for a BBS of an earlier release, which would take the question for one about the future.
var errNoHistory = fault.New(codes.Unimplemented, "NoHistory", "this BBS cannot tell what happened since a time; ask by revision with lrp-events --after")

func (a *app) history() *cobra.Command {
	var e eventFlags
	var domain string
	var since time.Duration
	var watch, bad bool
	command := &cobra.Command{
		Use: "events [GUID]", Short: "What happened to a process, a task or everything, and when", Args: atMostOne("GUID"),
		Long: `Tell what happened in the last hour, or since --since, oldest first. For people, what happened again and again to the same
instance for the same reason is one row with a count; lines of JSON are the events themselves. The BBS keeps at least an hour of
its log; if less than was asked for is there, standard error says from when on it is complete.`,
		Example: "  cfdot events my-app --since 15m\n  cfdot events my-app --bad --watch\n  cfdot events -c cell-1 -o json | jq -c '[.at, .type]'",
	}
	e.register(command)
	command.Flags().StringVarP(&domain, "domain", "d", "", "only of this domain")
	command.Flags().DurationVar(&since, "since", usualHistory, "how far back")
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what is to come")
	command.Flags().BoolVar(&bad, "bad", false, "only crashes, refusals, lost cells, failed tasks and stale domains (for people)")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		if since <= 0 {
			return usage("--since must be more than 0, is %v", since)
		}
		request := &bbsv1.WatchRequest{CellId: e.cell, Domain: domain}
		for _, guid := range append(args, e.process) {
			if guid != "" {
				request.ProcessGuids = append(request.ProcessGuids, guid)
			}
		}
		until, err := a.showPast(ctx, conn, request, since, bad)
		if err != nil || !watch {
			return err
		}
		request.UntilNewest = false
		return a.follow(ctx, conn, &feed{app: a, request: request, last: until}, e)
	})
	return command
}

// past hands over what happened since a time ago and passes the filters of the request, and returns from when on nothing is
// missing and the revision that comes before the future.
func (a *app) past(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.WatchRequest, since time.Duration, take func(*bbsv1.Event, change) error) (complete time.Time, until uint64, err error) {
	asked := a.now.Add(-since)
	request.Start, request.UntilNewest = &bbsv1.WatchRequest_Since{Since: timestamppb.New(asked)}, true
	f := &feed{app: a, request: request, event: take}
	f.reset = f.complainOfGap
	f.began = func(first *bbsv1.WatchResponse_Bookmark) error {
		if first.GetCompleteSince() == nil {
			return errNoHistory
		}
		complete = first.GetCompleteSince().AsTime()
		return nil
	}
	err = f.run(ctx, bbsv1.NewWatchClient(conn))
	return complete, f.last, err
}

// mostLines are held to be gathered for people; of more, the newest count.
const mostLines = 20_000

// pastLines are the sentences of what happened.
func (a *app) pastLines(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.WatchRequest, since time.Duration) (lines []story.Line, complete time.Time, until uint64, err error) {
	var cut time.Time
	complete, until, err = a.past(ctx, conn, request, since, func(event *bbsv1.Event, in change) error {
		line, known := story.Of(event, in.revision, in.at)
		if !known {
			return nil
		}
		if len(lines) == 2*mostLines {
			lines = append(lines[:0], lines[mostLines:]...)
			cut = lines[0].At
		}
		lines = append(lines, line)
		return nil
	})
	if cut.After(complete) {
		complete = cut
	}
	return story.Gather(lines), complete, until, err
}

// showPast prints the events as they are read, or a table of sentences for people.
func (a *app) showPast(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.WatchRequest, since time.Duration, bad bool) (until uint64, err error) {
	if !a.flags.format.ForPeople() {
		show := a.eventPrinter()
		complete, until, err := a.past(ctx, conn, request, since, func(event *bbsv1.Event, in change) error {
			shown, known := spec.EventOf(event)
			if !known {
				return nil
			}
			shown.Revision, shown.At = in.revision, in.at.UnixNano()
			return show(shown, event, in)
		})
		a.sayComplete(complete, since)
		return until, err
	}
	lines, complete, until, err := a.pastLines(ctx, conn, request, since)
	if err != nil {
		return 0, err
	}
	a.sayComplete(complete, since)
	return until, printAll(printer(a, a.storyColumns()...), each(onlyBad(lines, bad)))
}

// sayComplete says it if there was less to be read than was asked for.
func (a *app) sayComplete(complete time.Time, since time.Duration) {
	if ago := a.now.Sub(complete); !complete.IsZero() && ago < since-time.Second {
		a.complain(fmt.Errorf("the log reaches back %s only, to %s", output.Duration(ago), complete.Local().Format(time.DateTime)))
	}
}

func onlyBad(lines []story.Line, only bool) []story.Line {
	if !only {
		return lines
	}
	var out []story.Line
	for _, line := range lines {
		if line.Bad {
			out = append(out, line)
		}
	}
	return out
}

func (a *app) storyColumns() []output.Column[story.Line] {
	return []output.Column[story.Line]{
		{Name: "AGO", Right: true, Cell: func(l story.Line) string { return output.Duration(a.now.Sub(l.At)) }},
		{Name: "TIME", Wide: true, Cell: func(l story.Line) string { return l.At.Local().Format("2006-01-02T15:04:05.000-0700") }},
		{Name: "COUNT", Right: true, Cell: func(l story.Line) string {
			if l.Count < 2 {
				return ""
			}
			return strconv.Itoa(l.Count)
		}},
		{Name: "SUBJECT", ID: true, Cell: func(l story.Line) string { return l.Subject }},
		{Name: "EVENT", Cell: func(l story.Line) string { return l.What }},
		{Name: "CELL", Cell: func(l story.Line) string { return l.CellID }},
		{Name: "REASON", Cell: func(l story.Line) string { return l.Reason }, Mood: func(string) output.Mood { return output.Bad }},
		{Name: "REVISION", Wide: true, Right: true, Cell: func(l story.Line) string { return strconv.FormatUint(l.Revision, 10) }},
		{Name: "REQUEST", Wide: true, Cell: func(l story.Line) string { return l.TraceID }},
	}
}

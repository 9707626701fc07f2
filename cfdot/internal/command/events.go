package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/fieldpath"
	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/selection"
	"diego.internal/cfdot/internal/spec"
	"diego.internal/cfdot/internal/story"
	bbsv1 "diego.internal/proto/bbs/v1"
)

func (a *app) events() []*cobra.Command {
	lrps := a.eventCommand("lrp-events", "Follow what happens to LRPs and their instances", bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP)
	// The streams of groups that this flag left out exist no more; it is accepted because scripts give it.
	lrps.Flags().BoolP("exclude-actual-lrp-groups", "x", false, "accepted for scripts; there are no group events")
	return []*cobra.Command{lrps, a.eventCommand("task-events", "Follow what happens to tasks", bbsv1.WatchKind_WATCH_KIND_TASK), a.history()}
}

// eventFlags choose what a stream shows and when it ends.
type eventFlags struct {
	cell, process string
	until         string
	limit         time.Duration
}

func (e *eventFlags) register(command *cobra.Command) {
	command.Flags().StringVarP(&e.cell, "cell-id", "c", "", "only of this cell")
	command.Flags().StringVarP(&e.process, "process-guid", "p", "", "only of this process")
	command.Flags().DurationVar(&e.limit, "for", 0, "end after this time; 0 is never")
	command.Flags().StringVar(&e.until, "until", "", "end after the first event of which this holds, as state=RUNNING or type=task_removed; PATH=VALUE or PATH!=VALUE, separated by commas; exit 7 if --for is over before")
}

func (a *app) eventCommand(name, short string, kinds ...bbsv1.WatchKind) *cobra.Command {
	var e eventFlags
	var after uint64
	command := &cobra.Command{
		Use: name, Short: short, Args: exactly(),
		Long: short + `, as lines of JSON with the revision of each change, or as sentences on a terminal.
A stream that breaks off is taken up again without a gap; --after takes up an earlier one.`,
	}
	e.register(command)
	command.Flags().Uint64Var(&after, "after", 0, "only changes after this revision; default those from now on")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
		request := &bbsv1.WatchRequest{Kinds: kinds, CellId: e.cell}
		if e.process != "" {
			request.ProcessGuids = []string{e.process}
		}
		return a.follow(ctx, conn, &feed{app: a, request: request, last: after}, e)
	})
	return command
}

// follow prints events until the flags or the server say that it is enough.
func (a *app) follow(ctx context.Context, conn grpc.ClientConnInterface, f *feed, e eventFlags) error {
	until, err := selection.ParseUntil(e.until)
	if err != nil {
		return usage("--until: %w", err)
	}
	if e.limit < 0 {
		return usage("--for must not be negative, is %v", e.limit)
	}
	limited := ctx
	if e.limit > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, e.limit)
		defer cancel()
	}
	show := a.eventPrinter()
	f.reset = f.complainOfGap
	f.event = func(event *bbsv1.Event, in change) error {
		shown, known := spec.EventOf(event)
		if !known {
			return nil
		}
		shown.Revision, shown.At = in.revision, in.at.UnixNano()
		if err := show(shown, event, in); err != nil || len(until) == 0 {
			return err
		}
		return enough(until, shown)
	}
	err = f.run(limited, bbsv1.NewWatchClient(conn))
	if e.limit > 0 && ctx.Err() == nil && limited.Err() != nil {
		if len(until) > 0 {
			return late("no event fulfilled %q in %v", e.until, e.limit)
		}
		return nil
	}
	return err
}

// enough looks at the event itself, at its data and at the record as it is after the change.
func enough(until selection.Until, e spec.Event) error {
	var documents []fieldpath.Document
	for _, part := range []any{e, e.Data, e.Record} {
		document, err := fieldpath.Of(part)
		if err != nil {
			return err
		}
		documents = append(documents, document)
	}
	if until.Match(documents...) {
		return errEnough
	}
	return nil
}

// eventPrinter makes what prints one event: a document, or a sentence for people.
func (a *app) eventPrinter() func(spec.Event, *bbsv1.Event, change) error {
	if !a.flags.format.ForPeople() {
		documents := printer(a, output.Column[spec.Event]{Name: "TYPE", Cell: func(e spec.Event) string { return e.Type }})
		return func(shown spec.Event, _ *bbsv1.Event, _ change) error {
			return printAll(documents, func(show func(spec.Event) error) error { return show(shown) })
		}
	}
	return func(_ spec.Event, event *bbsv1.Event, in change) error {
		line, known := story.Of(event, in.revision, in.at)
		if !known {
			return nil
		}
		return a.tell(line)
	}
}

// tell prints what happened as a line for people.
func (a *app) tell(line story.Line) error {
	text := output.Printable(line.What)
	if line.Bad {
		text = output.Paint(a.color(), output.Bad, text)
	}
	if line.Reason != "" {
		text += ": " + output.Printable(line.Reason)
	}
	_, err := fmt.Fprintf(a.Stdout, "%s  %s  %s\n", line.At.Local().Format("15:04:05.000"), output.Printable(line.Subject), text)
	return err
}

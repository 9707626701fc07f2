package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/cfdot/internal/output"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/servicekit/fault"
)

// logLine is one line of an application.
type logLine struct {
	At           int64             `json:"at"`
	CellID       string            `json:"cell_id"`
	Source       string            `json:"source"`
	Index        string            `json:"index,omitempty"`
	InstanceGUID string            `json:"instance_guid,omitempty"`
	Stream       string            `json:"stream"`
	Text         string            `json:"text"`
	Tags         map[string]string `json:"tags,omitempty"`
}

func (a *app) logs() []*cobra.Command {
	var follow, task bool
	var instance string
	var tail uint32
	var since time.Duration
	command := &cobra.Command{
		Use: "logs PROCESS_GUID|TASK_GUID", Short: "Show what an application or a task prints", Args: exactly("GUID"),
		Long:    "Show the lines that the cells keep of a process, a task or one instance, also of containers that ended a few minutes ago.",
		Example: "  cfdot logs my-app --follow\n  cfdot logs my-app --tail 20\n  cfdot logs my-task --task",
	}
	command.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the lines to come")
	command.Flags().BoolVar(&task, "task", false, "the guid is that of a task")
	command.Flags().StringVar(&instance, "instance", "", "only the container of this instance guid")
	command.Flags().Uint32Var(&tail, "tail", 0, "only so many of the last lines of each cell; 0 is all")
	command.Flags().DurationVar(&since, "since", 0, "only lines of this last time")
	command.RunE = func(c *cobra.Command, args []string) error {
		request := &repv1.FollowRequest{Container: &repv1.FollowRequest_ProcessGuid{ProcessGuid: args[0]}, Tail: tail, Follow: follow}
		switch {
		case instance != "":
			request.Container = &repv1.FollowRequest_InstanceGuid{InstanceGuid: instance}
		case task:
			request.Container = &repv1.FollowRequest_TaskGuid{TaskGuid: args[0]}
		}
		if since > 0 {
			request.Since = timestamppb.New(a.now.Add(-since))
		}
		return a.readLogs(c.Context(), request)
	}
	return []*cobra.Command{command}
}

// readLogs asks every cell, because only the cells know what has run on them.
func (a *app) readLogs(ctx context.Context, request *repv1.FollowRequest) error {
	conn, err := a.flags.dialBBS()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	bounded, cancel := a.flags.bounded(ctx)
	cells, err := presentCells(bounded, conn)
	cancel()
	if err != nil {
		return err
	}
	reader := &logReader{app: a, request: request, printer: output.New[logLine](output.Options{Format: output.JSON, Out: a.Stdout})}
	return reader.run(ctx, cells)
}

// logReader merges the lines of several cells.
type logReader struct {
	app     *app
	request *repv1.FollowRequest
	printer *output.Printer[logLine]

	mu     sync.Mutex
	kept   []cellLine // guarded by mu; printed at the end, by time, when nothing is followed
	found  bool       // guarded by mu
	failed []error    // guarded by mu
	closed error      // guarded by mu
}

type cellLine struct {
	cell string
	line *repv1.LogLine
}

func (r *logReader) run(ctx context.Context, cells []*bbsv1.Cell) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	for _, cell := range cells {
		group.Go(func() { r.read(ctx, cell, cancel) })
	}
	group.Wait()
	if r.closed != nil {
		return r.closed
	}
	slices.SortStableFunc(r.kept, func(x, y cellLine) int { return byTime(x.line, y.line) })
	for _, line := range r.kept {
		if err := r.print(line); err != nil {
			return err
		}
	}
	switch {
	case len(r.failed) > 0 && !r.found:
		return errors.Join(r.failed...)
	case len(r.failed) > 0:
		fmt.Fprintln(r.app.Stderr, errors.Join(r.failed...))
		return errPartial
	case !r.found && ctx.Err() == nil:
		return errNoLogs
	default:
		return nil
	}
}

var errNoLogs = fault.New(codes.NotFound, "ResourceNotFound", "no cell keeps a log of that")

func (r *logReader) read(ctx context.Context, cell *bbsv1.Cell, cancel context.CancelFunc) {
	presence := cell.GetPresence()
	conn, err := r.app.flags.dialCell(presence.GetCellId(), presence.GetRepAddress())
	if err != nil {
		r.fail(err)
		return
	}
	defer func() { _ = conn.Close() }()
	if !r.request.GetFollow() {
		var done context.CancelFunc
		ctx, done = r.app.flags.bounded(ctx)
		defer done()
	}
	stream, err := repv1.NewLogsClient(conn).Follow(ctx, r.request)
	err = receive(stream, err, func(chunk *repv1.FollowResponse) error {
		for _, line := range chunk.GetLines() {
			if err := r.take(cellLine{cell: presence.GetCellId(), line: line}); err != nil {
				cancel()
				return err
			}
		}
		return nil
	})
	if err != nil && fault.Code(err) != codes.NotFound && ctx.Err() == nil {
		r.fail(fmt.Errorf("reading the logs of cell %s: %w", presence.GetCellId(), err))
	}
}

func (r *logReader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

func (r *logReader) take(line cellLine) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = true
	if !r.request.GetFollow() {
		r.kept = append(r.kept, line)
		return nil
	}
	r.closed = r.print(line)
	return r.closed
}

func (r *logReader) print(l cellLine) error {
	line := l.line
	stream := "OUT"
	if line.GetStream() == repv1.LogLine_STREAM_STDERR {
		stream = "ERR"
	}
	if r.app.flags.format != output.JSON || r.app.flags.outputName == "" {
		// Lines of a log are for people, also in a pipe; JSON only when asked for.
		source := line.GetSource()
		if line.GetIndex() != "" {
			source += "/" + line.GetIndex()
		}
		_, err := fmt.Fprintf(r.app.Stdout, "%s [%s] %s %s\n", line.GetAt().AsTime().Local().Format("2006-01-02T15:04:05.00-0700"), source, stream, line.GetText())
		return err
	}
	return r.printer.Print(logLine{
		At: line.GetAt().AsTime().UnixNano(), CellID: l.cell, Source: line.GetSource(), Index: line.GetIndex(), InstanceGUID: line.GetInstanceGuid(),
		Stream: stream, Text: line.GetText(), Tags: line.GetTags(),
	})
}

package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
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
		Long: `Show the lines that the cells keep of a process, a task or one instance, also of containers that ended a few minutes ago.
Lines of several cells are merged by time. With --follow, only the cells that are present when the command begins are followed.`,
		Example: "  cfdot logs my-app --follow\n  cfdot logs my-app --tail 20\n  cfdot logs my-task --task",
	}
	command.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the lines to come")
	command.Flags().BoolVar(&task, "task", false, "the guid is that of a task")
	command.Flags().StringVar(&instance, "instance", "", "only the container of this instance guid")
	command.Flags().Uint32Var(&tail, "tail", 0, "only so many of the last lines of each cell; 0 is all")
	command.Flags().DurationVar(&since, "since", 0, "only lines of this last time")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
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
		return a.readLogs(ctx, conn, request)
	})
	return []*cobra.Command{command}
}

// readLogs asks every cell, because only the cells know what has run on them.
func (a *app) readLogs(ctx context.Context, conn grpc.ClientConnInterface, request *repv1.FollowRequest) error {
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return err
	}
	reader := &logReader{app: a, request: request, printer: output.New[logLine](output.Options{Format: output.JSON, Out: a.Stdout}), news: make(chan cellNews)}
	return reader.run(ctx, cells)
}

// mergeWindow is how long lines that are followed wait for older ones of other cells.
const mergeWindow = 200 * time.Millisecond

// logReader merges the lines of several cells by time: all of them at the end, or while it follows those of each window.
type logReader struct {
	app     *app
	request *repv1.FollowRequest
	printer *output.Printer[logLine]
	news    chan cellNews

	pending []cellNews
	found   bool
	failed  []error
}

// cellNews is a line of a cell, or why there are no more.
type cellNews struct {
	cell string
	line *repv1.LogLine
	err  error
}

var errNoLogs = fault.New(codes.NotFound, "ResourceNotFound", "no cell keeps a log of that")

func (r *logReader) run(ctx context.Context, cells []*bbsv1.Cell) error {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	for _, cell := range cells {
		group.Go(func() error {
			r.read(reading, cell)
			return nil
		})
	}
	go func() {
		_ = group.Wait() // its functions return nil
		close(r.news)
	}()
	closed := r.merge(cancel)
	switch {
	case closed != nil:
		return closed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(r.failed) > 0 && !r.found:
		return errors.Join(r.failed...)
	case len(r.failed) > 0:
		r.app.complain(errors.Join(r.failed...))
		return errPartial
	case !r.found:
		return errNoLogs
	default:
		return nil
	}
}

// merge takes what the cells send until all have ended. When nobody reads what it prints it cancels and says so.
func (r *logReader) merge(cancel context.CancelFunc) (closed error) {
	var window <-chan time.Time
	if r.request.GetFollow() {
		ticker := time.NewTicker(mergeWindow)
		defer ticker.Stop()
		window = ticker.C
	}
	for {
		select {
		case <-window:
			if closed == nil {
				if closed = r.flush(); closed != nil {
					cancel()
				}
			}
		case news, more := <-r.news:
			switch {
			case !more && closed == nil:
				return r.flush()
			case !more:
				return closed
			case news.err != nil:
				r.failed = append(r.failed, news.err)
			default:
				r.found = true
				r.pending = append(r.pending, news)
			}
		}
	}
}

// flush prints what waits, in order of time.
func (r *logReader) flush() error {
	slices.SortStableFunc(r.pending, func(x, y cellNews) int { return x.line.GetAt().AsTime().Compare(y.line.GetAt().AsTime()) })
	for _, line := range r.pending {
		if err := r.print(line); err != nil {
			return err
		}
	}
	r.pending = r.pending[:0]
	return nil
}

// read sends what one cell keeps. A cell that knows nothing of the container is no failure.
func (r *logReader) read(ctx context.Context, cell *bbsv1.Cell) {
	id := cell.GetPresence().GetCellId()
	conn, err := r.app.flags.dialCell(id, cell.GetPresence().GetRepAddress())
	if err != nil {
		r.news <- cellNews{cell: id, err: err}
		return
	}
	defer func() { _ = conn.Close() }()
	take := func(chunk *repv1.FollowResponse) error {
		for _, line := range chunk.GetLines() {
			r.news <- cellNews{cell: id, line: line}
		}
		return nil
	}
	client := repv1.NewLogsClient(conn)
	if r.request.GetFollow() {
		stream, open := client.Follow(ctx, r.request)
		err = follow(stream, open, take)
	} else {
		err = list(ctx, r.app.flags.requestTime(), func(ctx context.Context) (grpc.ServerStreamingClient[repv1.FollowResponse], error) {
			return client.Follow(ctx, r.request)
		}, take)
	}
	if err != nil && fault.Code(err) != codes.NotFound && ctx.Err() == nil {
		err = fmt.Errorf("Rep error: Failed to read the logs of cell %s: %w", id, err) //nolint:staticcheck // the words of the other rep errors
		r.news <- cellNews{cell: id, err: of(serverRep, err)}
	}
}

func (r *logReader) print(l cellNews) error {
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

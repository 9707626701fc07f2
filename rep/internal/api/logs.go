package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/executor"
	"diego.internal/executor/logs"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/rep/internal/applog"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
)

// maxLinesPerMessage bounds one message of a log stream.
const maxLinesPerMessage = 200

var errNoLog = fault.New(codes.NotFound, "ResourceNotFound", "this cell has no such container")

// Logs serves rep.v1.Logs.
type Logs struct {
	repv1.UnimplementedLogsServer

	Executor *executor.Client
	Finder   *applog.Finder
	// Stopping is closed when the process ends.
	Stopping <-chan struct{}
}

// Follow implements repv1.LogsServer. Without follow the lines of several containers are merged by time; with it each
// container's lines come in order, and no line is left out or sent twice between what was kept and what is new.
func (l *Logs) Follow(req *repv1.FollowRequest, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
	tag, value := selector(req)
	containers := l.Finder.Find(tag, value)
	// A process may get its first instance here later; a single container that is not here will never come.
	if len(containers) == 0 && (!req.GetFollow() || tag != applog.ByProcess) {
		return errNoLog.With("no container with %s %q on this cell", tag, value)
	}
	request := logs.Request{Tail: int(req.GetTail()), Follow: req.GetFollow()}
	if req.GetSince() != nil {
		request.Since = req.GetSince().AsTime()
	}
	if req.GetFollow() {
		return l.follow(tag, value, request, stream)
	}
	return l.sendKept(request, containers, stream)
}

func selector(req *repv1.FollowRequest) (tag, value string) {
	switch by := req.GetContainer().(type) {
	case *repv1.FollowRequest_ProcessGuid:
		return applog.ByProcess, by.ProcessGuid
	case *repv1.FollowRequest_InstanceGuid:
		return applog.ByInstance, by.InstanceGuid
	case *repv1.FollowRequest_TaskGuid:
		return applog.ByTask, by.TaskGuid
	default:
		return "", ""
	}
}

// sendKept sends the lines that are there.
func (l *Logs) sendKept(request logs.Request, containers []executor.Container, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
	var lines []*repv1.LogLine
	for _, c := range containers {
		for line, err := range l.Executor.Logs(stream.Context(), c.GUID, request) {
			if err != nil {
				break // its log is gone by now, the others' may not be
			}
			lines = append(lines, message(c, line))
		}
	}
	slices.SortStableFunc(lines, func(a, b *repv1.LogLine) int { return a.GetAt().AsTime().Compare(b.GetAt().AsTime()) })
	if request.Tail > 0 && len(lines) > request.Tail {
		lines = lines[len(lines)-request.Tail:]
	}
	for chunk := range slices.Chunk(lines, maxLinesPerMessage) {
		if err := stream.Send(&repv1.FollowResponse{Lines: chunk}); err != nil {
			return err
		}
	}
	return nil
}

// follow sends the lines of every container of the selection, also of those that come later, until the client goes or,
// unless a whole process is followed, until the container is gone.
func (l *Logs) follow(tag, value string, request logs.Request, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	follower := &follower{logs: l, request: request, lines: make(chan *repv1.LogLine), known: map[string]bool{}}
	defer follower.group.Wait()
	defer cancel() // before the wait
	changes := l.Executor.SubscribeToEvents()
	defer changes.Close()
	news := make(chan struct{}, 1)
	follower.group.Go(func() {
		for {
			if _, err := changes.Next(ctx); err != nil {
				return
			}
			select {
			case news <- struct{}{}:
			default:
			}
		}
	})
	for _, c := range l.Finder.Find(tag, value) {
		follower.add(ctx, c)
	}
	for {
		var ended <-chan struct{}
		if tag != applog.ByProcess {
			ended = follower.ended
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.Stopping:
			return nil
		case <-ended:
			return nil
		case line := <-follower.lines:
			if err := stream.Send(&repv1.FollowResponse{Lines: []*repv1.LogLine{line}}); err != nil {
				return err
			}
		case <-news:
			for _, c := range l.Finder.Find(tag, value) {
				follower.add(ctx, c)
			}
		}
	}
}

// follower merges the lines of several containers as they come.
type follower struct {
	logs    *Logs
	request logs.Request
	lines   chan *repv1.LogLine
	group   sync.WaitGroup
	known   map[string]bool
	// ended is closed when the last container that was added is gone.
	ended chan struct{}
}

func (f *follower) add(ctx context.Context, c executor.Container) {
	if f.known[c.GUID] {
		return
	}
	f.known[c.GUID] = true
	ended := make(chan struct{})
	f.ended = ended
	f.group.Go(func() {
		defer close(ended)
		for none := true; none; {
			none = f.read(ctx, c) && f.waits(ctx, c)
		}
	})
}

// read hands on the lines of a container until it is gone. It returns true if there is no log: a reservation gets one
// only when it is run.
func (f *follower) read(ctx context.Context, c executor.Container) (none bool) {
	none = true
	for line, err := range f.logs.Executor.Logs(ctx, c.GUID, f.request) {
		if err != nil {
			return false
		}
		none = false
		select {
		case f.lines <- message(c, line):
		case <-ctx.Done():
			return false
		}
	}
	return none
}

// reservedPause is how often a reservation is looked at. Its first lines are kept, so none is lost meanwhile.
const reservedPause = 250 * time.Millisecond

// waits returns false when ctx ends or the container is gone.
func (f *follower) waits(ctx context.Context, c executor.Container) bool {
	timer := time.NewTimer(reservedPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		_, err := f.logs.Executor.GetContainer(c.GUID)
		return err == nil
	}
}

func message(c executor.Container, line logs.Line) *repv1.LogLine {
	out := &repv1.LogLine{
		At:           timestamppb.New(line.Time),
		Source:       line.Source,
		Index:        c.Tags[translate.TagProcessIndex],
		Stream:       repv1.LogLine_STREAM_STDOUT,
		Text:         line.Message,
		InstanceGuid: c.Tags[translate.TagInstanceGUID],
		SourceId:     line.Tags["source_id"],
		Tags:         line.Tags,
	}
	if line.Stream == logs.Err {
		out.Stream = repv1.LogLine_STREAM_STDERR
	}
	return out
}

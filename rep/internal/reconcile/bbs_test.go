package reconcile

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// Refusals as the BBS words them, and an answer that never came.
var (
	errNotFound      = fault.New(codes.NotFound, "ResourceNotFound", "no such record")
	errNoClaim       = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeClaimed", "it is claimed by another")
	errNoStart       = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeStarted", "it runs elsewhere")
	errNoCrash       = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeCrashed", "it is another's")
	errNoTransition  = fault.New(codes.FailedPrecondition, "InvalidStateTransition", "it is not in that state")
	errOtherCell     = fault.New(codes.FailedPrecondition, "RunningOnDifferentCell", "it runs elsewhere")
	errUnavailable   = fault.New(codes.Unavailable, "", "the bbs is away")
	errNotPermitted  = fault.New(codes.PermissionDenied, "PermissionDenied", "this cell holds no instance of it")
	errCannotRemove  = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeRemoved", "it is another's")
	errDeadlinePass  = context.DeadlineExceeded
	transientRefusal = []error{errUnavailable, errDeadlinePass}
)

// answers to the calls of a cell; where there is none a call succeeds with an empty answer.
type answers struct {
	claim            func(*bbsv1.ClaimActualLRPRequest) (*bbsv1.ClaimActualLRPResponse, error)
	start            func(*bbsv1.StartActualLRPRequest) (*bbsv1.StartActualLRPResponse, error)
	crash            func(*bbsv1.CrashActualLRPRequest) (*bbsv1.CrashActualLRPResponse, error)
	remove           func(*bbsv1.RemoveActualLRPRequest) (*bbsv1.RemoveActualLRPResponse, error)
	fetch            func(*bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error)
	startTask        func(*bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error)
	completeTask     func(*bbsv1.CompleteTaskRequest) (*bbsv1.CompleteTaskResponse, error)
	rejectTask       func(*bbsv1.RejectTaskRequest) (*bbsv1.RejectTaskResponse, error)
	evacuateClaimed  func(*bbsv1.EvacuateClaimedActualLRPRequest) (*bbsv1.EvacuateClaimedActualLRPResponse, error)
	evacuateRunning  func(*bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error)
	evacuateStopped  func(*bbsv1.EvacuateStoppedActualLRPRequest) (*bbsv1.EvacuateStoppedActualLRPResponse, error)
	evacuateCrashed  func(*bbsv1.EvacuateCrashedActualLRPRequest) (*bbsv1.EvacuateCrashedActualLRPResponse, error)
	removeEvacuating func(*bbsv1.RemoveEvacuatingActualLRPRequest) (*bbsv1.RemoveEvacuatingActualLRPResponse, error)
}

// fakeBBS answers what its function fields say and remembers the calls.
type fakeBBS struct {
	bbsv1.TasksClient
	bbsv1.ActualLRPsClient
	bbsv1.DesiredLRPsClient

	answers
	// events is what a watch of the records of the cell yields; nil yields nothing until the watcher leaves.
	events chan *bbsv1.WatchResponse

	mu      sync.Mutex
	lrps    []*workloadv1.ActualLRP // guarded by mu
	tasks   []*workloadv1.Task      // guarded by mu
	listErr error                   // guarded by mu
	// instances that each LRP has; those that are not named are not found.
	instances map[string]int32 // guarded by mu
	calls     []call           // guarded by mu; since they were last taken

	crashes []*bbsv1.CrashActualLRPRequest // guarded by mu; all of them
}

// call is one write that the BBS was asked for.
type call struct {
	name    string
	request proto.Message
}

func (f *fakeBBS) clients() BBS {
	return BBS{Tasks: f, TaskCell: f, ActualLRPs: f, Cell: f, Evacuation: f, Watch: f, DesiredLRPs: f}
}

// took returns the names of the calls so far, in their order, and forgets them.
func (f *fakeBBS) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := make([]string, 0, len(f.calls))
	for _, c := range f.calls {
		names = append(names, c.name)
	}
	f.calls = nil
	return strings.Join(names, " ")
}

// last returns the newest request of a kind.
func last[Q proto.Message](f *fakeBBS) (request Q) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range slices.Backward(f.calls) {
		if q, ok := c.request.(Q); ok {
			return q
		}
	}
	return request
}

func (f *fakeBBS) set(lrps []*workloadv1.ActualLRP, tasks []*workloadv1.Task, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lrps, f.tasks, f.listErr = lrps, tasks, err
}

func ask[Q proto.Message, A any](f *fakeBBS, name string, request Q, answer func(Q) (*A, error)) (*A, error) {
	f.mu.Lock()
	f.calls = append(f.calls, call{name: name, request: request})
	f.mu.Unlock()
	if answer == nil {
		return new(A), nil
	}
	return answer(request)
}

func (f *fakeBBS) Watch(ctx context.Context, _ *bbsv1.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[bbsv1.WatchResponse], error) {
	return &eventStream{ctx: ctx, events: f.events}, nil
}

// eventStream yields what a test puts into events.
type eventStream struct {
	grpc.ClientStream

	ctx    context.Context //nolint:containedctx // as in a stream of grpc
	events chan *bbsv1.WatchResponse
}

func (s *eventStream) Recv() (*bbsv1.WatchResponse, error) {
	select {
	case message := <-s.events:
		return message, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// refuse makes a function field that always answers with an error.
func refuse[Q, A any](err error) func(Q) (*A, error) {
	return func(Q) (*A, error) { return nil, err }
}

func (f *fakeBBS) ClaimActualLRP(_ context.Context, q *bbsv1.ClaimActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.ClaimActualLRPResponse, error) {
	return ask(f, "claim", q, f.claim)
}

func (f *fakeBBS) StartActualLRP(_ context.Context, q *bbsv1.StartActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.StartActualLRPResponse, error) {
	return ask(f, "start", q, f.start)
}

func (f *fakeBBS) CrashActualLRP(_ context.Context, q *bbsv1.CrashActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.CrashActualLRPResponse, error) {
	f.mu.Lock()
	f.crashes = append(f.crashes, q)
	f.mu.Unlock()
	return ask(f, "crash", q, f.crash)
}

func (f *fakeBBS) RemoveActualLRP(_ context.Context, q *bbsv1.RemoveActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.RemoveActualLRPResponse, error) {
	return ask(f, "remove", q, f.remove)
}

func (f *fakeBBS) FetchLRPDefinition(_ context.Context, q *bbsv1.FetchLRPDefinitionRequest, _ ...grpc.CallOption) (*bbsv1.FetchLRPDefinitionResponse, error) {
	return ask(f, "fetch", q, f.fetch)
}

func (f *fakeBBS) StartTask(_ context.Context, q *bbsv1.StartTaskRequest, _ ...grpc.CallOption) (*bbsv1.StartTaskResponse, error) {
	return ask(f, "start-task", q, f.startTask)
}

func (f *fakeBBS) CompleteTask(_ context.Context, q *bbsv1.CompleteTaskRequest, _ ...grpc.CallOption) (*bbsv1.CompleteTaskResponse, error) {
	return ask(f, "complete-task", q, f.completeTask)
}

func (f *fakeBBS) RejectTask(_ context.Context, q *bbsv1.RejectTaskRequest, _ ...grpc.CallOption) (*bbsv1.RejectTaskResponse, error) {
	return ask(f, "reject-task", q, f.rejectTask)
}

func (f *fakeBBS) EvacuateClaimedActualLRP(_ context.Context, q *bbsv1.EvacuateClaimedActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.EvacuateClaimedActualLRPResponse, error) {
	return ask(f, "evacuate-claimed", q, f.evacuateClaimed)
}

func (f *fakeBBS) EvacuateRunningActualLRP(_ context.Context, q *bbsv1.EvacuateRunningActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
	return ask(f, "evacuate-running", q, f.evacuateRunning)
}

func (f *fakeBBS) EvacuateStoppedActualLRP(_ context.Context, q *bbsv1.EvacuateStoppedActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.EvacuateStoppedActualLRPResponse, error) {
	return ask(f, "evacuate-stopped", q, f.evacuateStopped)
}

func (f *fakeBBS) EvacuateCrashedActualLRP(_ context.Context, q *bbsv1.EvacuateCrashedActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.EvacuateCrashedActualLRPResponse, error) {
	return ask(f, "evacuate-crashed", q, f.evacuateCrashed)
}

func (f *fakeBBS) RemoveEvacuatingActualLRP(_ context.Context, q *bbsv1.RemoveEvacuatingActualLRPRequest, _ ...grpc.CallOption) (*bbsv1.RemoveEvacuatingActualLRPResponse, error) {
	return ask(f, "remove-evacuating", q, f.removeEvacuating)
}

// ListActualLRPs streams one record a chunk.
func (f *fakeBBS) ListActualLRPs(_ context.Context, q *bbsv1.ListActualLRPsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[bbsv1.ListActualLRPsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var chunks []*bbsv1.ListActualLRPsResponse
	for _, l := range f.lrps {
		if l.GetInstanceKey().GetCellId() == q.GetCellId() {
			chunks = append(chunks, &bbsv1.ListActualLRPsResponse{ActualLrps: []*workloadv1.ActualLRP{l}})
		}
	}
	return &list[bbsv1.ListActualLRPsResponse]{chunks: chunks, err: f.listErr}, nil
}

// ListSchedulingInfos streams one LRP a chunk.
func (f *fakeBBS) ListSchedulingInfos(_ context.Context, q *bbsv1.ListSchedulingInfosRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[bbsv1.ListSchedulingInfosResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var chunks []*bbsv1.ListSchedulingInfosResponse
	for _, process := range q.GetFilter().GetProcessGuids() {
		if n, known := f.instances[process]; known {
			info := &workloadv1.SchedulingInfo{ProcessGuid: process, Instances: n}
			chunks = append(chunks, &bbsv1.ListSchedulingInfosResponse{SchedulingInfos: []*workloadv1.SchedulingInfo{info}})
		}
	}
	return &list[bbsv1.ListSchedulingInfosResponse]{chunks: chunks, err: f.listErr}, nil
}

// ListTasks streams one task a chunk.
func (f *fakeBBS) ListTasks(_ context.Context, q *bbsv1.ListTasksRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[bbsv1.ListTasksResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var chunks []*bbsv1.ListTasksResponse
	for _, task := range f.tasks {
		if task.GetCellId() == q.GetCellId() {
			chunks = append(chunks, &bbsv1.ListTasksResponse{Tasks: []*workloadv1.Task{task}})
		}
	}
	return &list[bbsv1.ListTasksResponse]{chunks: chunks, err: f.listErr}, nil
}

// list is the client's end of a stream that has been sent already. An error comes after the first chunk.
type list[T any] struct {
	grpc.ClientStream

	chunks []*T
	err    error
}

func (l *list[T]) Recv() (*T, error) {
	if len(l.chunks) == 0 {
		if l.err != nil {
			return nil, l.err
		}
		return nil, io.EOF
	}
	chunk := l.chunks[0]
	l.chunks = l.chunks[1:]
	return chunk, nil
}

package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// tasks is the service for clients who want something done at most once.
type tasks struct {
	bbsv1.UnimplementedTasksServer
	*API
}

func (t *tasks) DesireTask(ctx context.Context, req *bbsv1.DesireTaskRequest) (*bbsv1.DesireTaskResponse, error) {
	guid, def := req.GetTaskGuid(), req.GetTaskDefinition()
	var v violations
	v.plain("domain", req.GetDomain())
	v.taskDefinition("task_definition", def)
	if err := v.err(); err != nil {
		return nil, err
	}
	if t.Store.TaskQuarantined(guid) {
		return nil, store.ErrQuarantined.With("task %q", guid)
	}
	sealed, err := t.Store.SealTaskDefinition(guid, def)
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(def)
	if err != nil {
		return nil, err
	}
	now := t.now()
	revision, err := t.Store.Apply(ctx, func(tx *store.Tx) error {
		before := tx.Task(guid)
		after, err := task.Desire(before, &task.Task{
			GUID: guid, Domain: req.GetDomain(), DefinitionDigest: digest,
			HasCallback: def.GetCompletionCallbackUrl() != "",
			Resources:   wire.ResourcesFrom(def.GetContainer().GetResources()),
			Placement:   wire.PlacementOf(def.GetContainer()),
		}, now)
		if err != nil {
			return err
		}
		if after != before {
			tx.PutTask(before, after)
			tx.PutTaskDefinition(guid, sealed)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("desiring task %q: %w", guid, err)
	}
	t.Log.InfoContext(ctx, "task-desired", "task_guid", guid, "revision", revision)
	return &bbsv1.DesireTaskResponse{Revision: revision}, nil
}

// digestOf tells definitions apart: the same one, sent again, has the same digest.
func digestOf(def *workloadv1.TaskDefinition) (string, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(def)
	if err != nil {
		return "", fmt.Errorf("encoding a task definition: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return string(sum[:]), nil
}

func (t *tasks) ListTasks(req *bbsv1.ListTasksRequest, stream grpc.ServerStreamingServer[bbsv1.ListTasksResponse]) error {
	ctx := stream.Context()
	cell, err := limitToOwnCell(ctx, req.GetCellId())
	if err != nil {
		return err
	}
	view, err := t.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return err
	}
	list := view.Tasks()
	if cell != "" {
		list = view.TasksOnCell(cell)
	}
	out, err := newChunks(stream, &bbsv1.ListTasksResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	for row := range list {
		if req.GetDomain() != "" && row.Domain != req.GetDomain() ||
			len(req.GetStates()) > 0 && !slices.Contains(req.GetStates(), wire.TaskState(row.State)) {
			continue
		}
		m := wire.Task(row)
		if req.GetIncludeDefinition() {
			def, err := t.Store.TaskDefinition(ctx, row.GUID)
			if err != nil {
				t.Log.WarnContext(ctx, "definition-unreadable", "task_guid", row.GUID, "error", err)
			} else {
				m.Definition = withTaskFallbacks(req.GetNetCheckFallback(), withoutTaskSecrets(def))
			}
		}
		if err := out.addMessage(m); err != nil {
			return err
		}
	}
	return out.end()
}

func (t *tasks) GetTask(ctx context.Context, req *bbsv1.GetTaskRequest) (*bbsv1.GetTaskResponse, error) {
	view, err := t.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return nil, err
	}
	row := view.Task(req.GetTaskGuid())
	if row == nil {
		return nil, task.ErrNotFound.With("task %q", req.GetTaskGuid())
	}
	m := wire.Task(row)
	if req.GetIncludeDefinition() {
		def, err := t.Store.TaskDefinition(ctx, row.GUID)
		if err != nil {
			return nil, err
		}
		def = withTaskFallbacks(req.GetNetCheckFallback(), def)
		if m.Definition = withoutTaskSecrets(def); req.GetIncludeSecrets() {
			t.secretsRead(ctx, "task", row.GUID)
			m.Definition = def
		}
	}
	return &bbsv1.GetTaskResponse{Task: m, Revision: view.Revision()}, nil
}

func (t *tasks) CancelTask(ctx context.Context, req *bbsv1.CancelTaskRequest) (*bbsv1.CancelTaskResponse, error) {
	now := t.now()
	var cancelled *task.Task
	revision, err := t.change(ctx, req.GetTaskGuid(), func(before *task.Task) (*task.Task, error) {
		cancelled = before
		return task.Cancel(before, now)
	})
	if err != nil {
		return nil, fmt.Errorf("cancelling task %q: %w", req.GetTaskGuid(), err)
	}
	t.Log.InfoContext(ctx, "task-cancelled", "task_guid", req.GetTaskGuid(), "cell_id", cancelled.CellID)
	return &bbsv1.CancelTaskResponse{Revision: revision}, nil
}

func (t *tasks) ResolvingTask(ctx context.Context, req *bbsv1.ResolvingTaskRequest) (*bbsv1.ResolvingTaskResponse, error) {
	now := t.now()
	revision, err := t.change(ctx, req.GetTaskGuid(), func(before *task.Task) (*task.Task, error) {
		return task.Resolve(before, now)
	})
	if err != nil {
		return nil, fmt.Errorf("resolving task %q: %w", req.GetTaskGuid(), err)
	}
	return &bbsv1.ResolvingTaskResponse{Revision: revision}, nil
}

func (t *tasks) DeleteTask(ctx context.Context, req *bbsv1.DeleteTaskRequest) (*bbsv1.DeleteTaskResponse, error) {
	revision, err := t.change(ctx, req.GetTaskGuid(), func(before *task.Task) (*task.Task, error) {
		return nil, task.CanDelete(before, req.GetResolve())
	})
	if err != nil {
		return nil, fmt.Errorf("deleting task %q: %w", req.GetTaskGuid(), err)
	}
	return &bbsv1.DeleteTaskResponse{Revision: revision}, nil
}

// change applies one transition of one task. The transition returns nil to delete it.
func (a *API) change(ctx context.Context, guid string, transition func(before *task.Task) (*task.Task, error)) (uint64, error) {
	return a.Store.Apply(ctx, func(tx *store.Tx) error {
		before := tx.Task(guid)
		after, err := transition(before)
		if err != nil {
			return err
		}
		tx.PutTask(before, after)
		return nil
	})
}

// taskCell is the service for cells about their own tasks.
type taskCell struct {
	bbsv1.UnimplementedTaskCellServer
	*API
}

func (t *taskCell) StartTask(ctx context.Context, req *bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error) {
	guid, cell := req.GetTaskGuid(), req.GetCellId()
	if err := ownCell(ctx, cell); err != nil {
		return nil, err
	}
	view, err := t.Store.View()
	if err != nil {
		return nil, err
	}
	if view.Task(guid) == nil {
		return nil, task.ErrNotFound.With("starting task %q", guid)
	}
	// Before the permission is given, which is given once: if it cannot be read, nobody has lost it.
	def, err := t.Store.TaskDefinition(ctx, guid)
	if err != nil {
		return nil, err
	}
	run, now := t.NewGUID(), t.now()
	var started *task.Task
	shouldStart := false
	revision, err := t.change(ctx, guid, func(before *task.Task) (after *task.Task, err error) {
		started, shouldStart, err = task.Start(before, cell, run, now)
		return started, err
	})
	if err != nil {
		return nil, fmt.Errorf("starting task %q on cell %q: %w", guid, cell, err)
	}
	resp := &bbsv1.StartTaskResponse{ShouldStart: shouldStart, Revision: revision}
	if shouldStart {
		resp.Task = wire.Task(started)
		resp.Task.Definition = withTaskFallbacks(req.GetNetCheckFallback(), def)
		t.metrics.tasksStarted.WithLabelValues(cell).Inc()
		t.Log.InfoContext(ctx, "task-started", "task_guid", guid, "cell_id", cell)
	}
	return resp, nil
}

func (t *taskCell) CompleteTask(ctx context.Context, req *bbsv1.CompleteTaskRequest) (*bbsv1.CompleteTaskResponse, error) {
	if err := ownCell(ctx, req.GetCellId()); err != nil {
		return nil, err
	}
	by := task.Run{CellID: req.GetCellId(), InstanceGUID: req.GetInstanceGuid()}
	result := task.Result{Failed: req.GetFailed(), FailureReason: clean(req.GetFailureReason()), Result: req.GetResult()}
	now := t.now()
	revision, err := t.change(ctx, req.GetTaskGuid(), func(before *task.Task) (*task.Task, error) {
		return task.Complete(before, by, result, now)
	})
	if err != nil {
		return nil, fmt.Errorf("completing task %q of cell %q: %w", req.GetTaskGuid(), req.GetCellId(), err)
	}
	counter := t.metrics.tasksSucceeded
	if req.GetFailed() {
		counter = t.metrics.tasksFailed
	}
	counter.WithLabelValues(req.GetCellId()).Inc()
	t.Log.InfoContext(ctx, "task-completed", "task_guid", req.GetTaskGuid(), "cell_id", req.GetCellId(), "failed", req.GetFailed())
	return &bbsv1.CompleteTaskResponse{Revision: revision}, nil
}

func (t *taskCell) RejectTask(ctx context.Context, req *bbsv1.RejectTaskRequest) (*bbsv1.RejectTaskResponse, error) {
	if err := ownCell(ctx, req.GetCellId()); err != nil {
		return nil, err
	}
	by := task.Run{CellID: req.GetCellId(), InstanceGUID: req.GetInstanceGuid()}
	reason, now := clean(req.GetRejectionReason()), t.now()
	revision, err := t.change(ctx, req.GetTaskGuid(), func(before *task.Task) (*task.Task, error) {
		return task.Reject(before, by, reason, t.MaxTaskRetries, now)
	})
	if err != nil {
		return nil, fmt.Errorf("rejecting task %q of cell %q: %w", req.GetTaskGuid(), req.GetCellId(), err)
	}
	t.Log.InfoContext(ctx, "task-rejected", "task_guid", req.GetTaskGuid(), "cell_id", req.GetCellId(), "reason", reason)
	return &bbsv1.RejectTaskResponse{Revision: revision}, nil
}

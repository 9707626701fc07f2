package wire

import (
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Task converts the header of a task, without definition.
func Task(t *task.Task) *workloadv1.Task {
	return &workloadv1.Task{
		TaskGuid:         t.GUID,
		Domain:           t.Domain,
		State:            TaskState(t.State),
		CellId:           t.CellID,
		InstanceGuid:     t.InstanceGUID,
		CreatedAt:        Timestamp(t.CreatedAt),
		UpdatedAt:        Timestamp(t.UpdatedAt),
		FirstCompletedAt: Timestamp(t.FirstCompletedAt),
		Failed:           t.Failed,
		FailureReason:    t.FailureReason,
		Result:           t.Result,
		RejectionCount:   t.RejectionCount,
		RejectionReason:  t.RejectionReason,
		Resources:        Resources(t.Resources),
		Placement:        Placement(t.Placement),
		Revision:         t.Revision,
	}
}

// TaskFrom is the inverse of Task. The digest of the definition and whether it has a callback are
// not part of the message.
func TaskFrom(m *workloadv1.Task) *task.Task {
	return &task.Task{
		GUID:             m.GetTaskGuid(),
		Domain:           m.GetDomain(),
		CellID:           m.GetCellId(),
		InstanceGUID:     m.GetInstanceGuid(),
		CreatedAt:        Nanoseconds(m.GetCreatedAt()),
		UpdatedAt:        Nanoseconds(m.GetUpdatedAt()),
		FirstCompletedAt: Nanoseconds(m.GetFirstCompletedAt()),
		FailureReason:    m.GetFailureReason(),
		Result:           m.GetResult(),
		RejectionReason:  m.GetRejectionReason(),
		RejectionCount:   m.GetRejectionCount(),
		Resources:        ResourcesFrom(m.GetResources()),
		Placement:        PlacementFrom(m.GetPlacement()),
		Revision:         m.GetRevision(),
		State:            TaskStateFrom(m.GetState()),
		Failed:           m.GetFailed(),
	}
}

// TaskState converts a state.
func TaskState(s task.State) workloadv1.TaskState {
	switch s {
	case task.Pending:
		return workloadv1.TaskState_TASK_STATE_PENDING
	case task.Running:
		return workloadv1.TaskState_TASK_STATE_RUNNING
	case task.Completed:
		return workloadv1.TaskState_TASK_STATE_COMPLETED
	case task.Resolving:
		return workloadv1.TaskState_TASK_STATE_RESOLVING
	}
	return workloadv1.TaskState_TASK_STATE_UNSPECIFIED
}

// TaskStateFrom is the inverse of TaskState; unspecified is 0, which is no state.
func TaskStateFrom(s workloadv1.TaskState) task.State {
	switch s {
	case workloadv1.TaskState_TASK_STATE_PENDING:
		return task.Pending
	case workloadv1.TaskState_TASK_STATE_RUNNING:
		return task.Running
	case workloadv1.TaskState_TASK_STATE_COMPLETED:
		return task.Completed
	case workloadv1.TaskState_TASK_STATE_RESOLVING:
		return task.Resolving
	case workloadv1.TaskState_TASK_STATE_UNSPECIFIED:
	}
	return 0
}

// Domain converts a domain. One that is fresh for ever, and one that is not fresh, have no end.
func Domain(d *lrp.Domain) *bbsv1.Domain {
	m := &bbsv1.Domain{Domain: d.Name, DefaultCrashRestartPolicy: CrashPolicy(d.DefaultCrashPolicy)}
	if d.FreshUntil != lrp.FreshForever {
		m.FreshUntil = Timestamp(d.FreshUntil)
	}
	return m
}

// DomainChanged converts the event about a domain.
func DomainChanged(e lrp.DomainEvent) *bbsv1.DomainChanged {
	return &bbsv1.DomainChanged{Domain: Domain(e.Domain), Fresh: e.Fresh}
}

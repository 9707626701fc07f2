package task

import (
	"time"

	"diego.internal/bbs/internal/workload"
)

// MaxResultBytes bounds the result of a task.
const MaxResultBytes = 10 << 10

// Run names one run of a task: the cell and the guid that Start made. A guid that is empty, from a
// cell that lost it, matches every run on that cell.
type Run struct {
	CellID       string
	InstanceGUID string
}

func (r Run) is(t *Task) bool {
	return r.CellID == t.CellID && (r.InstanceGUID == "" || r.InstanceGUID == t.InstanceGUID)
}

// Desire creates a task, Pending. want holds what the client gave. If the same was desired before and
// lives, that is returned and nothing changes, so that a client may repeat itself.
//
// It returns ErrExists if the guid is taken by a task of another domain or definition.
func Desire(existing, want *Task, now time.Time) (*Task, error) {
	if existing != nil {
		if existing.Domain == want.Domain && want.DefinitionDigest != "" && existing.DefinitionDigest == want.DefinitionDigest {
			return existing, nil
		}
		return existing, ErrExists.With("task %q is %v", want.GUID, existing.State)
	}
	next := *want
	next.State = Pending
	next.CreatedAt = now.UnixNano()
	next.UpdatedAt = next.CreatedAt
	return &next, nil
}

// Start gives a Pending task to a cell. Only with shouldStart may the cell run it; that is said once
// for each instanceGUID, which the caller makes afresh. Repeated by the cell that has the task it
// changes nothing and shouldStart is false.
//
// It returns ErrNotFound, or ErrInvalidStateTransition if another cell has it or it has ended.
func Start(t *Task, cellID, instanceGUID string, now time.Time) (next *Task, shouldStart bool, err error) {
	switch {
	case t == nil:
		return nil, false, ErrNotFound
	case t.State == Running && t.CellID == cellID:
		return t, false, nil
	case t.State != Pending:
		return t, false, refuse(t, Running)
	}
	started := *t
	started.State = Running
	started.CellID = cellID
	started.InstanceGUID = instanceGUID
	started.UpdatedAt = now.UnixNano()
	return &started, true, nil
}

// Result is the outcome of a run. Reasons that are too long are cut; a longer result than
// MaxResultBytes was refused before.
type Result struct {
	Failed        bool
	FailureReason string
	Result        string
}

// Complete stores the outcome of a run.
//
// It returns ErrNotFound, ErrRunningOnDifferentCell if another run has the task, or
// ErrInvalidStateTransition if it is not Running.
func Complete(t *Task, by Run, r Result, now time.Time) (*Task, error) {
	switch {
	case t == nil:
		return nil, ErrNotFound
	case t.State != Running:
		return t, refuse(t, Completed)
	case !by.is(t):
		return t, ErrRunningOnDifferentCell.With("task %q", t.GUID)
	}
	return t.completed(r, now), nil
}

// Cancel completes a task that has not ended as failed. Its cell, if it has one, stays in the record
// until CancelTold: it is to be told.
//
// It returns ErrNotFound or ErrInvalidStateTransition.
func Cancel(t *Task, now time.Time) (*Task, error) {
	cancelled, err := Fail(t, ReasonCancelled, now)
	if err == nil {
		cancelled.CellID, cancelled.InstanceGUID = t.CellID, t.InstanceGUID
	}
	return cancelled, err
}

// CancelTold records that the cell of a cancelled run knows of it, or is lost. If no such order stands
// it returns t itself, which may be nil.
func CancelTold(t *Task, run Run) *Task {
	if t == nil || !t.CancelStands() || t.CellID != run.CellID || t.InstanceGUID != run.InstanceGUID {
		return t
	}
	told := *t
	told.CellID, told.InstanceGUID = "", ""
	return &told
}

// Fail completes a task that has not ended as failed, for the reason.
//
// It returns ErrNotFound or ErrInvalidStateTransition.
func Fail(t *Task, reason string, now time.Time) (*Task, error) {
	switch {
	case t == nil:
		return nil, ErrNotFound
	case t.State != Pending && t.State != Running:
		return t, refuse(t, Completed)
	}
	return t.completed(Result{Failed: true, FailureReason: reason}, now), nil
}

// RejectPlacement counts that a Pending task could not be placed, see Reject.
func RejectPlacement(t *Task, reason string, maxRetries int32, now time.Time) (*Task, error) {
	if t != nil && t.State != Pending {
		return t, ErrCannotBeRejected.With("task %q is %v", t.GUID, t.State)
	}
	return reject(t, reason, maxRetries, now)
}

// Reject gives a task back whose action never began: it waits again, or has failed if it was rejected
// maxRetries times before. A cell that names its run may repeat itself: only a rejection leads back to
// Pending, so that is then counted already, and nothing changes.
//
// It returns ErrNotFound, ErrRunningOnDifferentCell if another run has the task, or
// ErrCannotBeRejected if it has ended.
func Reject(t *Task, by Run, reason string, maxRetries int32, now time.Time) (*Task, error) {
	switch {
	case t != nil && t.State == Running && !by.is(t):
		return t, ErrRunningOnDifferentCell.With("task %q", t.GUID)
	case t != nil && t.State == Pending && by.InstanceGUID != "":
		return t, nil
	}
	return reject(t, reason, maxRetries, now)
}

func reject(t *Task, reason string, maxRetries int32, now time.Time) (*Task, error) {
	switch {
	case t == nil:
		return nil, ErrNotFound
	case t.State != Pending && t.State != Running:
		return t, ErrCannotBeRejected.With("task %q is %v", t.GUID, t.State)
	}
	rejected := *t
	rejected.RejectionCount++
	rejected.RejectionReason = workload.Reason(reason)
	if t.RejectionCount >= maxRetries {
		return rejected.completed(Result{Failed: true, FailureReason: reason}, now), nil
	}
	rejected.State = Pending
	rejected.CellID = ""
	rejected.InstanceGUID = ""
	rejected.UpdatedAt = now.UnixNano()
	return &rejected, nil
}

// Resolve claims the outcome of a Completed task for one who will delete the task.
//
// It returns ErrNotFound or ErrInvalidStateTransition.
func Resolve(t *Task, now time.Time) (*Task, error) {
	switch {
	case t == nil:
		return nil, ErrNotFound
	case t.State != Completed:
		return t, refuse(t, Resolving)
	}
	next := *t
	next.State = Resolving
	next.UpdatedAt = now.UnixNano()
	return &next, nil
}

// Demote takes back a claim that lapsed, so that another may resolve the task. UpdatedAt stays, so it
// is due for that at once.
//
// It returns ErrNotFound or ErrInvalidStateTransition.
func Demote(t *Task) (*Task, error) {
	switch {
	case t == nil:
		return nil, ErrNotFound
	case t.State != Resolving:
		return t, refuse(t, Completed)
	}
	next := *t
	next.State = Completed
	return &next, nil
}

// CanDelete reports by its error whether the task may be removed: by the one who resolved it or, with
// resolve, by one who resolves and deletes it in one step.
//
// It returns ErrNotFound or ErrInvalidStateTransition.
func CanDelete(t *Task, resolve bool) error {
	switch {
	case t == nil:
		return ErrNotFound
	case t.State == Resolving, resolve && t.State == Completed:
		return nil
	}
	return ErrInvalidStateTransition.With("task %q: deleting from %v", t.GUID, t.State)
}

// completed stores the first outcome; the cell and the run are forgotten.
func (t *Task) completed(r Result, now time.Time) *Task {
	next := *t
	next.State = Completed
	next.Failed = r.Failed
	next.FailureReason = workload.Reason(r.FailureReason)
	next.Result = r.Result
	next.CellID = ""
	next.InstanceGUID = ""
	next.UpdatedAt = now.UnixNano()
	next.FirstCompletedAt = next.UpdatedAt
	return &next
}

func refuse(t *Task, to State) error {
	return ErrInvalidStateTransition.With("task %q: from %v to %v", t.GUID, t.State, to)
}

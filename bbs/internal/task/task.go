// Package task owns the rules of tasks: which change of state is allowed, to whom, and what it
// leaves behind, so that the action of a task runs at most once.
//
// All of it is functions of values: times and guids are arguments, the store applies the outcome. The
// package does not decide when convergence acts (package converge) nor what happens after a commit
// (package effect).
package task

import (
	"fmt"
	"time"

	"diego.internal/bbs/internal/workload"
)

// State is the place of a task in its life.
type State uint8

// The states. The numbers are stored; 0 is none of them.
const (
	// Pending waits for a cell.
	Pending State = iota + 1
	// Running may run on its cell, once.
	Running
	// Completed has an outcome that nobody has taken yet.
	Completed
	// Resolving is completed, and somebody claims to handle the outcome.
	Resolving
)

func (s State) String() string {
	switch s {
	case Pending:
		return "Pending"
	case Running:
		return "Running"
	case Completed:
		return "Completed"
	case Resolving:
		return "Resolving"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// Task is the header of a task. Its definition never changes and is not in memory.
//
// A record is immutable once it is stored; a transition returns a new one.
type Task struct {
	GUID   string
	Domain string

	// CellID and InstanceGUID are set while Running, and after that for as long as the cell is to be
	// told that the task was cancelled (CancelStands). The guid is made for each start; a cell proves
	// with it which run it speaks of.
	CellID       string
	InstanceGUID string

	// Times are nanoseconds since the Unix epoch; FirstCompletedAt is 0 until completion.
	CreatedAt        int64
	UpdatedAt        int64
	FirstCompletedAt int64

	// FailureReason, Result and Failed are the outcome, valid when Completed or Resolving.
	FailureReason string
	Result        string

	RejectionReason string
	RejectionCount  int32

	Resources workload.Resources
	Placement workload.Placement

	// DefinitionDigest tells whether a repeated desire asks for the same.
	DefinitionDigest string
	// Revision of the store that last changed the record. The store sets it, nothing here reads it.
	Revision uint64

	State  State
	Failed bool
	// HasCallback reports whether the definition names a completion callback.
	HasCallback bool
}

// UpdatedTime is UpdatedAt as a time in UTC.
func (t *Task) UpdatedTime() time.Time { return time.Unix(0, t.UpdatedAt).UTC() }

// CancelStands reports whether the cell that ran the task when it was cancelled has not yet said that it
// knows, and so may still have a container of it.
func (t *Task) CancelStands() bool {
	return t.CellID != "" && (t.State == Completed || t.State == Resolving)
}

// Event tells watchers of one change of a task: created if Before is nil, removed if After is nil.
type Event struct {
	Before *Task
	After  *Task
}

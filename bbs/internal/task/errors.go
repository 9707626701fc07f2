package task

import (
	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// What a transition is refused with. Cells decide by the reason what to do with a container, so the
// reasons are part of the contract.
var (
	// ErrNotFound means that no task of that guid lives.
	ErrNotFound = fault.New(codes.NotFound, "ResourceNotFound", "the requested resource does not exist")
	// ErrExists means that the guid is taken by another task.
	ErrExists = fault.New(codes.AlreadyExists, "ResourceExists", "the requested resource already exists")
	// ErrInvalidStateTransition means that the state of the task does not allow the change.
	ErrInvalidStateTransition = fault.New(codes.FailedPrecondition, "InvalidStateTransition", "invalid state transition")
	// ErrRunningOnDifferentCell means that another cell, or another run, has the task.
	ErrRunningOnDifferentCell = fault.New(codes.FailedPrecondition, "RunningOnDifferentCell", "task is running on a different cell")
	// ErrCannotBeRejected means that the task no longer waits or runs.
	ErrCannotBeRejected = fault.New(codes.InvalidArgument, fault.ReasonInvalidRequest, "cannot reject task")
)

// Failure reasons that the BBS itself gives to tasks.
const (
	ReasonCancelled       = "task was cancelled"
	ReasonNotStarted      = "not started within time limit"
	ReasonCellDisappeared = "cell disappeared before completion"
)

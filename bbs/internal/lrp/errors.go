package lrp

import (
	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// What a transition is refused with. Cells decide by the reason what to do with a container, so the
// reasons are part of the contract.
var (
	// ErrNotFound means that there is no record of the kind that the operation is about.
	ErrNotFound = fault.New(codes.NotFound, "ResourceNotFound", "the requested resource does not exist")
	// ErrExists means that the process guid is taken.
	ErrExists = fault.New(codes.AlreadyExists, "ResourceExists", "the requested resource already exists")
	// ErrConflict means that the record is not the version that the client asked to change. The client
	// has to read it anew; the same request can never succeed.
	ErrConflict = fault.New(codes.Aborted, "ResourceConflict", "the requested resource was changed meanwhile")
	// ErrCannotBeClaimed tells a cell to delete its container.
	ErrCannotBeClaimed = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeClaimed", "cannot claim actual LRP")
	// ErrCannotBeStarted tells a cell to stop its container.
	ErrCannotBeStarted = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeStarted", "cannot start actual LRP")
	// ErrCannotBeCrashed tells a cell to delete its container.
	ErrCannotBeCrashed = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeCrashed", "cannot crash actual LRP")
	// ErrCannotBeFailed means that the instance no longer waits for a cell.
	ErrCannotBeFailed = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeFailed", "cannot fail actual LRP")
	// ErrCannotBeRemoved means that the evacuating record belongs to another LRP of that guid.
	ErrCannotBeRemoved = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeRemoved", "cannot remove actual LRP")
	// ErrCannotBeUnclaimed means that the instance waits for a cell already.
	ErrCannotBeUnclaimed = fault.New(codes.FailedPrecondition, "ActualLRPCannotBeUnclaimed", "cannot unclaim actual LRP")
)

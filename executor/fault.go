package executor

import (
	"errors"

	"diego.internal/executor/container"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrContainerNotFound says that no container has that guid.
	ErrContainerNotFound = errors.New("container not found")
	// ErrGUIDNotSpecified says that the guid is empty.
	ErrGUIDNotSpecified = errors.New("container guid not specified")
	// ErrGUIDInvalid says that the guid has characters or a length that no container can have.
	ErrGUIDInvalid = errors.New("container guid not valid")
	// ErrGUIDNotAvailable says that the guid is known already.
	ErrGUIDNotAvailable = errors.New("container guid not available")
	// ErrInsufficientResources is wrapped with the names of what is short: memory, disk, containers.
	ErrInsufficientResources = errors.New("insufficient resources available")
	// ErrInvalidTransition says that the order does not fit the state of the container.
	ErrInvalidTransition = container.ErrInvalidTransition
	// ErrEmptyAction says that there is nothing to run.
	ErrEmptyAction = container.ErrEmptyAction
	// ErrClosed says that the client has been closed.
	ErrClosed = errors.New("executor is closed")
)

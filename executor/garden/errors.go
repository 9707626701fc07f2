package garden

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is. Implementations wrap them with the handle or process.
var (
	ErrUnknownHandle    = errors.New("unknown handle")
	ErrHandleInUse      = errors.New("handle already in use")
	ErrUnknownProcess   = errors.New("unknown process")
	ErrUnknownUser      = errors.New("unknown user")
	ErrMaxContainers    = errors.New("max containers reached")
	ErrPortsExhausted   = errors.New("port pool is exhausted")
	ErrNoAddress        = errors.New("address pool is exhausted")
	ErrBeingDestroyed   = errors.New("container already being destroyed")
	ErrPathNotFound     = errors.New("path not found in container")
	ErrEngineNotRunning = errors.New("container engine does not answer")
)

// RootFSError says that the image cannot be had or used.
type RootFSError struct {
	URI string
	Err error
}

func (e *RootFSError) Error() string { return fmt.Sprintf("preparing rootfs %q: %v", e.URI, e.Err) }

func (e *RootFSError) Unwrap() error { return e.Err }

// ExecutableNotFoundError says that a process names a file that the container does not have.
type ExecutableNotFoundError struct {
	Path string
	Err  error
}

func (e *ExecutableNotFoundError) Error() string {
	return fmt.Sprintf("executable %q not found: %v", e.Path, e.Err)
}

func (e *ExecutableNotFoundError) Unwrap() error { return e.Err }

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
	// ErrOutOfDisk is about the disk of one container, ErrDiskFull about that of the cell.
	ErrOutOfDisk = errors.New("container is out of disk")
	ErrDiskFull  = errors.New("disk of the cell is full")
)

// Errors about images of registries, inside a RootFSError. Only the first is worth a second try: the engine has made a few
// by then, within seconds, so that it is for the caller to come back later or elsewhere.
var (
	ErrRegistryUnavailable  = errors.New("registry is not available")
	ErrImageNotFound        = errors.New("image not found in the registry")
	ErrRegistryUnauthorized = errors.New("registry refuses the credentials")
	ErrImageDigest          = errors.New("image is not what its digest says")
	ErrImageTooLarge        = errors.New("image does not fit the disk limit of the container")
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

// Package spawn is how the init of a container starts processes on request of the engine outside, without runc: the
// messages, the part of the init that answers them (Serve), the step between fork and program (Launch), and the part of
// the engine that asks (Client).
//
// The connection is one pair of sockets that the init makes for itself and keeps both ends of. Neither has a name. The
// engine takes a copy of its end out of the init by pidfd_getfd, which needs rights over the init that nothing in the
// container has: the init cannot be traced. An engine that is restarted takes another copy, so that nothing has to
// survive but the init, which lives as long as its container. It keeps every exit status until it is told to forget it.
//
// A process started so has what the init has and runc gave it: namespaces, control group, system call filter, bounds of
// capabilities, no way to new privileges. What differs between processes is in Process.
//
// The package owns nothing on disk, moves no output and decides nothing about what runs. Whatever comes from an init is
// treated as sent by the container: it names no process of the machine and is of bounded size.
package spawn

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// engineDescriptor is the number at which the init keeps the engine's end. It is above those that runc has open in the
// moment before it becomes the init.
const engineDescriptor = 60

// MaxID is the length of the longest id of a process.
const MaxID = 128

// Errors of Client and Child.
var (
	// ErrGone says that the init has ended, and with it all processes of its container.
	ErrGone = errors.New("init has ended")
	// ErrUnknown says that the init has no process of that id, or has forgotten it.
	ErrUnknown = errors.New("process is not known to the init")
	// ErrTaken says that it has one already.
	ErrTaken = errors.New("process id is taken")
	// ErrMessage says that a message is not what it should be.
	ErrMessage = errors.New("malformed message")
)

// Process says what to start. Its three files are given apart from it.
type Process struct {
	// Args are the program, looked up in PATH unless it has a slash, and its arguments.
	Args []string
	// Env is the whole environment, "NAME=value".
	Env []string
	// Dir is an absolute folder that exists.
	Dir string
	// UID, GID and Groups are numbers of the container.
	UID, GID uint32
	Groups   []uint32
	// OpenFiles limits open files; zero leaves what the init was given. More than the init has is refused with EPERM.
	OpenFiles uint64
}

// Stage of a start that failed.
type Stage uint8

// The stages, in their order.
const (
	StageFork Stage = iota + 1
	StageSpecification
	StageLimits
	StageFolder
	StageUser
	StageProgram
)

func (s Stage) String() string {
	names := map[Stage]string{
		StageFork: "forking", StageSpecification: "reading the specification", StageLimits: "setting limits",
		StageFolder: "entering the folder", StageUser: "becoming the user", StageProgram: "executing the program",
	}
	if name, ok := names[s]; ok {
		return name
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// StartError is a start of which nothing is left.
type StartError struct {
	Stage Stage
	Errno unix.Errno
}

func (f *StartError) Error() string { return f.Stage.String() + ": " + f.Errno.Error() }

// Unwrap makes errors.Is find the number.
func (f *StartError) Unwrap() error { return f.Errno }

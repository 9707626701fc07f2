package spawn

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of a process before it becomes its program, besides its own three.
const (
	specificationDescriptor = 3
	reportDescriptor        = 4
)

// launched is reported right before the program is executed. If nothing follows it, it was.
const launched = 'x'

// LaunchArgument is the first argument of the init's own program when it is started to become another one.
const LaunchArgument = "launch"

// Launch is the life of a process between the fork and its program: it becomes what the specification says, as runc
// does it, and does not return. What fails is reported to the init. Nothing of the bounds and filters that the init has
// can be changed here.
func Launch() {
	runtime.LockOSThread() // who one is belongs to the thread
	syscall.CloseOnExec(reportDescriptor)
	failure := launch()
	report := binary.LittleEndian.AppendUint16([]byte{byte(failure.Stage)}, uint16(failure.Errno)) //nolint:gosec // far below
	_, _ = syscall.Write(reportDescriptor, report)                                                 // an init that does not listen sees the end of us
	os.Exit(127)
}

func launch() *StartError {
	specification := os.NewFile(specificationDescriptor, "specification")
	// Shared with the engine that wrote it, and so is the place in it.
	content, err := io.ReadAll(io.NewSectionReader(specification, 0, 1<<62))
	if err != nil {
		return failed(StageSpecification, err)
	}
	process, err := decodeProcess(content)
	if err != nil {
		return failed(StageSpecification, unix.EBADMSG)
	}
	if err := specification.Close(); err != nil {
		return failed(StageSpecification, err)
	}
	if process.OpenFiles > 0 {
		// By this package, which then does not put back what the Go runtime has found.
		limit := &syscall.Rlimit{Cur: process.OpenFiles, Max: process.OpenFiles}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, limit); err != nil {
			return failed(StageLimits, err)
		}
	}
	// Once as root, and if root may not, as with folders on networks, once more as the user.
	entered := syscall.Chdir(process.Dir)
	if entered != nil && !errors.Is(entered, unix.EACCES) && !errors.Is(entered, unix.EPERM) {
		return failed(StageFolder, entered)
	}
	if err := become(process); err != nil {
		return failed(StageUser, err)
	}
	if entered != nil {
		if err := syscall.Chdir(process.Dir); err != nil {
			return failed(StageFolder, err)
		}
	}
	program, err := lookUp(process.Args[0], process.Env)
	if err != nil {
		return failed(StageProgram, err)
	}
	// Whoever dies before this, for want of a thread for instance, has not started.
	if _, err := syscall.Write(reportDescriptor, []byte{launched}); err != nil {
		return failed(StageProgram, err)
	}
	return failed(StageProgram, syscall.Exec(program, process.Args, process.Env)) //nolint:gosec // that is what we are for
}

// become changes the present thread only. The kernel takes all capabilities from a thread that stops being root.
func become(p Process) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(unsafe.Pointer(unsafe.SliceData(p.Groups))), 0); errno != 0 { //nolint:gosec // the kernel's call
		return errno
	}
	gid, uid := uintptr(p.GID), uintptr(p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return errno
	}
	return nil
}

// lookUp finds a program as the user would.
func lookUp(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	last := -1
	for at, variable := range env {
		if strings.HasPrefix(variable, "PATH=") {
			last = at
		}
	}
	if last < 0 || name == "" {
		return "", unix.ENOENT
	}
	refused := error(unix.ENOENT)
	for folder := range strings.SplitSeq(strings.TrimPrefix(env[last], "PATH="), ":") {
		if folder == "" {
			folder = "."
		}
		candidate := folder + "/" + name
		var stat unix.Stat_t
		if err := unix.Stat(candidate, &stat); err != nil || stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if err := unix.Access(candidate, unix.X_OK); err != nil {
			refused = err
			continue
		}
		return candidate, nil
	}
	return "", refused
}

func failed(stage Stage, err error) *StartError {
	errno := unix.EIO
	if found, ok := errors.AsType[syscall.Errno](err); ok {
		errno = found
	}
	return &StartError{Stage: stage, Errno: errno}
}

package privatedaemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// killTimeout bounds the wait for a killed process to be gone.
const killTimeout = 10 * time.Second

// orphan is a process held by a file descriptor, so that the kill cannot hit another one that got its number.
type orphan struct {
	pid int
	fd  int
}

// processesOf finds the shims whose command line or socket names the folder, with all their descendants.
func processesOf(folder string) ([]orphan, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var shims []int
	children := map[int][]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			children[parent] = append(children[parent], pid)
		}
		if isShimOf(pid, folder) {
			shims = append(shims, pid)
		}
	}
	var found []orphan
	for queue := shims; len(queue) > 0; queue = queue[1:] {
		if fd, err := unix.PidfdOpen(queue[0], 0); err == nil {
			found = append(found, orphan{pid: queue[0], fd: fd})
		}
		queue = append(queue, children[queue[0]]...)
	}
	return found, nil
}

// isShimOf recognises containerd's shims and their publishers by the address of the daemon in their command line.
func isShimOf(pid int, folder string) bool {
	commandLine, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	program, _, _ := bytes.Cut(commandLine, []byte{0})
	return strings.HasPrefix(filepath.Base(string(program)), "containerd-shim") && refersTo(commandLine, folder)
}

// parentOf reads the fourth field of stat; the second, the name, may hold anything but ends at the last parenthesis.
func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// kill ends the process and waits until it is gone.
func (o orphan) kill() error {
	defer func() { _ = unix.Close(o.fd) }()
	if err := unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("killing process %d: %w", o.pid, err)
	}
	deadline := time.Now().Add(killTimeout)
	for {
		// A pidfd becomes readable when its process ends.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds())) //nolint:gosec // descriptors are small
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("waiting for process %d: %w", o.pid, err)
		case n == 0:
			return fmt.Errorf("process %d does not end: %w", o.pid, os.ErrDeadlineExceeded)
		}
		return nil
	}
}

// unmountBelow detaches the deepest mounts first.
func unmountBelow(folder string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(folder))
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
	var errs []error
	for _, mount := range mounts {
		if err := unix.Unmount(mount.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", mount.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

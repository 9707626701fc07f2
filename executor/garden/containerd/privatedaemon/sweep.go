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
	// traces are what it leaves behind when it is killed: its control groups, and for a shim its socket.
	traces []string
}

const (
	cgroupRoot = "/sys/fs/cgroup"
	// shimSockets is where containerd's shims listen; the folder is one for all daemons of the machine.
	shimSockets = "/run/containerd/s"
)

// processesOf finds the shims whose command line or socket names the folder, with all their descendants, and a daemon whose
// launcher is gone.
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
		if isEngineOf(pid, folder) {
			shims = append(shims, pid)
		}
	}
	var found []orphan
	for queue := shims; len(queue) > 0; queue = queue[1:] {
		if fd, err := unix.PidfdOpen(queue[0], 0); err == nil {
			found = append(found, orphan{pid: queue[0], fd: fd, traces: append(groupsOf(queue[0]), socketsOf(queue[0])...)})
		}
		queue = append(queue, children[queue[0]]...)
	}
	return found, nil
}

// isEngineOf recognises containerd itself, its shims and their publishers by the folder in their command line.
func isEngineOf(pid int, folder string) bool {
	commandLine, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	program, _, _ := bytes.Cut(commandLine, []byte{0})
	return strings.HasPrefix(filepath.Base(string(program)), "containerd") && refersTo(commandLine, folder)
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

// groupsOf are the control groups of a process as folders, below which this process itself does not live.
func groupsOf(pid int) []string {
	own, _ := os.ReadFile("/proc/self/cgroup")
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil
	}
	var folders []string
	for line := range strings.Lines(string(content)) {
		// hierarchy:controllers:path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[2] == "/" || strings.Contains(string(own), line) {
			continue
		}
		hierarchy := strings.TrimPrefix(fields[1], "name=")
		if hierarchy == "" {
			folders = append(folders, filepath.Join(cgroupRoot, fields[2]))
			hierarchy = "unified"
		}
		folders = append(folders, filepath.Join(cgroupRoot, hierarchy, fields[2]))
	}
	return folders
}

// socketsOf are the unix sockets that a shim listens at, whose names only the kernel knows.
func socketsOf(pid int) []string {
	open := map[string]bool{}
	descriptors, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd/*"))
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(descriptor); err == nil {
			open[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	content, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(content)) {
		// the seventh field is the number, the eighth the path
		if fields := strings.Fields(line); len(fields) == 8 && open[fields[6]] && filepath.Dir(fields[7]) == shimSockets {
			paths = append(paths, fields[7])
		}
	}
	return paths
}

// wipe removes what a killed process left. A group that others use stays.
func (o orphan) wipe() {
	for _, path := range o.traces {
		_ = os.Remove(path)
	}
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

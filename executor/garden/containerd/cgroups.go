package containerd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// hierarchy is where the kernel shows control groups: one tree with version 2, one for each controller with version 1.
type hierarchy struct {
	root    string
	unified bool
}

// machineCgroups are those of this machine. A machine with both versions has its controllers in the first.
func machineCgroups() hierarchy {
	return hierarchy{root: "/sys/fs/cgroup", unified: cgroups.Mode() == cgroups.Unified}
}

// folders are those of a group that exist.
func (h hierarchy) folders(group string) []string {
	candidates := []string{filepath.Join(h.root, group)}
	if !h.unified {
		controllers, _ := filepath.Glob(filepath.Join(h.root, "*"))
		candidates = nil
		for _, controller := range controllers {
			candidates = append(candidates, filepath.Join(controller, group))
		}
	}
	var found []string
	for _, folder := range candidates {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			found = append(found, folder)
		}
	}
	return found
}

// removeTimeout bounds the time that killed processes take to leave their group.
const removeTimeout = 10 * time.Second

// remove removes a group with the groups below it, in every hierarchy. What still runs in it is killed: that is
// only so when a creation was cut off and the shim with it.
func (h hierarchy) remove(group string) error {
	deadline := time.Now().Add(removeTimeout)
	for {
		err := h.tryRemove(group)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		timer := time.NewTimer(stopPoll)
		<-timer.C
	}
}

func (h hierarchy) tryRemove(group string) error {
	var errs []error
	for _, top := range h.folders(group) {
		var folders []string
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				folders = append([]string{path}, folders...)
			}
			return nil // a group that vanishes meanwhile is what we want
		})
		errs = append(errs, err)
		for _, folder := range folders {
			err := os.Remove(folder)
			if errors.Is(err, unix.EBUSY) {
				killGroup(folder)
			}
			if err != nil && !isMissing(err) {
				errs = append(errs, fmt.Errorf("removing cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// killGroup kills the processes of one group. A number read from a group that is ours is one of ours.
func killGroup(folder string) {
	content, err := os.ReadFile(filepath.Join(folder, "cgroup.procs")) //nolint:gosec // a group of ours
	if err != nil {
		return // gone meanwhile
	}
	for digits := range strings.FieldsSeq(string(content)) {
		if pid, err := strconv.Atoi(digits); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// oomKills reads how many processes of a group the kernel has killed for memory since the group was made. The kernel
// counts before the process ends, so that a count taken after an exit includes the kill that caused it.
func (h hierarchy) oomKills(group string) uint64 {
	path := filepath.Join(h.root, group, "memory.events")
	if !h.unified {
		path = filepath.Join(h.root, "memory", group, "memory.oom_control")
	}
	file, err := os.Open(path) //nolint:gosec // the path of a group that we made
	if err != nil {
		return 0 // a container without a memory limit, on a kernel without the controller
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if digits, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			if kills, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64); err == nil {
				return kills
			}
		}
	}
	return 0
}

// limitsSwap tells whether the kernel counts swap, so that a limit of memory and swap together can be set.
func (h hierarchy) limitsSwap() bool {
	if h.unified {
		// Only groups below the root have the file; runc ignores a limit of zero where it is missing.
		return true
	}
	_, err := os.Stat(filepath.Join(h.root, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

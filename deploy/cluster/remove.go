package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"diego.internal/executor/garden/containerd/privatedaemon"
)

// recordFile tells a later process who started the cluster in a folder. It is there while the cluster runs, and after its
// launcher was killed.
const recordFile = "cluster.json"

// ran is what is recorded.
type ran struct {
	// Launcher is the process that started the cluster, with the time of its start in clock ticks since boot, because
	// numbers of processes are used again.
	Launcher int    `json:"launcher"`
	Started  uint64 `json:"started"`
	// Cells are the names of the configurations of the reps, Containerd the folders of their engines.
	Cells      []string `json:"cells"`
	Containerd []string `json:"containerd"`
}

func (p *plan) record() error {
	self := os.Getpid()
	started, err := startTime(self)
	if err != nil {
		return err
	}
	r := ran{Launcher: self, Started: started}
	for i, cell := range p.cells {
		r.Cells = append(r.Cells, cell.name)
		r.Containerd = append(r.Containerd, p.containerd(i))
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("recording the cluster: %w", err)
	}
	if err := os.WriteFile(p.path(recordFile), text, 0o644); err != nil { //nolint:gosec // nothing secret
		return fmt.Errorf("recording the cluster: %w", err)
	}
	return nil
}

func readRecord(folder string) (*ran, error) {
	text, err := os.ReadFile(filepath.Join(folder, recordFile)) //nolint:gosec // the caller's folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no cluster is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of the cluster: %w", err)
	}
	r := &ran{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("reading the record of the cluster in %s: %w", folder, err)
	}
	return r, nil
}

// alive says whether the launcher of the record still runs.
func (r *ran) alive() bool {
	started, err := startTime(r.Launcher)
	return err == nil && started == r.Started
}

// StopRunning asks the launcher of the cluster in folder to stop it and waits until it has. It returns false if no launcher
// runs; Remove then cleans up what may be left.
func StopRunning(ctx context.Context, folder string) (bool, error) {
	r, err := readRecord(folder)
	if err != nil || r == nil || !r.alive() || r.Launcher == os.Getpid() {
		return false, err
	}
	if err := syscall.Kill(r.Launcher, syscall.SIGTERM); err != nil {
		return true, fmt.Errorf("stopping the cluster of process %d: %w", r.Launcher, err)
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for r.alive() {
		select {
		case <-ctx.Done():
			return true, fmt.Errorf("waiting for process %d to stop its cluster: %w", r.Launcher, context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return true, nil
}

var errRunning = errors.New("a cluster is running")

// Remove empties the folder of a cluster. If a launcher was killed it first removes what that one could not: containers,
// shims, networks, rules and mounts. It refuses a folder whose cluster runs, and one that holds something else.
func Remove(ctx context.Context, folder, bin string) error {
	r, err := readRecord(folder)
	if err != nil {
		return err
	}
	if r != nil {
		if r.alive() {
			return fmt.Errorf("%w in %s, started by process %d; stop it first (make stop)", errRunning, folder, r.Launcher)
		}
		if err := r.clean(ctx, folder, bin); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking into the folder of the cluster: %w", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "certificates", "ca.crt")); err != nil {
		return fmt.Errorf("%s is not empty and not the folder of a cluster", folder)
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("emptying the folder of the cluster: %w", err)
	}
	return nil
}

// clean does what the killed launcher could not. Its processes died with it; containers did not.
func (r *ran) clean(ctx context.Context, folder, bin string) error {
	var problems []error
	for i, cell := range r.Cells {
		if _, err := os.Stat(r.Containerd[i]); err != nil {
			continue
		}
		// Containers, and an engine that survived its launcher, first: what is left then is only on disk and in the kernel.
		problems = append(problems, privatedaemon.Sweep(r.Containerd[i]))
		daemon, err := privatedaemon.Start(ctx, r.Containerd[i])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		problems = append(problems, runClean(ctx, bin, filepath.Join(folder, "config", cell+".yml")), daemon.Stop())
	}
	return errors.Join(problems...)
}

// startTime of a process in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("looking for process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything; what follows it is fixed, and the start is the 20th field of that.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), ") ")
	fields := strings.Fields(rest)
	const start = 19
	if len(fields) <= start {
		return 0, fmt.Errorf("looking for process %d: unexpected answer of the kernel", pid)
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

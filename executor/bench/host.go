package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor"
	"diego.internal/executor/garden/containerd"
)

// Checks at their usual interval cost less than the rest of the process varies by. They are made more often, and what that
// costs is counted for the usual interval.
const (
	usualInterval = 30 * time.Second
	denseInterval = time.Second
	never         = 1000 * time.Hour
)

// createWidth is how many containers the host orders at a time.
const createWidth = 16

// description of a host, given to the process as an argument.
type description struct {
	Engine     containerd.Config
	StateDir   string
	Containers int
	Settle     time.Duration
}

// cost is what a host found about itself.
type cost struct {
	// ResidentMiB with all containers running.
	ResidentMiB float64
	// CPUPercent is the share of one core with checks every denseInterval, UncheckedPercent that of the same containers
	// without checks.
	CPUPercent, UncheckedPercent float64
	// Checks that failed would show as containers that do not run any more.
	Running int
}

// measureHost runs the host as a process of its own, so that nothing but containers is in its memory.
func (m *machine) measureHost(ctx context.Context, s sizes) error {
	d := description{Engine: m.engine("h", s.hosted), StateDir: filepath.Join(m.folder, "h", "executor"), Containers: s.hosted, Settle: s.settle}
	d.Engine.Log = nil
	encoded, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("describing the host: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our program: %w", err)
	}
	out, err := runBound(ctx, program, "-host", string(encoded))
	if err != nil {
		return err
	}
	var found cost
	if err := json.Unmarshal(out, &found); err != nil {
		return fmt.Errorf("reading what the host found: %w", err)
	}
	if found.Running != s.hosted {
		return fmt.Errorf("%d of %d containers run after the measurement", found.Running, s.hosted)
	}
	row(fmt.Sprintf("cell_rep_rss_%d", s.hosted), s.hosted, found.ResidentMiB, "MiB")
	row(fmt.Sprintf("cell_checks_cpu_%d", s.hosted), s.hosted, (found.CPUPercent-found.UncheckedPercent)/usualInterval.Seconds()*denseInterval.Seconds(), "percent")
	aside(fmt.Sprintf("cell_unchecked_cpu_%d", s.hosted), s.hosted, found.UncheckedPercent, "percent")
	return nil
}

// runBound runs a program that is killed when we end, however we end, and asked to stop when ctx ends.
func runBound(ctx context.Context, program string, args ...string) ([]byte, error) {
	runtime.LockOSThread() // the kernel ends the process with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // it is ourselves
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running the host: %w", err)
	}
	return out, nil
}

// hostContainers is that process. It prints what it cost, and removes its containers.
func hostContainers(ctx context.Context, encoded string) (err error) {
	var d description
	if err := json.Unmarshal([]byte(encoded), &d); err != nil {
		return fmt.Errorf("reading the description: %w", err)
	}
	d.Engine.Log = errorLog()
	c, err := openCell(ctx, d.Engine, d.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.clean(context.WithoutCancel(ctx))) }()
	if err := c.fill(ctx, d.Containers); err != nil {
		return err
	}
	var found cost
	if found.CPUPercent, err = c.shareWithChecks(ctx, denseInterval, d.Settle); err != nil {
		return err
	}
	if found.ResidentMiB, err = resident(); err != nil {
		return err
	}
	if found.UncheckedPercent, err = c.shareWithChecks(ctx, never, d.Settle); err != nil {
		return err
	}
	for _, record := range c.client.ListContainers() {
		if record.State == executor.StateRunning {
			found.Running++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// fill starts containers, each with a server that is checked.
func (c *cell) fill(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(createWidth)
	for i := range n {
		group.Go(func() error {
			info := workload("exec httpd -f -p 8080")
			info.CheckDefinition = &executor.CheckDefinition{Checks: []executor.Check{{TCP: &executor.TCPCheck{Port: 8080}}}}
			info.StartTimeout = time.Minute
			return c.create(ctx, fmt.Sprintf("hosted-%d", i), info)
		})
	}
	return group.Wait()
}

// shareWithChecks restarts the executor, which adopts its containers, so that checks come at another interval, and returns
// the share of one core that it takes then.
func (c *cell) shareWithChecks(ctx context.Context, interval, d time.Duration) (float64, error) {
	c.config.HealthyInterval = interval
	if err := c.reopen(ctx); err != nil {
		return 0, err
	}
	if _, err := processorShare(ctx, 2*denseInterval); err != nil { // what the start costs is over by then
		return 0, err
	}
	return processorShare(ctx, d)
}

// processorShare waits and returns the percentage of one core that this process used meanwhile.
func processorShare(ctx context.Context, d time.Duration) (float64, error) {
	before, err := processorTime()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := processorTime()
	return 100 * (after - before).Seconds() / time.Since(began).Seconds(), err
}

func processorTime() (time.Duration, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, fmt.Errorf("reading our processor time: %w", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}

// resident is our memory in MiB.
func resident() (float64, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading our memory: %w", err)
	}
	defer func() { _ = status.Close() }() // only read from
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("reading our memory: the kernel tells no VmRSS")
}

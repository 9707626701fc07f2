package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of the times in /proc, in every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// measured runs one measurement and says on standard error what it cost: seconds of processor time that the BBS and we took,
// and per call of the measurement. Unlike rates these can be compared between machines that have other work to do. With a
// folder for profiles it writes what both spent the time on.
func (w *world) measured(ctx context.Context, name string, calls int, f func(context.Context) error) error {
	finish, err := w.profile(ctx, name)
	if err != nil {
		return err
	}
	bbs, bench, err := w.processorTime()
	if err != nil {
		return err
	}
	err = f(ctx)
	bbsAfter, benchAfter, timeErr := w.processorTime()
	if err := errors.Join(err, timeErr, finish()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	bbs, bench = bbsAfter-bbs, benchAfter-bench
	mib, err := w.bbs.memory("VmRSS")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: bbs %.2f s cpu (%s per call), bench %.2f s cpu (%s per call), bbs holds %.0f MiB\n",
		name, bbs.Seconds(), perCall(bbs, calls), bench.Seconds(), perCall(bench, calls), mib)
	return nil
}

func perCall(d time.Duration, calls int) time.Duration {
	return (d / time.Duration(calls)).Round(100 * time.Nanosecond)
}

// processorTime returns what the BBS and this program have used so far.
func (w *world) processorTime() (bbs, bench time.Duration, err error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return 0, 0, fmt.Errorf("reading our processor time: %w", err)
	}
	bbs, err = w.bbs.processorTime()
	return bbs, time.Duration(own.Utime.Nano() + own.Stime.Nano()), err
}

// processorTime returns what the process has used so far, in user and system mode.
func (p *process) processorTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", p.name, err)
	}
	// The fields are counted from after the name, which may hold anything but this.
	var user, system int64
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("the processor time of %s is not known", p.name)
	}
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", p.name, err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// profileSeconds is how long the BBS is profiled from the beginning of a measurement.
const profileSeconds = 3

// profile begins to profile the BBS and this program, if that was asked for. What it returns ends it.
func (w *world) profile(ctx context.Context, name string) (finish func() error, err error) {
	if w.cfg.profiles == "" {
		return func() error { return nil }, nil
	}
	own, err := os.Create(filepath.Join(w.cfg.profiles, name+"-bench.pprof")) //nolint:gosec // a folder that the caller chose
	if err != nil {
		return nil, fmt.Errorf("profiling: %w", err)
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		return nil, errors.Join(fmt.Errorf("profiling: %w", err), own.Close())
	}
	done := make(chan error, 1)
	go func() { done <- w.bbs.profile(ctx, filepath.Join(w.cfg.profiles, name+"-bbs.pprof")) }()
	return func() error {
		pprof.StopCPUProfile()
		return errors.Join(<-done, own.Close())
	}, nil
}

func (p *process) profile(ctx context.Context, file string) error {
	for path, to := range map[string]string{
		fmt.Sprintf("/debug/pprof/profile?seconds=%d", profileSeconds): file,
		"/debug/pprof/heap": strings.TrimSuffix(file, ".pprof") + "-heap.pprof",
		"/metrics":          strings.TrimSuffix(file, ".pprof") + "-metrics.txt",
	} {
		if err := p.fetch(ctx, path, to); err != nil {
			return fmt.Errorf("profiling %s: %w", p.name, err)
		}
	}
	return nil
}

// fetch writes what the debug listener tells to a file.
func (p *process) fetch(ctx context.Context, path, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.debug+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it is only read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"diego.internal/executor/garden"
)

// processesFolder holds a folder for each process of a container; outputFolder in it is the logger's.
const (
	processesFolder = "processes"
	outputFolder    = "output"
)

// startRecord is what must be known of a process before it runs; exitRecord what must be known when containerd has
// been told to forget it.
type startRecord struct {
	ID string `json:"id"`
	// OOMKills is the kernel's count for the container when the process started.
	OOMKills uint64 `json:"oom_kills"`
}

type exitRecord struct {
	Code        int  `json:"code"`
	OutOfMemory bool `json:"out_of_memory"`
	OutOfDisk   bool `json:"out_of_disk"`
}

func (c *container) processFolder(id string) string {
	return filepath.Join(c.folder, processesFolder, engineName(id))
}

// Run lets the init start a process, or, if that cannot be, runc.
func (c *container) Run(ctx context.Context, spec garden.ProcessSpec, out garden.ProcessIO) (garden.Process, error) {
	p, err := c.run(c.backend.within(ctx), spec, out)
	if err != nil {
		return nil, fmt.Errorf("running process %q in %q: %w", spec.ID, c.handle, engineError(err))
	}
	return p, nil
}

func (c *container) run(ctx context.Context, spec garden.ProcessSpec, out garden.ProcessIO) (*process, error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	as, err := c.identity(spec.User)
	if err != nil {
		return nil, err
	}
	oci, err := c.ociProcess(ctx, spec, as)
	if err != nil {
		return nil, fmt.Errorf("generating specification: %w", err)
	}
	if err := c.ensureFolder(oci.Cwd, as); err != nil {
		return nil, err
	}
	p, err := c.recordProcess(spec.ID)
	if err != nil {
		return nil, err
	}
	if p.source, err = c.begin(ctx, p, oci); err == nil {
		p.attach(out)
		err = p.follow()
	}
	if err != nil {
		c.forgetProcess(p)
		return nil, errors.Join(err, c.undoRun(ctx, p))
	}
	return p, nil
}

// begin starts a process by the quickest way that is open.
func (c *container) begin(ctx context.Context, p *process, oci *specs.Process) (source, error) {
	begun, err := c.spawn(ctx, p, oci)
	if refused, ok := errors.AsType[*notSpawnedError](err); ok {
		if missing, ok := errors.AsType[*garden.ExecutableNotFoundError](c.explain(refused.err, oci)); ok {
			return nil, missing
		}
		c.backend.cfg.Log.DebugContext(ctx, "process-left-to-runc", "handle", c.handle, "process", p.id, "error", refused.err)
		begun, err = c.exec(ctx, p, oci)
	}
	if err != nil {
		return nil, c.explain(err, oci)
	}
	return begun, nil
}

// undoRun removes a process that may or may not have started.
func (c *container) undoRun(ctx context.Context, p *process) error {
	cleanup, cancel := c.backend.cleanup(ctx)
	defer cancel()
	return errors.Join(c.undoSpawn(cleanup, p), c.undoExec(cleanup, p), os.RemoveAll(p.folder))
}

// ensureFolder makes the working folder of a process, which runc would not.
func (c *container) ensureFolder(folder string, owner identity) error {
	if found, err := c.exists(folder); err != nil || found {
		return err
	}
	return c.inside(func() error { return makeFolders(folder, owner) })
}

// recordProcess writes what a later program must know before anything runs; its folder makes the id unique.
func (c *container) recordProcess(id string) (*process, error) {
	p := c.newProcess(id)
	if err := os.Mkdir(p.folder, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: process id %q is taken", garden.ErrInvalidSpec, id)
		}
		return nil, fmt.Errorf("making folder of process: %w", err)
	}
	p.oomKills = machineCgroups().oomKills(c.cgroup())
	err := os.Mkdir(filepath.Join(p.folder, outputFolder), 0o700)
	if err == nil {
		err = writeJSON(filepath.Join(p.folder, "start.json"), startRecord{ID: id, OOMKills: p.oomKills})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("recording process: %w", err), os.RemoveAll(p.folder))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes[id] = p
	c.started = append(c.started, p)
	c.pruneLocked()
	return p, nil
}

// keepEnded is how many ended processes of a container can still be attached to. Checks that run every few seconds
// for weeks would otherwise fill disk and memory.
const keepEnded = 64

// pruneLocked forgets the oldest processes whose end somebody was told.
func (c *container) pruneLocked() {
	excess := len(c.started) - keepEnded
	c.started = slices.DeleteFunc(c.started, func(p *process) bool {
		if excess <= 0 || !p.over() {
			return false
		}
		excess--
		delete(c.processes, p.id)
		if err := os.RemoveAll(p.folder); err != nil {
			c.backend.cfg.Log.WarnContext(c.backend.ctx, "ended-process-remains", "handle", c.handle, "process", p.id, "error", err)
		}
		return true
	})
}

func (c *container) forgetProcess(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[p.id] == p {
		delete(c.processes, p.id)
	}
	c.started = slices.DeleteFunc(c.started, func(other *process) bool { return other == p })
}

func (c *container) cgroup() string { return filepath.Join(c.backend.cfg.cgroupParent(), c.id) }

// explain finds out whether a failed start was for want of the program, by looking for it: runc's words may change.
func (c *container) explain(err error, oci *specs.Process) error {
	program := oci.Args[0]
	candidates := []string{program}
	if !strings.Contains(program, "/") {
		candidates = nil
		for _, variable := range oci.Env {
			if folders, ok := strings.CutPrefix(variable, "PATH="); ok {
				for folder := range strings.SplitSeq(folders, ":") {
					candidates = append(candidates, path.Join(folder, program))
				}
			}
		}
	}
	for _, candidate := range candidates {
		if !path.IsAbs(candidate) {
			candidate = path.Join(oci.Cwd, candidate)
		}
		if found, lookErr := c.exists(candidate); lookErr != nil || found {
			return err
		}
	}
	return &garden.ExecutableNotFoundError{Path: program, Err: err}
}

// Attach finds a process of this or of an earlier program and gives its output to out from now on.
func (c *container) Attach(ctx context.Context, processID string, out garden.ProcessIO) (garden.Process, error) {
	p, err := c.attach(c.backend.within(ctx), processID, out)
	if err != nil {
		return nil, fmt.Errorf("attaching to process %q in %q: %w", processID, c.handle, engineError(err))
	}
	return p, nil
}

func (c *container) attach(ctx context.Context, id string, out garden.ProcessIO) (*process, error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	c.loading.Lock() // one at a time, so that nobody loads what another one is loading
	defer c.loading.Unlock()
	if p := c.process(id); p != nil {
		p.attach(out)
		return p, nil
	}
	p, err := c.loadProcess(ctx, id)
	if err != nil {
		return nil, err
	}
	p.attach(out)
	if err := p.follow(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes[id] = p
	c.started = append(c.started, p)
	return p, nil
}

// process is one that this program knows, or nil.
func (c *container) process(id string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes[id]
}

// loadProcess takes up a process that an earlier program started: one that has ended and was noted, or one that
// containerd knows.
func (c *container) loadProcess(ctx context.Context, id string) (*process, error) {
	p := c.newProcess(id)
	var start startRecord
	if err := readJSON(filepath.Join(p.folder, "start.json"), &start); err != nil {
		if isMissing(err) {
			return nil, garden.ErrUnknownProcess
		}
		return nil, err
	}
	p.oomKills = start.OOMKills
	var exit exitRecord
	if err := readJSON(filepath.Join(p.folder, "exit.json"), &exit); err == nil {
		p.noted, p.source = &exit, endedSource{}
		return p, nil
	} else if !isMissing(err) {
		return nil, err
	}
	for _, find := range []func(context.Context, *process) (source, error){c.findSpawned, c.findExec} {
		found, err := find(ctx, p)
		if err != nil {
			return nil, err
		}
		if found != nil {
			p.source = found
			return p, nil
		}
	}
	// The program that wrote the record was killed before the process ran.
	return nil, errors.Join(garden.ErrUnknownProcess, os.RemoveAll(p.folder))
}

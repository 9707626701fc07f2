package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/spawn"
)

// container is one container of this cell. What its record holds is changed under mu and written at once.
type container struct {
	backend *Backend
	handle  string
	id      string
	folder  string

	// life is held while the container is made or destroyed.
	life sync.Mutex

	mu        sync.Mutex
	record    *record
	processes map[string]*process // that this program knows, by id
	started   []*process          // the same, oldest first

	// loading is held while processes of an earlier program are taken up.
	loading sync.Mutex

	reach       sync.Mutex // held while the init is being reached
	link        *spawn.Client
	unreachable bool
}

var _ garden.Container = (*container)(nil)

func (b *Backend) newContainer(r *record) *container {
	return &container{backend: b, handle: r.Handle, id: r.ID, folder: b.cfg.folder(r.ID), record: r, processes: map[string]*process{}}
}

func (c *container) Handle() string { return c.handle }

func (c *container) phase() phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record.Phase
}

func (c *container) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record.Pid
}

// view is the record as it is now.
func (c *container) view() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.record
}

// update changes phase, pid or properties of the record in memory and on disk, or neither.
func (c *container) update(change func(*record) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.record
	next.Properties = maps.Clone(c.record.Properties)
	if err := change(&next); err != nil {
		return err
	}
	if err := c.backend.cfg.save(&next); err != nil {
		return err
	}
	// Only these ever change after the creation. All else is read without the lock.
	c.record.Phase, c.record.Pid, c.record.Properties = next.Phase, next.Pid, next.Properties
	return nil
}

// condemn marks the container for destruction. The record may be gone already, by an earlier attempt, and a full disk must
// not keep what fills it: the mark is then in memory only, and a later program finds a container without its init instead.
func (c *container) condemn() error {
	if c.phase() == phaseDestroying {
		return nil
	}
	err := c.update(func(r *record) error {
		r.Phase = phaseDestroying
		return nil
	})
	switch {
	case err == nil, isMissing(err):
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.record.Phase = phaseDestroying
		return nil
	}
	return fmt.Errorf("marking for destruction: %w", err)
}

// usable refuses calls on a container that is not, or no longer, whole.
func (c *container) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	switch c.phase() {
	case phaseCreated:
		return nil
	case phaseDestroying:
		return fmt.Errorf("%w: %w", garden.ErrUnknownHandle, garden.ErrBeingDestroyed)
	case phaseCreating:
	}
	return garden.ErrUnknownHandle
}

func (c *container) matches(filter garden.Properties) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record.Phase != phaseCreated && !filter.IncludesHalfCreated() {
		return false
	}
	return c.record.Properties.Match(filter)
}

func (c *container) Info(ctx context.Context) (garden.Info, error) {
	if err := ctx.Err(); err != nil {
		return garden.Info{}, fmt.Errorf("reading info of %q: %w", c.handle, context.Cause(ctx))
	}
	if c.backend.find(c.handle) != c {
		return garden.Info{}, fmt.Errorf("reading info of %q: %w", c.handle, garden.ErrUnknownHandle)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info := garden.Info{
		ExternalIP:  c.backend.cfg.ExternalIP.String(),
		MappedPorts: slices.Clone(c.record.Lease.Ports),
		Properties:  maps.Clone(c.record.Properties),
		CreatedAt:   c.record.CreatedAt,
	}
	if c.record.Lease.Container.IsValid() {
		info.ContainerIP = c.record.Lease.Container.String()
	}
	return info, nil
}

// SetProperty returns when the value is on disk.
func (c *container) SetProperty(ctx context.Context, name, value string) error {
	err := c.usable(ctx)
	if err == nil {
		err = c.update(func(r *record) error {
			if r.Properties == nil {
				r.Properties = garden.Properties{}
			}
			r.Properties[name] = value
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("setting property %q of %q: %w", name, c.handle, err)
	}
	return nil
}

const (
	// stopGrace is the time between the two signals of Stop.
	stopGrace = 10 * time.Second
	// stopPoll is the pause between looks at what still runs.
	stopPoll = 50 * time.Millisecond
)

// Stop returns when only the init is left.
func (c *container) Stop(ctx context.Context, kill bool) error {
	err := c.usable(ctx)
	if err == nil {
		err = c.stop(c.backend.within(ctx), kill)
	}
	if err != nil {
		return fmt.Errorf("stopping %q: %w", c.handle, engineError(err))
	}
	return nil
}

func (c *container) stop(ctx context.Context, kill bool) error {
	signal := unix.SIGTERM
	if kill {
		signal = unix.SIGKILL
	}
	deadline := time.Now().Add(stopGrace)
	for first := true; ; first = false {
		pids, err := c.pids(ctx)
		if err != nil || len(pids) == 0 {
			return err
		}
		if signal == unix.SIGTERM && time.Now().After(deadline) {
			signal = unix.SIGKILL
		}
		// TERM is sent once; KILL again and again, because what is forked between look and signal escapes one round.
		if first || signal == unix.SIGKILL {
			c.signalAll(pids, signal)
		}
		timer := time.NewTimer(stopPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// pids are the processes of the container but its init.
func (c *container) pids(ctx context.Context) ([]int, error) {
	response, err := c.backend.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: c.id})
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", errgrpc.ToNative(err))
	}
	var pids []int
	for _, info := range response.GetProcesses() {
		if int(info.GetPid()) != c.pid() {
			pids = append(pids, int(info.GetPid()))
		}
	}
	return pids, nil
}

func (c *container) signalAll(pids []int, signal unix.Signal) {
	for _, pid := range pids {
		process, err := os.FindProcess(pid) // holds the process, so that the check is about whom the signal reaches
		if err != nil {
			continue
		}
		if c.owns(pid) {
			_ = process.Signal(signal) // one that has ended meanwhile is what we want
		}
		_ = process.Release()
	}
}

// ended tells all who wait for processes that the container is no more.
func (c *container) ended() {
	c.mu.Lock()
	processes := slices.Collect(maps.Values(c.processes))
	c.mu.Unlock()
	for _, p := range processes {
		p.abandon()
	}
}

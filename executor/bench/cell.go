package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor"
	"diego.internal/executor/garden/containerd"
)

// cell is an executor on the real engine, and who waits for its events.
type cell struct {
	config  executor.Config
	backend *containerd.Backend
	client  *executor.Client
	events  *executor.Subscription
	work    errgroup.Group
	end     context.CancelFunc

	mu      sync.Mutex
	waiting map[string]chan executor.Container // by guid; gets the container when it runs and when it has ended
}

func (m *machine) openCell(ctx context.Context, containers int) (*cell, error) {
	return openCell(ctx, m.engine("c", containers), filepath.Join(m.folder, "c", "executor"))
}

func openCell(ctx context.Context, engine containerd.Config, stateDir string) (*cell, error) {
	for _, folder := range []string{engine.StateFolder, stateDir} {
		if err := os.MkdirAll(folder, 0o711); err != nil { //nolint:gosec // users of containers pass through it
			return nil, fmt.Errorf("making the folders of a cell: %w", err)
		}
	}
	backend, err := containerd.New(ctx, engine)
	if err != nil {
		return nil, err
	}
	c := &cell{
		config: executor.Config{
			CellID: engine.CellID, Engine: backend, Log: engine.Log, StateDir: stateDir, MemoryMB: 1 << 20, DiskMB: 1 << 20,
			DrainTime: -1, // there are no routers to wait for, and a wait is no work
		},
		backend: backend,
		waiting: make(map[string]chan executor.Container),
	}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	return c, nil
}

func (c *cell) open(ctx context.Context) (err error) {
	if c.client, err = executor.Open(ctx, c.config); err != nil {
		return err
	}
	c.events = c.client.SubscribeToEvents()
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	client, events := c.client, c.events
	c.end = end
	c.work.Go(func() error { return client.Run(running) })
	c.work.Go(func() error { return c.follow(running, events) })
	return nil
}

// leave ends our part; containers go on.
func (c *cell) leave() error {
	c.end()
	c.events.Close()
	return c.work.Wait()
}

// reopen is a restart with the configuration as it is now.
func (c *cell) reopen(ctx context.Context) error {
	if err := c.leave(); err != nil {
		return err
	}
	return c.open(ctx)
}

// follow hands events to those who wait for them, as the rep does.
func (c *cell) follow(ctx context.Context, events *executor.Subscription) error {
	for {
		event, err := events.Next(ctx)
		if err != nil {
			return nil //nolint:nilerr // the end of the cell
		}
		if event.Kind == executor.EventReserved {
			continue
		}
		c.mu.Lock()
		wake := c.waiting[event.Container.GUID]
		c.mu.Unlock()
		if wake != nil {
			wake <- event.Container
		}
	}
}

// clean removes all containers and what belongs to the cell.
func (c *cell) clean(ctx context.Context) error {
	err := c.client.Cleanup(ctx)
	return errors.Join(err, c.leave(), executor.Clean(ctx, c.config), c.backend.Clean(ctx), c.backend.Close())
}

// create orders a container and waits until it runs.
func (c *cell) create(ctx context.Context, guid string, info executor.RunInfo) error {
	wake := make(chan executor.Container, 8)
	c.mu.Lock()
	c.waiting[guid] = wake
	c.mu.Unlock()
	for _, refused := range c.client.AllocateContainers(ctx, []executor.AllocationRequest{{
		GUID: guid, Resources: executor.ContainerResources{MemoryMB: 64, DiskMB: 64, MaxPids: 100},
	}}) {
		return fmt.Errorf("reserving: %w", refused.Err)
	}
	if err := c.client.RunContainer(ctx, executor.RunRequest{GUID: guid, Info: info}); err != nil {
		return err
	}
	return c.await(ctx, guid, executor.StateRunning)
}

func (c *cell) await(ctx context.Context, guid string, want executor.State) error {
	c.mu.Lock()
	wake := c.waiting[guid]
	c.mu.Unlock()
	select {
	case got := <-wake:
		if got.State != want {
			return fmt.Errorf("container %q is %s, want %s: %s", guid, got.State, want, got.Result.FailureReason)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *cell) remove(ctx context.Context, guid string) error {
	c.mu.Lock()
	delete(c.waiting, guid)
	c.mu.Unlock()
	return c.client.DeleteContainer(ctx, guid)
}

// plain is a workload that runs as soon as its process does.
func plain() executor.RunInfo { return workload("exec sleep 1000000") }

func workload(script string) executor.RunInfo {
	return executor.RunInfo{
		RootFS: "preloaded:busybox", LogRateLimit: -1, CPUWeight: 10, Ports: []uint32{8080},
		LogConfig: executor.LogConfig{GUID: "app", SourceName: "APP"},
		Action:    &executor.Action{Run: &executor.RunAction{Path: "/bin/sh", Args: []string{"-c", script}, User: "vcap"}},
	}
}

// times of one container.
type times struct{ create, stop, remove time.Duration }

// one takes a container through its life.
func (c *cell) one(ctx context.Context, guid string) (times, error) {
	var t times
	began := time.Now()
	if err := c.create(ctx, guid, plain()); err != nil {
		return t, err
	}
	t.create = time.Since(began)
	began = time.Now()
	if err := c.client.StopContainer(ctx, guid); err != nil {
		return t, err
	}
	if err := c.await(ctx, guid, executor.StateCompleted); err != nil {
		return t, err
	}
	t.stop = time.Since(began)
	began = time.Now()
	err := c.remove(ctx, guid)
	t.remove = time.Since(began)
	return t, err
}

// many orders n containers at once and removes them when all run.
func (c *cell) many(ctx context.Context, prefix string, n int) (samples, error) {
	took := make(samples, n)
	guids := make([]string, n)
	var all errgroup.Group
	began := time.Now()
	for i := range n {
		guids[i] = fmt.Sprintf("%s-%d", prefix, i)
		all.Go(func() error {
			err := c.create(ctx, guids[i], plain())
			took[i] = time.Since(began)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	for _, guid := range guids {
		all.Go(func() error { return c.remove(ctx, guid) })
	}
	return took, all.Wait()
}

package simulated

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/gardentest"
)

// scripts are the fates of the suite's processes by id.
type scripts struct {
	mu    sync.Mutex
	fates map[string]Fate
}

func (s *scripts) set(id string, program gardentest.Program) {
	fate := Fate{
		Stdout: program.Stdout, Stderr: program.Stderr, Code: program.Code,
		UntilSignalled: program.Lasts, IgnoreTerminate: program.IgnoresTerminate,
	}
	if program.Missing {
		fate = Fate{Err: &garden.ExecutableNotFoundError{Path: program.Shell}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fates[id] = fate
}

func (s *scripts) get(_ garden.ContainerSpec, spec garden.ProcessSpec) Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fates[spec.ID]
}

func TestConformance(t *testing.T) {
	t.Parallel()
	gardentest.Run(t, func(*testing.T) gardentest.Harness {
		s := &scripts{fates: map[string]Fate{}}
		engine := New(Config{OnRun: s.get})
		return gardentest.Harness{
			Client: engine,
			Reopen: func(*testing.T) garden.Client {
				engine.Detach()
				return engine
			},
			Script: s.set,
		}
	})
}

func TestProcessEndsAsScripted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine := New(Config{OnRun: func(garden.ContainerSpec, garden.ProcessSpec) Fate {
			return Fate{After: time.Hour, Code: 5, OutOfMemory: true, OutOfDisk: true}
		}})
		c, err := engine.Create(t.Context(), garden.ContainerSpec{Handle: "h"})
		require.NoError(t, err)
		p, err := c.Run(t.Context(), garden.ProcessSpec{ID: "p", Path: "x"}, garden.ProcessIO{})
		require.NoError(t, err)
		began := time.Now()
		status, err := p.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, garden.ExitStatus{Code: 5, OutOfMemory: true, OutOfDisk: true}, status)
		require.Equal(t, time.Hour, time.Since(began))
	})
}

func TestStopKillsAfterGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine := New(Config{OnRun: func(garden.ContainerSpec, garden.ProcessSpec) Fate {
			return Fate{UntilSignalled: true, IgnoreTerminate: true}
		}})
		c, err := engine.Create(t.Context(), garden.ContainerSpec{Handle: "h"})
		require.NoError(t, err)
		p, err := c.Run(t.Context(), garden.ProcessSpec{ID: "p", Path: "x"}, garden.ProcessIO{})
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, c.Stop(t.Context(), false))
		require.Equal(t, 10*time.Second, time.Since(began), "stop returns when all have ended")
		status, err := p.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 137, status.Code)
	})
}

func TestEngineFailsAsTold(t *testing.T) {
	t.Parallel()
	down := New(Config{})
	down.SetDown(garden.ErrBeingDestroyed)
	require.ErrorIs(t, down.Ping(t.Context()), garden.ErrEngineNotRunning)
	down.SetDown(nil)
	require.NoError(t, down.Ping(t.Context()))

	full := New(Config{Capacity: garden.Capacity{MaxContainers: 1}, HostPorts: garden.PortRange{Start: 7, End: 7}})
	_, err := full.Create(t.Context(), garden.ContainerSpec{Handle: "a", NetIn: []garden.NetIn{{ContainerPort: 1}, {ContainerPort: 2}}})
	require.ErrorIs(t, err, garden.ErrPortsExhausted)
	_, err = full.Create(t.Context(), garden.ContainerSpec{Handle: "a", NetIn: []garden.NetIn{{ContainerPort: 1}}})
	require.NoError(t, err, "a failed creation leaves nothing taken")
	_, err = full.Create(t.Context(), garden.ContainerSpec{Handle: "b"})
	require.ErrorIs(t, err, garden.ErrMaxContainers)

	failing := New(Config{OnCreate: func(garden.ContainerSpec) (time.Duration, error) { return 0, garden.ErrNoAddress }})
	_, err = failing.Create(t.Context(), garden.ContainerSpec{Handle: "a"})
	require.ErrorIs(t, err, garden.ErrNoAddress)
	_, err = failing.Lookup(t.Context(), "a")
	require.ErrorIs(t, err, garden.ErrUnknownHandle)
}

func TestVanishEndsProcesses(t *testing.T) {
	t.Parallel()
	engine := New(Config{})
	c, err := engine.Create(t.Context(), garden.ContainerSpec{Handle: "h"})
	require.NoError(t, err)
	p, err := c.Run(t.Context(), garden.ProcessSpec{ID: "p", Path: "x"}, garden.ProcessIO{})
	require.NoError(t, err)
	engine.Vanish("h")
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 137, status.Code)
	require.ErrorIs(t, engine.Destroy(t.Context(), "h"), garden.ErrUnknownHandle)
}

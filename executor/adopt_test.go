package executor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

func TestOpenAdopts(t *testing.T) {
	t.Parallel()
	app := process("/app", "APP")
	setup := process("/setup", "STG")
	tests := map[string]struct {
		script script
		create time.Duration
		info   RunInfo
		before func(c *cell) // just before the process goes
		away   func(c *cell) // while nobody watches
		want   State
		result Result
		// starts is how many processes were started in all.
		starts int64
	}{
		"a running container goes on": {
			info: RunInfo{Action: &app}, want: StateRunning, starts: 1,
		},
		"a stop afterwards reaches the process": {
			info: RunInfo{Action: &app}, want: StateRunning, starts: 1,
		},
		"a crash while nobody watched is found": {
			script: script{"/app": {After: 5 * time.Second, Code: 3}},
			info:   RunInfo{Action: &app}, want: StateCompleted, starts: 1,
			away:   func(*cell) { time.Sleep(5 * time.Second) }, //nolint:forbidigo // the clock of the bubble
			result: Result{Failed: true, FailureReason: "APP: Exited with status 3"},
		},
		"the setup is not repeated": {
			script: script{"/setup": {After: time.Second}},
			info:   RunInfo{Setup: &setup, Action: &app}, want: StateRunning, starts: 2,
			before: func(*cell) { time.Sleep(time.Second) }, //nolint:forbidigo // the clock of the bubble
		},
		"a serial action goes on with its second part": {
			script: script{"/first": {After: time.Second}, "/app": {After: time.Minute, Code: 4}},
			info:   RunInfo{Action: &Action{Serial: &SerialAction{Actions: []Action{process("/first", "A"), app}}}},
			before: func(*cell) { time.Sleep(2 * time.Second) }, //nolint:forbidigo // the clock of the bubble
			want:   StateRunning, starts: 2,
		},
		"a container lost meanwhile is missing": {
			info: RunInfo{Action: &app}, want: StateCompleted, starts: 1,
			away:   func(c *cell) { c.engine.Vanish("i") },
			result: Result{Failed: true, FailureReason: "missing garden container"},
		},
		"a creation cut off may be tried again elsewhere": {
			create: time.Minute,
			info:   RunInfo{Action: &app}, want: StateCompleted,
			result: Result{Failed: true, Retryable: true, CellAtFault: true, FailureReason: interruptedCreation},
		},
		"a setup cut off may be tried again elsewhere": {
			info: RunInfo{Setup: &setup, Action: &app}, want: StateCompleted, starts: 1,
			result: Result{Failed: true, Retryable: true, CellAtFault: true, FailureReason: interruptedCreation},
		},
		"a result that nobody has asked for is kept": {
			script: script{"/app": {Code: 9}},
			info:   RunInfo{Action: &app}, want: StateCompleted, starts: 1,
			result: Result{Failed: true, FailureReason: "APP: Exited with status 9"},
		},
		"a stop under way is carried out": {
			script: script{"/app": {UntilSignalled: true, IgnoreTerminate: true}},
			info:   RunInfo{Action: &app}, want: StateCompleted, starts: 1,
			before: func(c *cell) {
				require.NoError(c.t, c.client.StopContainer(c.t.Context(), "i"))
				time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
			},
			result: Result{Failed: true, FailureReason: "exceeded graceful shutdown interval", Stopped: true},
		},
		"the time of a timeout counts on": {
			info:   RunInfo{Action: &Action{Timeout: &TimeoutAction{Action: app, Timeout: 20 * time.Second}}},
			before: func(*cell) { time.Sleep(10 * time.Second) }, //nolint:forbidigo // the clock of the bubble
			want:   StateCompleted, starts: 1,
			result: Result{Failed: true, FailureReason: "exceeded 20s timeout"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var starts atomic.Int64
				c := newCell(t, nil, func(cfg *simulated.Config) {
					cfg.OnCreate = func(garden.ContainerSpec) (time.Duration, error) { return tc.create, nil }
					cfg.OnRun = func(_ garden.ContainerSpec, p garden.ProcessSpec) simulated.Fate {
						starts.Add(1)
						if fate, ok := tc.script[p.Path]; ok {
							return fate
						}
						return simulated.Fate{UntilSignalled: true}
					}
				}).open()
				c.run("i", tc.info)
				synctest.Wait()
				if tc.before != nil {
					tc.before(c)
					synctest.Wait()
				}
				c.stop()
				c.engine.Detach()
				if tc.away != nil {
					tc.away(c)
				}
				c.open()
				defer func() { c.stop() }()
				time.Sleep(12 * time.Second) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				got := c.get("i")
				if got.State != tc.want || got.Result != tc.result {
					t.Errorf("container is %s with %+v, want %s with %+v\nlog: %q", got.State, got.Result, tc.want, tc.result, c.lines("i"))
				}
				require.Equal(t, tc.starts, starts.Load(), "processes started")
				require.Equal(t, 64, c.client.TotalResources().MemoryMB-c.client.RemainingResources().MemoryMB)
				require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
				left, err := os.ReadDir(filepath.Join(c.cfg.StateDir, "containers"))
				require.NoError(t, err)
				require.Empty(t, left, "journals after deletion")
			})
		})
	}
}

func TestOpenDestroysWhatNobodyAccountsFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil)
		for handle, owner := range map[string]string{"orphan": "executor", "foreign": "other", "damaged": "executor"} {
			_, err := c.engine.Create(t.Context(), garden.ContainerSpec{
				Handle: handle, Image: garden.Image{URI: "preloaded:busybox"}, Properties: garden.Properties{propertyOwner: owner},
			})
			require.NoError(t, err)
		}
		damaged := filepath.Join(c.cfg.StateDir, "containers", "damaged")
		require.NoError(t, os.MkdirAll(damaged, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(damaged, recordFile), []byte("{"), 0o600))
		c.open()
		defer func() { c.stop() }()
		require.Empty(t, c.client.ListContainers())
		left, err := c.engine.Containers(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.Equal(t, "foreign", left[0].Handle())
	})
}

func TestJournalIsPrivate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil).open()
		defer func() { c.stop() }()
		c.run("i", RunInfo{Action: new(process("/app", ""))})
		synctest.Wait()
		info, err := os.Stat(filepath.Join(c.cfg.StateDir, "containers", "i", recordFile))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})
}

// A health check goes on as liveness after a restart, and the routable flag is not lost.
func TestOpenResumesHealthChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var healthy atomic.Bool
		healthy.Store(true)
		c := newCell(t, nil)
		c.cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
			if !healthy.Load() {
				return nil, os.ErrDeadlineExceeded
			}
			near, far := net.Pipe()
			return near, far.Close()
		}
		c.open()
		c.run("i", RunInfo{Action: new(process("/app", "APP")), StartTimeout: time.Minute, CheckDefinition: &CheckDefinition{
			Checks:          []Check{{TCP: &TCPCheck{Port: 8080}}},
			ReadinessChecks: []Check{{TCP: &TCPCheck{Port: 8080, Interval: time.Hour}}},
		}})
		synctest.Wait()
		require.Equal(t, StateRunning, c.get("i").State)
		require.True(t, c.get("i").Routable)
		c.restart()
		defer func() { c.stop() }()
		require.True(t, c.get("i").Routable)
		healthy.Store(false)
		time.Sleep(31 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		want := "Instance became unhealthy: Liveness check unsuccessful: failed to make TCP connection to " +
			c.get("i").Net.InternalIP + ":8080: timed out after 1.00 seconds"
		require.Equal(t, want, c.get("i").Result.FailureReason)
		starts := slices.DeleteFunc(c.lines("i"), func(line string) bool { return !strings.Contains(line, "Starting health") })
		require.Len(t, starts, 1, "health monitoring starts once")
	})
}

// A monitor's process that was running when the earlier process went is killed: nobody waits for it any more.
func TestOpenKillsOldProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int64
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnRun = func(_ garden.ContainerSpec, p garden.ProcessSpec) simulated.Fate {
				if p.Path == "/check" && probes.Add(1) > 1 {
					return simulated.Fate{}
				}
				return simulated.Fate{UntilSignalled: true} // the first probe hangs
			}
		}).open()
		c.run("i", RunInfo{Action: new(process("/app", "APP")), Monitor: new(process("/check", ""))})
		time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		old, err := c.client.node("i")
		require.NoError(t, err)
		ids := old.progress.leftovers(placeMonitor)
		require.Len(t, ids, 1)
		c.restart()
		defer func() { c.stop() }()
		synctest.Wait()
		require.Equal(t, StateRunning, c.get("i").State)
		inside, err := c.engine.Lookup(t.Context(), "i")
		require.NoError(t, err)
		probe, err := inside.Attach(t.Context(), ids[0], garden.ProcessIO{})
		require.NoError(t, err)
		status, err := probe.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 137, status.Code)
		n, err := c.client.node("i")
		require.NoError(t, err)
		require.Empty(t, n.progress.leftovers(placeMonitor))
	})
}

package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

func TestSelfCheck(t *testing.T) {
	t.Parallel()
	broken := errors.New("no more veth")
	tests := map[string]struct {
		fate   simulated.Fate
		create error
		want   string
	}{
		"a container that runs its process": {},
		"a process that fails":              {fate: simulated.Fate{Code: 6}, want: "Healthcheck exited with 6"},
		"a process that hangs":              {fate: simulated.Fate{UntilSignalled: true}, want: "waiting for the process of a check: "},
		"an engine that creates nothing":    {create: broken, want: "creating a container for a check: "},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var failing atomic.Bool
				c := newCell(t, script{"/bin/sh": tc.fate}, func(cfg *simulated.Config) {
					cfg.OnCreate = func(s garden.ContainerSpec) (time.Duration, error) {
						if failing.Load() && s.Image.URI == "preloaded:check" {
							return 0, tc.create
						}
						return 0, nil
					}
				})
				failing.Store(true)
				c.cfg.SelfCheck.RootFS = "preloaded:check"
				c.open()
				defer func() { c.stop() }()
				time.Sleep(3 * time.Minute) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				healthy, err := c.client.Healthy()
				if tc.want == "" {
					require.True(t, healthy, "%v", err)
				} else {
					require.ErrorContains(t, err, tc.want)
				}
				failing.Store(false)
				if tc.create != nil {
					time.Sleep(11 * time.Second) //nolint:forbidigo // the clock of the bubble
					synctest.Wait()
					healthy, err = c.client.Healthy()
					require.True(t, healthy, "a repaired engine is found within seconds: %v", err)
				}
				c.stop()
				left, err := c.engine.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
				require.NoError(t, err)
				require.Empty(t, left)
			})
		})
	}
}

// TestSelfCheckWhen counts checks: one at once, one each interval, and one soon after a creation that failed.
func TestSelfCheckWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int64
		c := newCell(t, script{"/bin/sh": {}}, func(cfg *simulated.Config) {
			cfg.OnCreate = func(s garden.ContainerSpec) (time.Duration, error) {
				if s.Image.URI == "preloaded:check" {
					checks.Add(1)
					return 0, nil
				}
				return 0, errors.New("no such image")
			}
		})
		c.cfg.SelfCheck.RootFS = "preloaded:check"
		client, err := Open(t.Context(), c.cfg)
		require.NoError(t, err)
		_, err = client.Healthy()
		require.ErrorIs(t, err, errUnchecked, "no work before the first check")
		client.Close()

		c.open()
		defer func() { c.stop() }()
		time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, int64(1), checks.Load())
		time.Sleep(5*time.Minute + time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, int64(2), checks.Load())
		c.run("i", RunInfo{Action: new(process("/app", ""))})
		time.Sleep(11 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, int64(3), checks.Load(), "a failed creation is a reason for doubt")
		healthy, _ := c.client.Healthy()
		require.True(t, healthy, "which the check removes: the image was to blame")
	})
}

// A cell that cannot build for a reason of its own says so before it gives the work back, and recovers by a check.
func TestCellAtFault(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err   error
		fault bool
	}{
		"an engine that is away":    {fmt.Errorf("creating: %w", garden.ErrEngineNotRunning), true},
		"a disk that is full":       {garden.ErrDiskFull, true},
		"ports that have run out":   {garden.ErrPortsExhausted, true},
		"addresses that have":       {garden.ErrNoAddress, true},
		"more containers than room": {garden.ErrMaxContainers, true},
		"a host disk that is full":  {&creationError{text: "failed to download cached artifacts", err: &fs.PathError{Op: "write", Err: syscall.ENOSPC}}, true},
		"a small disk of its own":   {&fs.PathError{Op: "write", Err: syscall.ENOSPC}, false},
		"an image that is missing":  {&garden.RootFSError{URI: "docker:///a", Err: garden.ErrImageNotFound}, false},
		"an image that is too big":  {garden.ErrImageTooLarge, false},
		"anything else":             {errors.New("odd"), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t, nil, func(cfg *simulated.Config) {
					cfg.OnCreate = func(garden.ContainerSpec) (time.Duration, error) { return 0, test.err }
				}).open()
				defer c.stop()
				events := c.client.SubscribeToEvents()
				defer events.Close()
				c.run("i", RunInfo{Action: new(process("/app", ""))})
				for {
					event, err := events.Next(t.Context())
					require.NoError(t, err)
					if event.Kind == EventComplete {
						break
					}
				}
				// Whoever acts on the event finds the cell as it is.
				healthy, err := c.client.Healthy()
				require.Equal(t, test.fault, !healthy)
				if test.fault {
					require.ErrorIs(t, err, test.err)
				}
				result := c.get("i").Result
				require.True(t, result.Retryable)
				require.Equal(t, test.fault, result.CellAtFault)
				time.Sleep(11 * time.Second) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				healthy, _ = c.client.Healthy()
				require.True(t, healthy, "without a container for checks an answer is enough")
			})
		})
	}
}

func TestSelfCheckIsChecked(t *testing.T) {
	t.Parallel()
	var cfg SelfCheck
	cfg.SetDefaults()
	require.NoError(t, cfg.Validate())
	require.Equal(t, SelfCheck{Path: "/bin/sh", Args: []string{"-c", "exit 0"}, Interval: 5 * time.Minute, Timeout: 30 * time.Second}, cfg)
	cfg.Path, cfg.Timeout = "sh", -time.Second
	require.ErrorContains(t, cfg.Validate(), `path "sh" is not absolute`)
	require.ErrorContains(t, cfg.Validate(), "interval and timeout must be positive")
}

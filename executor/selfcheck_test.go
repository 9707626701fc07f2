package executor

import (
	"errors"
	"sync/atomic"
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
		time.Sleep(31 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, int64(3), checks.Load(), "a failed creation is a reason for doubt")
		healthy, _ := c.client.Healthy()
		require.True(t, healthy, "which the check removes: the image was to blame")
	})
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

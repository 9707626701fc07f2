package executor

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

// TestFigures: what the cell does shows in the counters that are published, times included.
func TestFigures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, script{
			"/setup":  {After: 2 * time.Second},
			"/broken": {Code: 1, After: time.Second},
			"/loud":   {Stdout: strings.Repeat("123456789\n", 20), UntilSignalled: true},
		}).open()
		defer c.stop()
		c.run("good", RunInfo{Setup: new(process("/setup", "APP")), Action: new(process("/app", "APP"))})
		c.run("bad", RunInfo{Setup: new(process("/broken", "APP")), Action: new(process("/app", "APP"))})
		c.allocate("loud")
		require.NoError(t, c.client.RunContainer(t.Context(), RunRequest{GUID: "loud", Info: RunInfo{
			RootFS: "preloaded:busybox", LogRateLimit: 45, LogConfig: LogConfig{GUID: "app"}, Action: new(process("/loud", "APP")),
		}}))
		time.Sleep(3 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		metrics, err := c.client.GetBulkMetrics(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(1), metrics["loud"].LogRateExceeded)
		require.Equal(t, int64(15), metrics["loud"].LogLinesDropped, "four lines and the start of the fifth passed")
		require.Contains(t, c.lines("loud"), "APP ERR app instance exceeded log rate limit (45 bytes/sec)")
		require.NoError(t, c.client.DeleteContainer(t.Context(), "good"))

		want := map[string]float64{
			"containers_created_total":             3,
			"containers_destroyed_total":           1,
			"containers_completed_total":           2,
			"container_setups_total":               1,
			"container_setup_seconds_total":        2,
			"container_setups_failed_total":        1,
			"container_setup_failed_seconds_total": 1,
			"log_rate_limit_exceeded_total":        1,
			"log_lines_dropped_total":              15,
			"log_bytes_dropped_total":              15 * 9,
		}
		got := map[string]float64{}
		for _, f := range Figures() {
			require.Regexp(t, `^[a-z_]+_total$`, f.Name)
			require.NotEmpty(t, f.Help)
			if value := f.Value(c.client); value != 0 {
				got[f.Name] = value
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("figures that are not zero (-want +got):\n%s", diff)
		}
	})
}

// A creation that fails counts as such, and one that was interrupted not at all.
func TestFiguresOfFailedCreations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil, func(cfg *simulated.Config) { cfg.OnCreate = slowOrBroken }).open()
		defer c.stop()
		c.run("broken", RunInfo{Action: new(process("/app", "APP"))})
		c.run("slow", RunInfo{Action: new(process("/app", "APP"))})
		synctest.Wait()
		require.NoError(t, c.client.StopContainer(t.Context(), "slow"))
		synctest.Wait()
		counters := c.client.Counters()
		require.Equal(t, int64(1), counters.Creations.Failed.Load())
		require.Zero(t, counters.Creations.Succeeded.Load())
	})
}

func slowOrBroken(spec garden.ContainerSpec) (time.Duration, error) {
	if spec.Handle == "broken" {
		return 0, garden.ErrNoAddress
	}
	return time.Hour, nil
}

package executor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

// TestSampler watches a container of weight 50 on a machine of 1,024 MiB: it is entitled to half of what it has of cores.
func TestSampler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var used atomic.Int64
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnMetrics = func(garden.ContainerSpec) garden.Metrics {
				return garden.Metrics{CPUUsage: time.Duration(used.Load()), MemoryInBytes: 7 << 20, DiskInBytes: 3}
			}
		})
		c.cfg.MemoryMB = 1024
		c.open()
		defer c.stop()
		c.run("i", RunInfo{Action: new(process("/app", "APP")), CPUWeight: 50})
		_, at, err := c.client.Samples()
		require.NoError(t, err)
		require.True(t, at.IsZero(), "nothing was sampled yet")

		sample := func(more time.Duration) Metrics {
			used.Add(int64(more))
			time.Sleep(15 * time.Second) //nolint:forbidigo // the clock of the bubble
			synctest.Wait()
			metrics, _, err := c.client.Samples()
			require.NoError(t, err)
			return metrics["i"]
		}
		first := sample(15 * time.Second)
		require.Zero(t, first.CPUPercent, "a first sample tells little")
		require.Equal(t, uint64(7<<20), first.MemoryUsageInBytes)
		entitled := first.CPUEntitlement // of 15 seconds
		require.Positive(t, entitled)

		began := time.Now()
		spike := sample(2 * entitled)
		require.InDelta(t, 200, spike.CPUEntitlementPercent, 0.1)
		require.InDelta(t, 100*float64(2*entitled)/float64(15*time.Second), spike.CPUPercent, 0.1)
		require.Equal(t, began, spike.SpikeStart)
		require.True(t, spike.SpikeEnd.IsZero())
		after := sample(entitled / 2)
		require.InDelta(t, 50, after.CPUEntitlementPercent, 0.1)
		require.Equal(t, began.Add(15*time.Second), after.SpikeEnd)

		live, err := c.client.GetBulkMetrics(t.Context())
		require.NoError(t, err)
		require.Equal(t, after.SpikeStart, live["i"].SpikeStart, "whoever asks between samples learns of the same")

		// An engine that does not answer is told, and forgotten when it does.
		c.engine.SetDown(errors.New("away"))
		time.Sleep(15 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		_, _, err = c.client.Samples()
		require.ErrorContains(t, err, "away")
		c.engine.SetDown(nil)
		sample(0)

		require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
		sample(0)
		require.Empty(t, c.client.samples.meters, "who is gone is forgotten")
	})
}

func TestStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil)
		stall := &Stall{}
		c.cfg.Stall = stall
		c.engine.SetDown(errors.New("starting"))
		opened := make(chan error, 1)
		go func() {
			client, err := Open(context.Background(), c.cfg)
			c.client = client
			opened <- err
		}()
		synctest.Wait()
		time.Sleep(90 * time.Second) //nolint:forbidigo // the clock of the bubble
		require.Equal(t, 90*time.Second, stall.Duration(), "it grows while the start of the cell waits")
		c.engine.SetDown(nil)
		require.NoError(t, <-opened)
		require.Zero(t, stall.Duration())
		c.client.Close()
		c.open()
		defer c.stop()
		c.engine.SetDown(errors.New("away"))
		time.Sleep(time.Minute) //nolint:forbidigo // the clock of the bubble
		require.InDelta(t, 30, stall.Duration().Seconds(), 1, "the engine is asked every 30 seconds")
	})
}

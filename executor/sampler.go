package executor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"diego.internal/executor/usage"
)

// sampled is what the sampler knows; it is guarded by its own lock, because readers come at any time.
type sampled struct {
	meters  map[string]usage.Meter
	metrics map[string]Metrics
	at      time.Time
	err     error
}

// sample reads the metrics of all containers now and then, so that percentages are of the same time for everybody and
// somebody who asks often costs the engine nothing.
func (c *Client) sample(ctx context.Context) error {
	failing := false
	for wait(ctx, c.cfg.MetricsInterval) {
		err := c.sampleOnce(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			c.log.Warn("sampling-containers-failed", slog.Any("error", err))
		}
		failing = err != nil
	}
	return nil
}

func (c *Client) sampleOnce(ctx context.Context) error {
	metrics, err := c.GetBulkMetrics(ctx)
	now := time.Now()
	c.samples.mu.Lock()
	defer c.samples.mu.Unlock()
	if err != nil {
		c.samples.err = err
		return err
	}
	meters := make(map[string]usage.Meter, len(metrics))
	for guid, m := range metrics {
		meter := c.samples.meters[guid].Add(usage.Sample{At: now, Used: m.CPUUsage, Entitled: m.CPUEntitlement, Age: m.ContainerAge})
		c.tellOfSpike(guid, c.samples.meters[guid], meter)
		meters[guid] = meter
		metrics[guid] = m.with(meter)
	}
	c.samples.sampled = sampled{meters: meters, metrics: metrics, at: now}
	return nil
}

// tellOfSpike logs the begin and the end of a spike, each once.
func (c *Client) tellOfSpike(guid string, before, after usage.Meter) {
	if before.SpikeStart.Equal(after.SpikeStart) && before.SpikeEnd.Equal(after.SpikeEnd) {
		return
	}
	c.log.Debug("container-spike", slog.String("container_guid", guid), slog.Time("start", after.SpikeStart), slog.Time("end", after.SpikeEnd))
}

// Samples are the metrics of all containers as they were at the last sample, by guid, and when that was; the time is zero
// before the first. It fails if the newest attempt did. The map must not be written to.
func (c *Client) Samples() (metrics map[string]Metrics, at time.Time, err error) {
	c.samples.mu.Lock()
	defer c.samples.mu.Unlock()
	if c.samples.err != nil {
		return nil, c.samples.at, fmt.Errorf("sampling containers: %w", c.samples.err)
	}
	return maps.Clone(c.samples.metrics), c.samples.at, nil
}

// with adds what the samples so far tell.
func (m Metrics) with(meter usage.Meter) Metrics {
	m.CPUPercent, m.CPUEntitlementPercent = meter.CPUPercent, meter.EntitlementPercent
	m.SpikeStart, m.SpikeEnd = meter.SpikeStart, meter.SpikeEnd
	return m
}

func (c *Client) meter(guid string) usage.Meter {
	c.samples.mu.Lock()
	defer c.samples.mu.Unlock()
	return c.samples.meters[guid]
}

package executor

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"sync/atomic"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/step"
)

// Counters of a client since it was opened. They only grow; read them with Load.
type Counters struct {
	// Creations tell of containers built, Setups of their set-up from the beginning of the creation to the end of the setup
	// action, Destructions of containers destroyed.
	Creations, Setups, Destructions Outcomes
	// Credentials tell of certificates issued to containers, rotations included.
	Credentials Outcomes
	// C2CCredentials tell of certificates issued to proxies of containers for other containers.
	C2CCredentials Outcomes
	// Completed counts containers that ended.
	Completed atomic.Int64
	// EngineChecksFailed counts bad answers of the engine.
	EngineChecksFailed atomic.Int64
	// LivenessTCPFailed and LivenessHTTPFailed count containers that ended because a check by TCP or HTTP failed after it had
	// passed (TCPLivenessChecksFailedCount, HTTPLivenessChecksFailedCount).
	LivenessTCPFailed, LivenessHTTPFailed atomic.Int64
	// MetricsMissing counts containers whose metrics the engine could not tell when it was asked.
	MetricsMissing atomic.Int64
	// Steps are counted by the steps themselves.
	Steps step.Counters
}

// Outcomes count one kind of work and how long it took.
type Outcomes struct {
	Succeeded, Failed           atomic.Int64
	SucceededNanos, FailedNanos atomic.Int64
}

func (o *Outcomes) add(err error, took time.Duration) {
	if err != nil {
		o.Failed.Add(1)
		o.FailedNanos.Add(int64(took))
		return
	}
	o.Succeeded.Add(1)
	o.SucceededNanos.Add(int64(took))
}

// Counters of this client. Their fields may be read at any time.
func (c *Client) Counters() *Counters { return c.counters }

// GetBulkMetrics reads the metrics of all created and running containers, by guid. Containers that go meanwhile are
// left out.
func (c *Client) GetBulkMetrics(ctx context.Context) (map[string]Metrics, error) {
	if err := acquire(ctx, c.pools.metrics); err != nil {
		return nil, err
	}
	defer func() { <-c.pools.metrics }()
	nodes := make(map[string]*node)
	var handles []string
	for _, n := range c.all() {
		if n.snapshot().HasContainer() {
			nodes[n.handle] = n
			handles = append(handles, n.handle)
		}
	}
	measured, err := c.engine.BulkMetrics(ctx, handles)
	if err != nil {
		return nil, fmt.Errorf("reading metrics of %d containers: %w", len(handles), err)
	}
	c.counters.MetricsMissing.Add(int64(max(len(handles)-len(measured), 0)))
	perShare := entitlementPerShare(runtime.NumCPU(), c.TotalResources().MemoryMB)
	result := make(map[string]Metrics, len(measured))
	for handle, m := range measured {
		n, ok := nodes[handle]
		if !ok {
			continue
		}
		record := n.snapshot()
		exceeded, dropped := n.sink.Exceeded()
		shares := float64(c.cfg.CPUShares * uint64(record.RunInfo.CPUWeight) / 100)
		memory, memoryLimit := applicationMemory(record.Resources, m.MemoryInBytes, limitBytes(record, m.MemoryLimit))
		result[n.guid] = Metrics{
			MemoryUsageInBytes: memory,
			DiskUsageInBytes:   m.DiskInBytes,
			MemoryLimitInBytes: memoryLimit,
			DiskLimitInBytes:   uint64(record.Resources.DiskMB) * mebibyte, //nolint:gosec // not negative, see allocate
			CPUUsage:           m.CPUUsage,
			CPUEntitlement:     time.Duration(shares * perShare / 100 * float64(m.Age)),
			ContainerAge:       m.Age,
			PidCount:           m.PidCount,
			RxBytes:            m.RxBytes,
			TxBytes:            m.TxBytes,
			LogRate:            n.sink.Rate(),
			LogRateLimit:       record.RunInfo.LogRateLimit,
			LogRateExceeded:    exceeded,
			LogLinesDropped:    dropped,
			Tags:               maps.Clone(n.sink.Tags()),
		}.with(c.meter(n.guid))
	}
	return result, nil
}

// limitBytes prefers what was asked for: the engine words "unlimited" as a very large number.
func limitBytes(record container.Record, measured uint64) uint64 {
	if record.Resources.MemoryMB == 0 {
		return 0
	}
	return measured
}

// entitlementPerShare is the percentage of one core that one CPU share entitles to: the machine's cores divided among
// its memory.
func entitlementPerShare(cores, memoryMB int) float64 {
	if memoryMB <= 0 {
		return 0
	}
	return float64(cores) * 100 / float64(memoryMB)
}

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
	// Created, CreationFailed and CreationNanos tell of containers built (GardenContainerCreation…Duration).
	Created        atomic.Int64
	CreationFailed atomic.Int64
	CreationNanos  atomic.Int64
	// Destroyed and DestructionFailed tell of containers destroyed.
	Destroyed         atomic.Int64
	DestructionFailed atomic.Int64
	// Completed counts containers that ended (ContainerCompletedCount).
	Completed atomic.Int64
	// EngineChecksFailed counts bad answers of the engine (GardenHealthCheckFailed).
	EngineChecksFailed atomic.Int64
	// CredentialsCreated, CredentialsFailed and CredentialsNanos tell of certificates issued to containers, rotations
	// included (CredCreation…Count, CredCreationSucceededDuration).
	CredentialsCreated atomic.Int64
	CredentialsFailed  atomic.Int64
	CredentialsNanos   atomic.Int64
	// Steps are counted by the steps themselves.
	Steps step.Counters
}

func (c *Counters) created(took time.Duration) {
	c.Created.Add(1)
	c.CreationNanos.Add(int64(took))
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
	perShare := entitlementPerShare(runtime.NumCPU(), c.TotalResources().MemoryMB)
	result := make(map[string]Metrics, len(measured))
	for handle, m := range measured {
		n, ok := nodes[handle]
		if !ok {
			continue
		}
		record := n.snapshot()
		shares := float64(c.cfg.CPUShares * uint64(record.RunInfo.CPUWeight) / 100)
		result[n.guid] = Metrics{
			MemoryUsageInBytes: m.MemoryInBytes,
			DiskUsageInBytes:   m.DiskInBytes,
			MemoryLimitInBytes: limitBytes(record, m.MemoryLimit),
			DiskLimitInBytes:   uint64(record.Resources.DiskMB) * mebibyte, //nolint:gosec // not negative, see allocate
			CPUUsage:           m.CPUUsage,
			CPUEntitlement:     time.Duration(shares * perShare / 100 * float64(m.Age)),
			ContainerAge:       m.Age,
			PidCount:           m.PidCount,
			RxBytes:            m.RxBytes,
			TxBytes:            m.TxBytes,
			LogRate:            n.sink.Rate(),
			LogRateLimit:       record.RunInfo.LogRateLimit,
			LogRateExceeded:    n.sink.Exceeded(),
			Tags:               maps.Clone(n.sink.Tags()),
		}
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

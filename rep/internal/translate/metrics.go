package translate

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
)

// MetricsMessage words what a container uses. The key of an LRP is the caller's to add.
func MetricsMessage(c executor.Container, m executor.Metrics) *repv1.ContainerMetrics {
	limit := m.LogRateLimit
	return &repv1.ContainerMetrics{
		ContainerGuid:         c.GUID,
		TaskGuid:              c.Tags[TagTaskGUID],
		CpuPercent:            m.CPUPercent,
		CpuUsage:              durationpb.New(m.CPUUsage),
		CpuEntitlement:        durationpb.New(m.CPUEntitlement),
		CpuEntitlementPercent: m.CPUEntitlementPercent,
		SpikeStart:            moment(m.SpikeStart),
		SpikeEnd:              moment(m.SpikeEnd),
		MemoryBytes:           m.MemoryUsageInBytes,
		MemoryQuotaBytes:      m.MemoryLimitInBytes,
		DiskBytes:             m.DiskUsageInBytes,
		DiskQuotaBytes:        m.DiskLimitInBytes,
		Age:                   durationpb.New(m.ContainerAge),
		RxBytes:               m.RxBytes,
		TxBytes:               m.TxBytes,
		Pids:                  m.PidCount,

		LogRateBytesPerSecond:      uint64(max(m.LogRate, 0)),
		LogRateLimitBytesPerSecond: &limit,
		LogRateExceeded:            uint64(max(m.LogRateExceeded, 0)),
		LogLinesDropped:            uint64(max(m.LogLinesDropped, 0)),
		Tags:                       m.Tags,
	}
}

// moment is nil for a time that never was.
func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

package translate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
)

func TestMetricsMessage(t *testing.T) {
	t.Parallel()
	began, limit := time.Unix(100, 0), int64(9)
	got := MetricsMessage(executor.Container{GUID: "c", Tags: map[string]string{TagTaskGUID: "t"}}, executor.Metrics{
		MemoryUsageInBytes: 1, DiskUsageInBytes: 2, MemoryLimitInBytes: 3, DiskLimitInBytes: 4, CPUUsage: 5, CPUEntitlement: 6, ContainerAge: 7,
		CPUPercent: 8.5, CPUEntitlementPercent: 9.5, SpikeStart: began, SpikeEnd: began.Add(time.Second), PidCount: 10, RxBytes: 11, TxBytes: 12,
		LogRate: 13.9, LogRateLimit: limit, LogRateExceeded: 14, LogLinesDropped: 15, Tags: map[string]string{"source_id": "s"},
	})
	want := &repv1.ContainerMetrics{
		ContainerGuid: "c", TaskGuid: "t", MemoryBytes: 1, DiskBytes: 2, MemoryQuotaBytes: 3, DiskQuotaBytes: 4,
		CpuUsage: durationpb.New(5), CpuEntitlement: durationpb.New(6), Age: durationpb.New(7), CpuPercent: 8.5, CpuEntitlementPercent: 9.5,
		SpikeStart: timestamppb.New(began), SpikeEnd: timestamppb.New(began.Add(time.Second)), Pids: 10, RxBytes: 11, TxBytes: 12,
		LogRateBytesPerSecond: 13, LogRateLimitBytesPerSecond: &limit, LogRateExceeded: 14, LogLinesDropped: 15, Tags: map[string]string{"source_id": "s"},
	}
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	// Every field but the key, which is the caller's, is filled.
	fields := got.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if field := fields.Get(i); field.Name() != protoreflect.Name("key") {
			require.True(t, got.ProtoReflect().Has(field), "%s is not filled", field.Name())
		}
	}
}

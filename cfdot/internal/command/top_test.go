package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// use of an instance that is 10 s old.
func use(process string, index int32) *repv1.ContainerMetrics {
	return &repv1.ContainerMetrics{
		ContainerGuid: process + fmt.Sprint(index), Key: &workloadv1.ActualLRPKey{ProcessGuid: process, Index: index, Domain: "d"},
		CpuPercent: 7, CpuUsage: durationpb.New(time.Second), Age: durationpb.New(10 * time.Second),
		MemoryBytes: 32 << 20, MemoryQuotaBytes: 64 << 20, DiskBytes: 1536, Pids: 3, LogRateBytesPerSecond: 12,
	}
}

func TestTopOrdersAndLimits(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	containers := func(all ...*repv1.ContainerMetrics) *fakeRep {
		rep := workingRep("")
		rep.metrics = func(context.Context) (*repv1.ContainerMetricsResponse, error) {
			return &repv1.ContainerMetricsResponse{Containers: all}, nil
		}
		return rep
	}
	busy, big, task := use("busy", 1), use("big", 0), use("", 0)
	busy.CpuPercent, big.MemoryBytes = 90, 1<<30
	busy.CpuEntitlementPercent, busy.SpikeStart = 180, timestamppb.Now()
	task.Key, task.TaskGuid = nil, "a-task"
	p.addCell("cell-1", containers(big, task))
	p.addCell("cell-2", containers(busy))
	names := func(args ...string) string {
		got := p.run(append([]string{"top"}, args...)...)
		require.Equal(t, ExitOK, got.exit, got.errors)
		var out []string
		for _, line := range got.lines() {
			var row consumption
			require.NoError(t, json.Unmarshal([]byte(line), &row))
			out = append(out, row.ProcessGUID+row.TaskGUID)
		}
		return strings.Join(out, " ")
	}
	require.Equal(t, "busy a-task big", names())
	require.Equal(t, "big a-task busy", names("--sort", "memory"))
	require.Equal(t, "a-task", names("--sort", "name", "--limit", "1"))
	require.Equal(t, "busy a-task big", names("--sort", "entitlement"))
	require.Equal(t, "big", names("big"))
	table := p.run("top", "-o", "table").out
	require.Contains(t, table, "90.0%")
	require.Contains(t, table, "180%!", "it uses more than it is entitled to, now")
	require.Contains(t, table, "0% ")
	require.Contains(t, table, "32.0 MiB of 64.0 MiB")
	require.Contains(t, table, "1.5 KiB")
	require.Contains(t, table, "10s")
}

func TestTopTellsOfCellsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", workingRep("cell-1"))
	bad := workingRep("cell-2")
	bad.metrics = func(context.Context) (*repv1.ContainerMetricsResponse, error) {
		return nil, fault.New(codes.FailedPrecondition, "", "the engine is gone")
	}
	p.addCell("cell-2", bad)
	got := p.run("top")
	require.Equal(t, ExitPartial, got.exit)
	require.Len(t, got.lines(), 1)
	require.Contains(t, got.errors, "Rep error: Failed to get container metrics of cell cell-2: ")
}

// The percentage of the second look is of the time between the two, whoever else asked the cell meanwhile.
func TestTopWatches(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	rep := workingRep("cell-1")
	var looks atomic.Int32
	rep.metrics = func(context.Context) (*repv1.ContainerMetricsResponse, error) {
		m := use("p", 0)
		if looks.Add(1) > 1 {
			m.CpuUsage, m.Age = durationpb.New(2*time.Second), durationpb.New(14*time.Second)
		}
		return &repv1.ContainerMetricsResponse{Containers: []*repv1.ContainerMetrics{m}}, nil
	}
	p.addCell("cell-1", rep)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := make(chan string, 8)
	done := make(chan outcome, 1)
	go func() {
		done <- p.runIn(ctx, Environment{Stdout: notifier{lines: lines}}, "top", "--watch", "--interval", "500ms")
	}()
	var row consumption
	require.NoError(t, json.Unmarshal([]byte(<-lines), &row))
	require.InDelta(t, 7, row.CPUPercent, 0.01)
	require.NoError(t, json.Unmarshal([]byte(<-lines), &row))
	require.InDelta(t, 25, row.CPUPercent, 0.01)
	cancel()
	require.Equal(t, ExitInterrupted, (<-done).exit)
}

func TestTopRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for _, args := range [][]string{{"--sort", "size"}, {"--interval", "1ms"}, {"--limit", "-1"}, {"a", "b"}, {""}} {
		got := p.run(append([]string{"top"}, args...)...)
		require.Equal(t, ExitUsage, got.exit, args)
	}
}

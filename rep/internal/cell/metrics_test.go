package cell

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/executor/volume/volumetest"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/holdings"
	"diego.internal/rep/internal/translate"
)

// metricsCell is the part of a cell that metrics look at, with two reserved instances.
func metricsCell(t *testing.T) *Cell {
	t.Helper()
	engine := simulated.New(simulated.Config{})
	exec, err := executor.Open(t.Context(), executor.Config{CellID: "cell-1", Engine: engine, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(exec.Close)
	request := func(guid string) executor.AllocationRequest {
		return executor.AllocationRequest{GUID: guid, Resources: executor.ContainerResources{MemoryMB: 100, DiskMB: 200}, Tags: map[string]string{translate.TagLifecycle: translate.LifecycleLRP}}
	}
	require.Empty(t, exec.AllocateContainers(t.Context(), []executor.AllocationRequest{request("a"), request("b")}))
	return &Cell{exec: exec, evacuator: evacuation.New(evacuation.Config{Timeout: time.Hour, Poll: time.Second, Containers: holdings.New(exec).All})}
}

// TestMetricsOfContainers publishes what a sample told of a container that runs, and nothing of one that is reserved.
func TestMetricsOfContainers(t *testing.T) {
	t.Parallel()
	engine := simulated.New(simulated.Config{
		OnRun: func(garden.ContainerSpec, garden.ProcessSpec) simulated.Fate {
			return simulated.Fate{UntilSignalled: true}
		},
		OnMetrics: func(garden.ContainerSpec) garden.Metrics {
			return garden.Metrics{MemoryInBytes: 3 << 20, MemoryLimit: 64 << 20, DiskInBytes: 5 << 20, CPUUsage: time.Second, RxBytes: 7, TxBytes: 8, PidCount: 9}
		},
	})
	folder := t.TempDir()
	volumetest.New(t, false).Describe(folder, "local.spec", "tcp://%s")
	exec, err := executor.Open(t.Context(), executor.Config{
		CellID: "cell-1", Engine: engine, StateDir: t.TempDir(), MetricsInterval: time.Millisecond, Volumes: executor.VolumeConfig{DriverFolders: []string{folder}},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- exec.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	require.Empty(t, exec.AllocateContainers(t.Context(), []executor.AllocationRequest{{GUID: "a", Resources: executor.ContainerResources{MemoryMB: 64}}, {GUID: "b"}}))
	require.NoError(t, exec.RunContainer(t.Context(), executor.RunRequest{GUID: "a", Info: executor.RunInfo{
		RootFS: "preloaded:a", LogRateLimit: 100, LogConfig: executor.LogConfig{GUID: "app", Index: 2}, Action: &executor.Action{Run: &executor.RunAction{Path: "/a", User: "vcap"}},
		VolumeMounts: []executor.VolumeMount{{Driver: "local", VolumeID: "v", Path: "/v"}},
	}}))
	require.Eventually(t, func() bool {
		samples, _, err := exec.Samples()
		return err == nil && samples["a"].CPUUsage > 0
	}, 10*time.Second, time.Millisecond)

	cell := &Cell{exec: exec, evacuator: evacuation.New(evacuation.Config{Containers: holdings.New(exec).All})}
	registry := prometheus.NewRegistry()
	ShowMetrics(registry, func() []*Cell { return []*Cell{cell} })
	ShowContainers(registry, cell, []string{"container_cpu_entitlement_percent"})
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP container_memory_bytes Memory used.
# TYPE container_memory_bytes gauge
container_memory_bytes{container_guid="a",instance_id="2",source_id="app"} 3.145728e+06
# HELP container_rx_bytes_total Bytes received.
# TYPE container_rx_bytes_total counter
container_rx_bytes_total{container_guid="a",instance_id="2",source_id="app"} 7
# HELP container_absolute_usage_seconds_total Processor time used.
# TYPE container_absolute_usage_seconds_total counter
container_absolute_usage_seconds_total{container_guid="a",instance_id="2",source_id="app"} 1
# HELP container_log_rate_limit_bytes_per_second Limit of the log rate; -1 is none.
# TYPE container_log_rate_limit_bytes_per_second gauge
container_log_rate_limit_bytes_per_second{container_guid="a",instance_id="2",source_id="app"} 100
# HELP container_usage_memory_mebibytes Memory that containers used at the last sample; -1 if it cannot be read.
# TYPE container_usage_memory_mebibytes gauge
container_usage_memory_mebibytes 3
# HELP volume_mounts_total Volumes mounted for a container.
# TYPE volume_mounts_total counter
volume_mounts_total{driver="local"} 1
`), "container_memory_bytes", "container_rx_bytes_total", "container_absolute_usage_seconds_total", "container_log_rate_limit_bytes_per_second",
		"container_usage_memory_mebibytes", "volume_mounts_total", "container_spike_start_timestamp_seconds", "container_cpu_entitlement_percent"))
	engine.SetDown(errors.New("away"))
	require.Eventually(t, func() bool { _, _, err := exec.Samples(); return err != nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP container_usage_memory_mebibytes Memory that containers used at the last sample; -1 if it cannot be read.
# TYPE container_usage_memory_mebibytes gauge
container_usage_memory_mebibytes -1
`), "container_memory_bytes", "container_usage_memory_mebibytes"))
	engine.SetDown(nil)
}

func TestMetricsAreSumsOverCells(t *testing.T) {
	t.Parallel()
	cells := []*Cell{metricsCell(t), metricsCell(t)}
	cells[1].evacuator.Begin()
	registry := prometheus.NewRegistry()
	ShowMetrics(registry, func() []*Cell { return cells })

	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP capacity_allocated_memory_mebibytes Memory that is reserved.
# TYPE capacity_allocated_memory_mebibytes gauge
capacity_allocated_memory_mebibytes 400
# HELP capacity_total_memory_mebibytes Memory that the cell offers.
# TYPE capacity_total_memory_mebibytes gauge
capacity_total_memory_mebibytes 32768
# HELP container_count Containers in any state.
# TYPE container_count gauge
container_count 4
# HELP evacuating 1 while the cell is being emptied.
# TYPE evacuating gauge
evacuating 1
# HELP evacuation_remaining_lrps Instances that are still here while the cell is being emptied.
# TYPE evacuation_remaining_lrps gauge
evacuation_remaining_lrps 2
# HELP starting_container_count Containers that are being made or do not run yet.
# TYPE starting_container_count gauge
starting_container_count 4
`), "capacity_allocated_memory_mebibytes", "capacity_total_memory_mebibytes", "container_count", "evacuating", "evacuation_remaining_lrps", "starting_container_count"))
}

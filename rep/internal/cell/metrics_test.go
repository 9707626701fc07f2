package cell

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/executor/garden/simulated"
	"diego.internal/rep/internal/evacuation"
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
	return &Cell{exec: exec, evacuator: evacuation.New(evacuation.Config{Timeout: time.Hour, Poll: time.Second, List: exec.ListContainers})}
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

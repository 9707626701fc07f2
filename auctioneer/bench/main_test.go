package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/auctioneer/internal/auction"
)

func TestBenchPrintsRows(t *testing.T) {
	t.Parallel()
	var out, stdout bytes.Buffer
	require.NoError(t, bench(output{targeted: &stdout, others: &out}, []scaleRun{{cells: 20, zones: 3, starts: 400, naive: true}}, simulations()[:1]))
	require.Empty(t, stdout.String(), "no target is set for this size")
	row := regexp.MustCompile(`^[a-z0-9_]+ [0-9]+ [0-9]+\.[0-9]{4} (seconds|instances)$`)
	names := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSuffix(line, "\n")
		require.Regexp(t, row, line)
		name, _, _ := strings.Cut(line, " ")
		require.False(t, names[name], "%s is printed twice", name)
		names[name] = true
	}
	for _, name := range []string{
		"auction_schedule_20_cells", "auction_naive_20_cells", "auction_balance_20_cells", "auction_zone_spread_20_cells",
		"auction_sim_cold_start_4_cells_zone_after_loss_max",
	} {
		require.Contains(t, names, name)
	}
}

// TestTargetedRowsGoToStandardOutput measures small runs under the names of the large ones.
func TestTargetedRowsGoToStandardOutput(t *testing.T) {
	t.Parallel()
	var out, others bytes.Buffer
	small := make([]scaleRun, len(scaleRuns))
	for i, run := range scaleRuns {
		run.starts = 3 * run.cells
		small[i] = run
	}
	require.NoError(t, bench(output{targeted: &out, others: &others}, small, nil))
	var names []string
	for line := range strings.Lines(out.String()) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	require.ElementsMatch(t, targeted, names)
	require.Contains(t, others.String(), "auction_cell_after_loss_1000_cells_deviation")
}

// TestSimulationsFit: each scenario has room for its work, also after the loss, and the names tell them apart.
func TestSimulationsFit(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, bench(output{targeted: io.Discard, others: &out}, nil, simulations()))
	require.Equal(t, 16*len(simulations()), strings.Count(out.String(), "\n"))
}

func TestLossIsEvenOverZones(t *testing.T) {
	t.Parallel()
	for _, zones := range []int{2, 3} {
		run := scaleRun{cells: 600, zones: zones, starts: 6000}
		fleet, items := run.fleet(), run.work()
		w := newWorld(fleet, items, auction.New(fleet, options).Schedule(items))
		lost := w.loseTenth()
		require.Len(t, w.cells, 540)
		left := map[string]int{}
		kept := 0
		for i := range w.cells {
			left[w.cells[i].Zone]++
			kept += len(w.placed[i])
		}
		require.Len(t, left, zones)
		for zone, n := range left {
			require.Equal(t, 540/zones, n, "cells left in %s", zone)
		}
		require.Equal(t, len(items), kept+len(lost), "every item is either kept or lost")
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/mtls"
)

const (
	patience = 20 * time.Second
	poll     = 10 * time.Millisecond
)

// start runs the process until the test ends, and waits until all its cells are present.
func start(t *testing.T, p *peers, cells int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-config", p.configuration()}) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.Eventually(t, func() bool { return p.locket.count() == cells }, patience, poll)
}

// offer is work for a cell: two instances and a task.
func offer(cellID string) *repv1.PerformRequest {
	placement := &workloadv1.PlacementConstraint{RootFs: "preloaded:sample"}
	resources := &workloadv1.Resources{MemoryMb: 64, DiskMb: 64}
	req := &repv1.PerformRequest{CellId: cellID, Tasks: []*repv1.PerformRequest_TaskWork{
		{TaskGuid: "task-" + cellID, Domain: "test", Resources: resources, Placement: placement},
	}}
	for i := range int32(2) {
		req.Lrps = append(req.Lrps, &repv1.PerformRequest_LRPWork{
			Key: &workloadv1.ActualLRPKey{ProcessGuid: "process-" + cellID, Index: i, Domain: "test"}, Resources: resources, Placement: placement,
		})
	}
	return req
}

// perform hands the work to every cell and requires that all of it is taken.
func perform(t *testing.T, p *peers) {
	t.Helper()
	for id, at := range p.locket.presences(t) {
		answer, err := repv1.NewAuctionClient(p.dial(mtls.RoleAuctioneer, id, at.RepAddress)).Perform(t.Context(), offer(id))
		require.NoError(t, err)
		for _, result := range append(answer.GetLrps(), answer.GetTasks()...) {
			require.True(t, result.GetAccepted(), result.GetReason())
		}
	}
}

func TestFiveCells(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 5)
	start(t, p, 5)
	addresses, zones := map[string]bool{}, map[string]int{}
	for _, at := range p.locket.presences(t) {
		addresses[at.RepAddress] = true
		zones[at.Zone]++
	}
	require.Len(t, addresses, 5, "each cell has an endpoint of its own")
	require.Equal(t, map[string]int{"z1": 3, "z2": 2}, zones)

	perform(t, p)
	require.Eventually(t, func() bool {
		succeeded, failed := p.bbs.completed()
		return len(p.bbs.running()) == 10 && succeeded == 5 && failed == 0
	}, patience, poll)
	endpoints := map[string]bool{}
	for _, lrp := range p.bbs.running() {
		require.True(t, lrp.GetRoutable())
		endpoints[fmt.Sprintf("%s:%d", lrp.GetNetInfo().GetAddress(), lrp.GetNetInfo().GetPorts()[0].GetHostPort())] = true
		endpoints[lrp.GetNetInfo().GetInstanceAddress()] = true
	}
	require.Len(t, endpoints, 20, "no two instances share an address, outside or inside")
	files := 0
	require.NoError(t, filepath.WalkDir(p.cfg["executor"].(map[string]any)["state_dir"].(string), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	}))
	require.Zero(t, files, "files on disk")
}

func TestEvacuatedCellComesBackEmpty(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 2)
	start(t, p, 2)
	perform(t, p)
	require.Eventually(t, func() bool { return len(p.bbs.running()) == 4 }, patience, poll)
	before := p.locket.presences(t)["cell-1"].RepAddress

	progress, err := repv1.NewOperationClient(p.dial(mtls.RoleOperator, "cell-1", before)).Evacuate(t.Context(), &repv1.EvacuateRequest{})
	require.NoError(t, err)
	for {
		// The end of the server may overtake the last message.
		if _, err = progress.Recv(); err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		require.ErrorContains(t, err, "stopping")
	}
	require.Eventually(t, func() bool {
		now := p.locket.presences(t)["cell-1"].RepAddress
		return now != "" && now != before
	}, patience, poll)
	require.Len(t, p.bbs.running(), 2, "the other cell goes on")
	state, err := repv1.NewAuctionClient(p.dial(mtls.RoleOperator, "cell-1", p.locket.presences(t)["cell-1"].RepAddress)).State(t.Context(), &repv1.StateRequest{})
	require.NoError(t, err)
	require.False(t, state.GetEvacuating())
	require.Empty(t, state.GetLrps())
}

func TestResetForgetsContainers(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 1)
	start(t, p, 1)
	perform(t, p)
	require.Eventually(t, func() bool { return len(p.bbs.running()) == 2 }, patience, poll)
	conn := p.dial(mtls.RoleOperator, "cell-0", p.locket.presences(t)["cell-0"].RepAddress)
	_, err := repv1.NewOperationClient(conn).Reset(t.Context(), &repv1.ResetRequest{})
	require.NoError(t, err)
	state, err := repv1.NewAuctionClient(conn).State(t.Context(), &repv1.StateRequest{})
	require.NoError(t, err)
	require.Empty(t, state.GetLrps())
	require.Equal(t, state.GetTotalResources().GetMemoryMb(), state.GetAvailableResources().GetMemoryMb())
}

func TestCellsCrashAndFailAsConfigured(t *testing.T) {
	t.Parallel()
	p := newPeers(t, 1)
	p.cfg["behaviour"] = map[string]any{"crashes": 1, "crash_after": map[string]any{"min": "20ms", "max": "50ms"}, "task_failures": 1}
	start(t, p, 1)
	perform(t, p)
	require.Eventually(t, func() bool {
		p.bbs.mu.Lock()
		crashes := p.bbs.crashes
		p.bbs.mu.Unlock()
		_, failed := p.bbs.completed()
		return crashes == 2 && failed == 1
	}, patience, poll)
}

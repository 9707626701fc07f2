package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"diego.internal/auctioneer/internal/simulationtest"
	"diego.internal/locket/lockclient"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// process is one auctioneer in this process.
type process struct {
	address string
	stop    context.CancelCauseFunc
	ended   chan error
}

// freeAddress is free at the moment; a process that finds it taken fails its test.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func writeConfig(t *testing.T, world *simulationtest.World, address, owner string) string {
	t.Helper()
	tls := world.Authority.Issue(mtls.Identity{Role: mtls.RoleAuctioneer})
	file := filepath.Join(t.TempDir(), "auctioneer.yml")
	text := fmt.Sprintf(`
log: {level: error}
grpc:
  listen: %s
  tls: {ca: %s, certificate: %s, key: %s}
locket: {addresses: [%s]}
bbs: {addresses: [%s]}
lock: {owner: %s, ttl: 3s}
`, address, tls.CA, tls.Certificate, tls.Key, world.Locket.Address, world.BBS.Address, owner)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func start(t *testing.T, world *simulationtest.World, owner string) *process {
	t.Helper()
	p := &process{address: freeAddress(t), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.stop = cancel
	file := writeConfig(t, world, p.address, owner)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.ended <- run(ctx, []string{"-config", file})
	}()
	t.Cleanup(func() { cancel(nil); <-done })
	return p
}

func holds(world *simulationtest.World, owner string) func() bool {
	return func() bool { return strings.HasPrefix(world.Locket.Owner("auctioneer"), owner) }
}

func request(guid string) *auctioneerv1.RequestLRPAuctionsRequest {
	return &auctioneerv1.RequestLRPAuctionsRequest{Starts: []*auctioneerv1.LRPStart{{
		ProcessGuid: guid, Domain: "d", Indices: []int32{0, 1},
		Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 1},
		Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
	}}}
}

func placed(all []*simulationtest.Cell) int {
	sum := 0
	for _, c := range all {
		n, _ := c.Holds()
		sum += n
	}
	return sum
}

const patience = 20 * time.Second

func TestRunPlacesAndHandsOver(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	first := start(t, world, "first")
	require.Eventually(t, holds(world, "first"), patience, 5*time.Millisecond)
	second := start(t, world, "second")

	// Clients find the active one by its health.
	client := auctioneerv1.NewAuctionsClient(world.DialAuctioneers(mtls.RoleBBS, second.address, first.address))
	resp, err := client.RequestLRPAuctions(t.Context(), request("app"))
	require.NoError(t, err)
	require.Empty(t, resp.GetRejected())
	require.Eventually(t, func() bool { return placed(all) == 2 }, patience, 5*time.Millisecond)

	// A clean stop releases the lock, so the other takes over at once, and asks the
	// BBS what waits.
	world.BBS.Locked(func(b *simulationtest.BBS) {
		s := request("waiting").GetStarts()[0]
		b.Unplaced = &bbsv1.ListUnplacedResponse{Lrps: []*bbsv1.ListUnplacedResponse_UnplacedLRP{{
			ProcessGuid: "waiting", Domain: "d", Indices: []int32{0}, Resources: s.GetResources(), Placement: s.GetPlacement(),
		}}}
	})
	first.stop(nil)
	require.NoError(t, <-first.ended)
	require.Eventually(t, holds(world, "second"), patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return placed(all) == 3 }, patience, 5*time.Millisecond)
	_, err = client.RequestLRPAuctions(t.Context(), request("later"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return placed(all) == 5 }, patience, 5*time.Millisecond)
}

// TestRunAnswersItemByItem sends good and bad items in one call: the rules of the contract must not fail the good ones.
func TestRunAnswersItemByItem(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	p := start(t, world, "first")
	require.Eventually(t, holds(world, "first"), patience, 5*time.Millisecond)
	client := auctioneerv1.NewAuctionsClient(world.DialAuctioneers(mtls.RoleBBS, p.address))
	req := request("good")
	for _, edit := range []func(*auctioneerv1.LRPStart){
		func(s *auctioneerv1.LRPStart) { s.Placement.RootFs = "" },
		func(s *auctioneerv1.LRPStart) { s.Resources.MemoryMb = -1 },
		func(s *auctioneerv1.LRPStart) { s.ProcessGuid = strings.Repeat("x", 256) },
		func(s *auctioneerv1.LRPStart) { s.Placement.PlacementTags = []string{""} },
	} {
		bad := request("bad").GetStarts()[0]
		edit(bad)
		req.Starts = append(req.Starts, bad)
	}
	req.Starts = append(req.Starts, request("good too").GetStarts()...)
	resp, err := client.RequestLRPAuctions(t.Context(), req)
	require.NoError(t, err)
	var fields []string
	for i, item := range resp.GetRejected() {
		require.Equal(t, int32(i+1), item.GetPosition())
		fields = append(fields, item.GetField())
	}
	require.Equal(t, []string{"placement.root_fs", "resources.memory_mb", "process_guid", "placement.placement_tags[0]"}, fields)
	tasks, err := client.RequestTaskAuctions(t.Context(), &auctioneerv1.RequestTaskAuctionsRequest{Starts: []*auctioneerv1.TaskStart{
		{TaskGuid: "bad", Resources: &workloadv1.Resources{DiskMb: -1}, Placement: req.GetStarts()[0].GetPlacement()},
		{TaskGuid: "good", Placement: req.GetStarts()[0].GetPlacement()},
	}})
	require.NoError(t, err)
	require.Len(t, tasks.GetRejected(), 1)
	require.Equal(t, "resources.disk_mb", tasks.GetRejected()[0].GetField())
	require.Eventually(t, func() bool {
		lrps, n := all[0].Holds()
		return lrps == 4 && n == 1
	}, patience, 5*time.Millisecond)
}

func TestRunExplains(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	world.AddCells(3)
	p := start(t, world, "first")
	require.Eventually(t, holds(world, "first"), patience, 5*time.Millisecond)
	auctions := auctioneerv1.NewAuctionsClient(world.DialAuctioneers(mtls.RoleBBS, p.address))
	operator := world.DialAuctioneers(mtls.RoleOperator, p.address)
	explanations := auctioneerv1.NewExplanationsClient(operator)

	req := request("big")
	req.Starts[0].Resources.MemoryMb = 60
	req.Starts[0].Indices = []int32{0, 1, 2, 3}
	_, err := auctioneerv1.NewAuctionsClient(operator).RequestLRPAuctions(t.Context(), req)
	require.Equal(t, codes.PermissionDenied, fault.Code(err), "only the BBS asks for placement")
	_, err = auctions.RequestLRPAuctions(t.Context(), req)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return world.BBS.Failure("big", 3) != "" }, patience, 5*time.Millisecond)

	ask := &auctioneerv1.ExplainPlacementRequest{Cells: true, Work: &auctioneerv1.ExplainPlacementRequest_Lrp{
		Lrp: &auctioneerv1.ExplainPlacementRequest_LRPInstance{ProcessGuid: "big", Index: 3},
	}}
	var explained *auctioneerv1.ExplainPlacementResponse
	require.Eventually(t, func() bool {
		explained, err = explanations.ExplainPlacement(t.Context(), ask)
		require.NoError(t, err)
		for _, v := range explained.GetVerdicts() {
			if v.GetReason() == "busy" {
				return false // it has not answered yet to what it was given
			}
		}
		return true
	}, patience, 5*time.Millisecond)
	require.Equal(t, "insufficient resources: memory", explained.GetPlacementError())
	require.Equal(t, map[string]int32{"memory": 3}, explained.GetCellsByReason())
	require.Len(t, explained.GetVerdicts(), 3)
	for _, v := range explained.GetVerdicts() {
		require.Equal(t, "memory", v.GetReason())
		sum := 0.0
		for _, part := range v.GetScoreParts() {
			sum += part
		}
		require.InDelta(t, v.GetScore(), sum, 1e-9)
		require.Equal(t, map[string]int32{"z0": 2, "z1": 1}[v.GetZone()], v.GetZoneInstances())
		require.InDelta(t, 1000, v.GetScoreParts()["siblings"], 1e-9)
	}
	ask.GetLrp().Index = 0
	_, err = explanations.ExplainPlacement(t.Context(), ask)
	require.Equal(t, "ResourceNotFound", fault.Reason(err), "it is placed")
	require.ErrorContains(t, err, "big.0 is placed, or not asked for")

	plan, err := explanations.PlanPlacement(t.Context(), &auctioneerv1.PlanPlacementRequest{
		ProcessGuid: "other", Instances: 5, Resources: &workloadv1.Resources{MemoryMb: 30}, Placement: req.GetStarts()[0].GetPlacement(),
	})
	require.NoError(t, err)
	require.Equal(t, map[string]int32{"cell-000": 1, "cell-001": 1, "cell-002": 1}, plan.GetInstancesByCell())
	require.Equal(t, map[string]int32{"z0": 2, "z1": 1}, plan.GetInstancesByZone())
	require.Equal(t, int32(2), plan.GetUnplaced())
	require.Equal(t, "insufficient resources: memory", plan.GetPlacementError())
}

func TestRunEndsWhenTheLockIsLost(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	p := start(t, world, "first")
	require.Eventually(t, holds(world, "first"), patience, 5*time.Millisecond)
	world.Locket.Steal("auctioneer", "thief")
	select {
	case err := <-p.ended:
		require.ErrorIs(t, err, lockclient.ErrLost)
	case <-time.After(patience):
		t.Fatal("it goes on without the lock")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	file := writeConfig(t, world, "127.0.0.1:0", "me")
	load := func(t *testing.T, more string) (Config, error) {
		t.Helper()
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		changed := filepath.Join(t.TempDir(), "auctioneer.yml")
		require.NoError(t, os.WriteFile(changed, append(text, more...), 0o600))
		return config.Load[Config]([]string{"-config", changed})
	}
	t.Run("defaults", func(t *testing.T) {
		t.Parallel()
		cfg, err := load(t, "")
		require.NoError(t, err)
		require.InDelta(t, 0.25, cfg.Placement.StartingContainerWeight, 0)
		require.InDelta(t, 0, cfg.Placement.BinPackFirstFitWeight, 0)
		require.Zero(t, cfg.Placement.StartingContainerCountMaximum)
		require.Equal(t, CellsConfig{
			StateTimeout: 10 * time.Second, PerformTimeout: 10 * time.Second, SoftDeadline: 2 * time.Second,
			StateMaxAge: time.Second, StaleLimit: 10 * time.Second, Workers: 1000,
		}, cfg.Cells)
	})
	t.Run("a store that is chosen must be there", func(t *testing.T) {
		t.Parallel()
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		changed := filepath.Join(t.TempDir(), "auctioneer.yml")
		require.NoError(t, os.WriteFile(changed, bytes.Replace(text, []byte("ttl: 3s"), []byte("backend: consul"), 1), 0o600))
		_, err = config.Load[Config]([]string{"-config", changed})
		require.ErrorContains(t, err, "consul: is missing")
	})
	t.Run("all mistakes are named", func(t *testing.T) {
		t.Parallel()
		_, err := load(t, "placement: {bin_pack_first_fit_weight: 2, starting_container_weight: -1}\ncells: {workers: 0, soft_deadline: 0s}\nqueue: {limit: 0}\n")
		for _, key := range []string{"bin_pack_first_fit_weight", "starting_container_weight", "workers", "soft_deadline", "limit"} {
			require.ErrorContains(t, err, key)
		}
	})
	t.Run("an unknown key is a mistake", func(t *testing.T) {
		t.Parallel()
		_, err := load(t, "placment: {}\n")
		require.ErrorContains(t, err, "placment")
	})
}

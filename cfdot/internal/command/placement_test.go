package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// refusedEverywhere has three cells, of which one would take the work by now.
func refusedEverywhere(q *auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
	answer := &auctioneerv1.ExplainPlacementResponse{
		PlacementError: "insufficient resources: memory", CellsByReason: map[string]int32{"memory": 2, "evacuating": 1, "disk": 1},
	}
	if q.GetCells() {
		parts := map[string]float64{"utilisation": 0.5, "starting": 0.25, "siblings": 1000, "bin_pack": 0, "tasks": 0}
		answer.Verdicts = []*auctioneerv1.CellVerdict{
			{CellId: "cell-1", Zone: "z1", Reason: "disk, memory", Score: 1000.75, ScoreParts: parts, ZoneInstances: 1},
			{CellId: "cell-2", Zone: "z2", Reason: "evacuating"},
			{CellId: "cell-3", Zone: "z1", Score: 1000.75, ScoreParts: parts, ZoneInstances: 1},
		}
	}
	return answer, nil
}

func spreadOverTwoCells(*auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error) {
	return &auctioneerv1.PlanPlacementResponse{
		InstancesByCell: map[string]int32{"cell-2": 1, "cell-1": 1}, InstancesByZone: map[string]int32{"z1": 2},
		Unplaced: 1, PlacementError: "insufficient resources: disk",
	}, nil
}

func TestPlacementForPrograms(t *testing.T) {
	t.Parallel()
	p := whole(t)
	got := p.run("placement", "p", "3")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.JSONEq(t, `{"process_guid":"p","index":3,"placement_error":"insufficient resources: memory",`+
		`"cells_by_reason":{"disk":1,"evacuating":1,"memory":2}}`, got.out)
	got = p.run("placement", "--task", "t", "--cells")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Contains(t, got.out, `{"cell_id":"cell-1","zone":"z1","reason":"disk, memory","zone_instances":1,"score":1000.75,`+
		`"score_parts":{"bin_pack":0,"siblings":1000,"starting":0.25,"tasks":0,"utilisation":0.5}}`)
	got = p.run("plan", "a", "3")
	require.JSONEq(t, `{"process_guid":"a","instances":3,"instances_by_cell":{"cell-1":1,"cell-2":1},"instances_by_zone":{"z1":2},`+
		`"unplaced":1,"placement_error":"insufficient resources: disk"}`, got.out)
}

func TestPlacementForPeople(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for line, want := range map[string][]string{
		"placement p 0": {"p/0: insufficient resources: memory", "REASON CELLS", "memory 2", "disk 1", "evacuating 1"},
		"placement --task t --cells": {
			"t: insufficient resources: memory", "REASON CELLS", "memory 2", "disk 1", "evacuating 1",
			"CELL ZONE VERDICT IN ZONE SCORE UTILISATION STARTING SIBLINGS BIN PACK TASKS",
			"cell-3 z1 ok 1 1000.750 0.500 0.250 1000 0 0",
			"cell-2 z2 evacuating 0",
			"cell-1 z1 disk, memory 1 1000.750 0.500 0.250 1000 0 0",
		},
		"plan a 3": {"CELL INSTANCES", "cell-1 1", "cell-2 1", "ZONE INSTANCES", "z1 2", "1 of 3 have no place: insufficient resources: disk"},
	} {
		got := p.run(append(strings.Fields(line), "-o", "table")...)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Empty(t, cmp.Diff(want, squeezed(got)), line)
	}
	p.auction.plan = func(*auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error) {
		return &auctioneerv1.PlanPlacementResponse{InstancesByCell: map[string]int32{"cell-1": 2}, InstancesByZone: map[string]int32{"z1": 2}}, nil
	}
	require.Contains(t, p.run("plan", "a", "2", "-o", "table").out, "all 2 have a place\n")
}

// TestPlacementAsks checks that each argument arrives, and the definition of the LRP with them.
func TestPlacementAsks(t *testing.T) {
	t.Parallel()
	p := whole(t)
	explained, planned := make(chan *auctioneerv1.ExplainPlacementRequest, 1), make(chan *auctioneerv1.PlanPlacementRequest, 1)
	p.auction.explain = func(q *auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
		explained <- q
		return &auctioneerv1.ExplainPlacementResponse{}, nil
	}
	p.auction.plan = func(q *auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error) {
		planned <- q
		return &auctioneerv1.PlanPlacementResponse{}, nil
	}
	for line, want := range map[string]*auctioneerv1.ExplainPlacementRequest{
		"placement p 3": {Work: &auctioneerv1.ExplainPlacementRequest_Lrp{Lrp: &auctioneerv1.ExplainPlacementRequest_LRPInstance{ProcessGuid: "p", Index: 3}}},
		"placement --task t --cells": {
			Work: &auctioneerv1.ExplainPlacementRequest_TaskGuid{TaskGuid: "t"}, Cells: true,
		},
	} {
		got := p.run(strings.Fields(line)...)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Empty(t, cmp.Diff(want, <-explained, protocmp.Transform()), line)
	}
	got := p.run("plan", "a", "10000")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.JSONEq(t, `{"process_guid":"a","instances":10000,"instances_by_cell":{},"instances_by_zone":{},"unplaced":0}`, got.out)
	require.Empty(t, cmp.Diff(&auctioneerv1.PlanPlacementRequest{
		ProcessGuid: "a", Instances: 10_000, Resources: &workloadv1.Resources{MemoryMb: 64}, Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:r"},
	}, <-planned, protocmp.Transform()))
}

func TestPlacementOfTheUnknown(t *testing.T) {
	t.Parallel()
	p := whole(t)
	p.auction.explain = func(*auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
		return nil, fault.New(codes.NotFound, "ResourceNotFound", "no refusal of it is remembered").With("p.1 is being placed at this moment")
	}
	got := p.run("placement", "p", "1")
	require.Equal(t, ExitNotFound, got.exit)
	require.Equal(t, "Auctioneer error\nType 13: ResourceNotFound\nMessage: no refusal of it is remembered: p.1 is being placed at this moment\n", got.withoutRequest(t))
	got = p.run("plan", "nobody", "1")
	require.Equal(t, ExitNotFound, got.exit)
	require.Equal(t, "BBS error\nType 13: ResourceNotFound\nMessage: Desired LRP not found: no LRP \"nobody\" is desired\n", got.withoutRequest(t))
}

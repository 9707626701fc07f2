package cells_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/auction/naive"
	"diego.internal/auctioneer/internal/cells"
	"diego.internal/auctioneer/internal/simulationtest"
	"diego.internal/auctioneer/internal/work"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/telemetry"
)

// directCells are cells without servers, and the list of their presences.
type directCells []*simulationtest.Cell

func (d directCells) ListCells(context.Context, *bbsv1.ListCellsRequest, ...grpc.CallOption) (*bbsv1.ListCellsResponse, error) {
	list := &bbsv1.ListCellsResponse{}
	for _, c := range d {
		list.Cells = append(list.Cells, &bbsv1.Cell{
			Presence: &workloadv1.CellPresence{CellId: c.ID, RepAddress: c.ID + ":1", Zone: c.Zone}, Since: &timestamppb.Timestamp{Seconds: 1},
		})
	}
	return list, nil
}

func (d directCells) connect(id, _ string) (cells.Connection, error) {
	at := slices.IndexFunc(d, func(c *simulationtest.Cell) bool { return c.ID == id })
	return cells.Connection{Client: d[at].Client(), Close: func() error { return nil }}, nil
}

// holders returns on which cells each piece of work is.
func (d directCells) holders() map[string][]string {
	out := map[string][]string{}
	for _, c := range d {
		for _, name := range append(c.Instances(), c.Tasks()...) {
			out[name] = append(out[name], c.ID)
		}
	}
	return out
}

// genWorks draws requests for cells with and without tags and drivers.
func genWorks(t *rapid.T, round int) []*work.Work {
	var out []*work.Work
	placement := func() *workloadv1.PlacementConstraint {
		p := &workloadv1.PlacementConstraint{RootFs: rapid.SampledFrom([]string{"preloaded:stack", "preloaded:stack", "preloaded:none"}).Draw(t, "rootfs")}
		switch rapid.IntRange(0, 5).Draw(t, "demands") {
		case 0:
			p.PlacementTags = []string{"gpu"}
		case 1:
			p.VolumeDrivers = []string{"nfs"}
		case 2:
			p.Constraint = &workloadv1.Constraint{Require: []string{"GPU"}}
		}
		return p
	}
	resources := func() *workloadv1.Resources {
		return &workloadv1.Resources{MemoryMb: rapid.Int32Range(0, 40).Draw(t, "memory"), DiskMb: rapid.Int32Range(0, 40).Draw(t, "disk")}
	}
	for p := range rapid.IntRange(0, 3).Draw(t, "processes") {
		first := int32(10 * round)
		indices := make([]int32, rapid.IntRange(1, 6).Draw(t, "instances"))
		for i := range indices {
			indices[i] = first + int32(i)
		}
		some, err := work.Instances(&auctioneerv1.LRPStart{
			ProcessGuid: fmt.Sprintf("p%d", p), Domain: "d", Indices: indices, Resources: resources(), Placement: placement(),
		}, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, some...)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "tasks") {
		w, err := work.Task(&auctioneerv1.TaskStart{TaskGuid: fmt.Sprintf("t%d-%d", round, i), Resources: resources(), Placement: placement()}, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, w)
	}
	return out
}

func genDirect(t *rapid.T) directCells {
	d := make(directCells, rapid.IntRange(1, 6).Draw(t, "cells"))
	for i := range d {
		d[i] = simulationtest.NewCell(fmt.Sprintf("cell-%d", i), fmt.Sprintf("z%d", i%2), i)
		d[i].Change(func(s *repv1.StateResponse) {
			s.OptionalPlacementTags = rapid.SampledFrom([][]string{nil, {"gpu"}}).Draw(t, "optional")
			s.PlacementTags = rapid.SampledFrom([][]string{nil, nil, nil, {"gpu"}}).Draw(t, "required")
			s.VolumeDrivers = rapid.SampledFrom([][]string{nil, {"nfs"}}).Draw(t, "drivers")
			s.ProxyMemoryAllocationMb = rapid.SampledFrom([]int32{0, 3}).Draw(t, "proxy")
			s.StartingContainerLimit = rapid.SampledFrom([]int32{0, 0, 4}).Draw(t, "limit")
		})
	}
	return d
}

// disturb changes cells behind the auctioneer's back and lets some fail.
func (d directCells) disturb(t *rapid.T) {
	for _, c := range d {
		switch rapid.IntRange(0, 7).Draw(t, "disturbance") {
		case 0: // somebody else took room
			c.Change(func(s *repv1.StateResponse) { s.AvailableResources.MemoryMb /= 2 })
		case 1:
			c.RunAll()
		case 2:
			c.OnPerform(func(context.Context, func()) error { return status.Error(codes.Internal, "broken before") })
		case 3:
			c.OnPerform(func(_ context.Context, perform func()) error {
				perform()
				return status.Error(codes.Internal, "broken after")
			})
		default:
			c.OnPerform(nil)
		}
	}
}

// TestAuctionsInSequence runs several auctions, one after the other on the states that the answers to Perform corrected.
// Each must be one that scoring every pair gives; what counts as accepted is on that cell and nowhere else; and what the
// fleet believes of a cell is what the cell has.
func TestAuctionsInSequence(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := genDirect(t)
		f := cells.New(cells.Config{
			Lister: d, Connect: d.connect, StateTimeout: time.Minute, PerformTimeout: time.Minute, SoftDeadline: time.Minute,
			StaleLimit: time.Hour, Workers: 10, Log: telemetry.Discard().Log, Registry: prometheus.NewRegistry(),
		})
		defer f.Close()
		accepted := map[string]string{}
		for round := range rapid.IntRange(1, 5).Draw(t, "rounds") {
			d.disturb(t)
			left := genWorks(t, round)
			for pass := range 3 {
				since := time.Now().Add(-time.Hour)
				if rapid.Bool().Draw(t, "fresh") {
					since = time.Now()
				}
				s, err := f.Snapshot(context.Background(), since)
				if err != nil {
					t.Fatal(err)
				}
				left = auctionOnce(t, f, s, left, accepted, uint64(10*round+pass))
			}
			holders := d.holders()
			for name, cell := range accepted {
				if on := holders[name]; len(on) != 1 || on[0] != cell {
					t.Fatalf("%s was accepted by %s and is on %v", name, cell, on)
				}
			}
			if len(holders) != len(accepted) {
				t.Fatalf("cells hold %d pieces of work, %d were accepted: %v", len(holders), len(accepted), holders)
			}
			checkBeliefs(t, f, d)
		}
	})
}

// auctionOnce decides and hands over, and returns what needs another pass.
func auctionOnce(t *rapid.T, f *cells.Fleet, s cells.Snapshot, works []*work.Work, accepted map[string]string, seed uint64) (left []*work.Work) {
	items := make([]auction.Item, len(works))
	for i, w := range works {
		items[i] = w.Item
	}
	opts := auction.Options{StartingWeight: 0.25, Seed: seed}
	result := auction.New(s.Cells, opts).Schedule(items)
	if err := naive.Check(s.Cells, opts, items, result); err != nil {
		t.Fatal(err)
	}
	winners := map[string][]*work.Work{}
	for _, p := range result.Placements {
		winners[p.Cell] = append(winners[p.Cell], works[p.Item])
	}
	outcomes := make(chan cells.Outcome, len(winners))
	for cell, won := range winners {
		f.Perform(cell, won, func(o cells.Outcome) { outcomes <- o })
	}
	for range winners {
		o := <-outcomes
		for _, w := range o.Accepted {
			accepted[w.Key().String()] = o.Cell
		}
		if len(o.Unknown) > 0 {
			t.Fatalf("every cell tells its state, yet %d are unknown", len(o.Unknown))
		}
		for _, w := range o.Refused {
			w.Avoid = append(w.Avoid, o.Cell)
			left = append(left, w)
		}
	}
	for _, r := range result.Refusals {
		left = append(left, works[r.Item])
	}
	return left
}

// checkBeliefs compares what is known of the cells with the cells themselves: what they hold before they are asked again,
// and what is free after that, since others than the auctioneer take room too.
func checkBeliefs(t *rapid.T, f *cells.Fleet, d directCells) {
	for _, since := range []time.Time{time.Now().Add(-time.Hour), time.Now()} {
		s, err := f.Snapshot(context.Background(), since)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Cells {
			at := slices.IndexFunc(d, func(x *simulationtest.Cell) bool { return x.ID == c.ID })
			instances := 0
			for _, n := range c.Instances {
				instances += n
			}
			if lrps, tasks := d[at].Holds(); instances != lrps || c.Tasks != tasks {
				t.Fatalf("%s is believed to hold %d instances and %d tasks, it holds %d and %d", c.ID, instances, c.Tasks, lrps, tasks)
			}
		}
	}
	s, err := f.Snapshot(context.Background(), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Cells {
		at := slices.IndexFunc(d, func(x *simulationtest.Cell) bool { return x.ID == c.ID })
		free := d[at].Free()
		if got, want := c.Available, (auction.Resources{MemoryMB: int64(free.GetMemoryMb()), DiskMB: int64(free.GetDiskMb()), Containers: int64(free.GetContainers())}); got != want {
			t.Fatalf("%s is believed to have %v free, it has %v", c.ID, got, want)
		}
	}
}

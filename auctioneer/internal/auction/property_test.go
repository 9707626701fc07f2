package auction_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/auction/naive"
)

func genCells(t *rapid.T) []auction.Cell {
	tag := rapid.SampledFrom([]string{"gpu", "GPU", "isolated"})
	tags := rapid.SliceOfN(tag, 0, 2)
	cells := make([]auction.Cell, rapid.IntRange(0, 40).Draw(t, "cells"))
	shared := &auction.Profile{ArbitraryRootFS: []string{"docker"}, FixedRootFS: map[string][]string{"preloaded": {"stack"}}}
	wild := rapid.Bool().Draw(t, "profiles differ")
	sizes := rapid.IntRange(1, 3).Draw(t, "sizes")
	tasks := rapid.SampledFrom([]int{0, 1, 8}).Draw(t, "most tasks") // few, or zones with many cost all the same
	for i := range cells {
		c := &cells[i]
		c.ID = fmt.Sprintf("cell-%02d", i)
		c.Zone = fmt.Sprintf("z%d", rapid.IntRange(0, 2).Draw(t, "zone"))
		c.Index = rapid.IntRange(0, 50).Draw(t, "index")
		c.Condition = rapid.SampledFrom([]auction.Condition{auction.Open, auction.Open, auction.Open, auction.Open, auction.Open, auction.Open, auction.Evacuating, auction.Unreachable, auction.Unhealthy, auction.Busy}).Draw(t, "condition")
		c.Profile = shared
		if wild && rapid.Bool().Draw(t, "own profile") {
			c.Profile = &auction.Profile{
				ArbitraryRootFS: rapid.SampledFrom([][]string{nil, {"docker"}}).Draw(t, "arbitrary"),
				FixedRootFS:     map[string][]string{"preloaded": {"stack", "other"}},
				VolumeDrivers:   rapid.SampledFrom([][]string{nil, {"nfs"}}).Draw(t, "drivers"),
				RequiredTags:    tags.Draw(t, "required"),
				OptionalTags:    tags.Draw(t, "optional"),
			}
		}
		k := int64(rapid.IntRange(1, sizes).Draw(t, "size"))
		c.Total = auction.Resources{MemoryMB: 100 * k, DiskMB: 150 * k, Containers: 20}
		if rapid.IntRange(0, 20).Draw(t, "zero total") == 0 {
			c.Total.DiskMB = 0
		}
		c.Available = auction.Resources{
			MemoryMB:   rapid.Int64Range(-5, 100*k).Draw(t, "memory"),
			DiskMB:     rapid.Int64Range(0, 150*k).Draw(t, "disk"),
			Containers: rapid.Int64Range(0, 20).Draw(t, "containers"),
		}
		if rapid.Bool().Draw(t, "empty") {
			c.Available = c.Total
		}
		c.ProxyMemoryMB = rapid.SampledFrom([]int64{0, 8}).Draw(t, "proxy")
		c.Starting = rapid.IntRange(0, 3).Draw(t, "starting")
		c.StartSlots = rapid.SampledFrom([]int{auction.NoStartLimit, auction.NoStartLimit, 0, 2, 5}).Draw(t, "slots")
		c.Tasks = rapid.IntRange(0, tasks).Draw(t, "tasks")
		c.Instances = rapid.MapOfN(rapid.SampledFrom([]string{"p0", "p1", "p2", "q"}), rapid.IntRange(1, 3), 0, 3).Draw(t, "instances")
	}
	return cells
}

func genItems(t *rapid.T, cells []auction.Cell) []auction.Item {
	tags := rapid.SliceOfN(rapid.SampledFrom([]string{"gpu", "GPU", "isolated", "none"}), 0, 3)
	requests := make([]*auction.Request, rapid.IntRange(1, 4).Draw(t, "requests"))
	for i := range requests {
		r := &auction.Request{
			MemoryMB: rapid.SampledFrom([]int64{0, 1, 5, 20, 60}).Draw(t, "memory"),
			DiskMB:   rapid.SampledFrom([]int64{0, 1, 10, 70}).Draw(t, "disk"),
			Proxy:    rapid.Bool().Draw(t, "proxy"),
			RootFS:   rapid.SampledFrom([]string{"preloaded:stack", "preloaded:stack", "docker:///x", "preloaded:other", "::", "odd:x"}).Draw(t, "rootfs"),
		}
		if rapid.IntRange(0, 4).Draw(t, "plain") == 0 {
			r.VolumeDrivers = rapid.SampledFrom([][]string{nil, {"nfs"}, {"nfs", "nfs"}}).Draw(t, "drivers")
			if r.Constrained = rapid.Bool().Draw(t, "constrained"); r.Constrained {
				r.Require = tags.Draw(t, "require")
			} else {
				r.PlacementTags = tags.Draw(t, "tags")
			}
		}
		requests[i] = r
	}
	start := time.Unix(1000, 0)
	var items []auction.Item
	for p := range rapid.IntRange(0, 4).Draw(t, "processes") {
		r := rapid.SampledFrom(requests).Draw(t, "request")
		from := rapid.IntRange(0, 2).Draw(t, "from")
		for i := range rapid.IntRange(1, 60).Draw(t, "instances") {
			items = append(items, auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("p%d", p), Index: from + i, Request: r, Queued: start.Add(time.Duration(p%2) * time.Second)})
		}
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "tasks") {
		items = append(items, auction.Item{Kind: auction.Task, GUID: fmt.Sprintf("t%d", i), Request: rapid.SampledFrom(requests).Draw(t, "request"), Queued: start})
	}
	for i := range items {
		if len(cells) > 0 && rapid.IntRange(0, 9).Draw(t, "avoid") == 0 {
			items[i].Avoid = []string{rapid.SampledFrom(cells).Draw(t, "cell").ID}
		}
	}
	return items
}

func genOptions(t *rapid.T) auction.Options {
	return auction.Options{
		StartingWeight: rapid.SampledFrom([]float64{0, 0.25, 1}).Draw(t, "starting weight"),
		BinPackWeight:  rapid.SampledFrom([]float64{0, 0, 0.25, 1}).Draw(t, "bin pack weight"),
		InFlightLimit:  rapid.SampledFrom([]int{0, 0, 30}).Draw(t, "limit"),
		Seed:           rapid.Uint64().Draw(t, "seed"),
	}
}

// TestScheduleEqualsNaive replays each decision of the fast auction through the naive one.
func TestScheduleEqualsNaive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cells, opts := genCells(t), genOptions(t)
		items := genItems(t, cells)
		if err := naive.Check(cells, opts, items, auction.New(cells, opts).Schedule(items)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestScheduleIsDeterministic: the order of the input has no say.
func TestScheduleIsDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cells, opts := genCells(t), genOptions(t)
		items := genItems(t, cells)
		byKey := func(cells []auction.Cell, items []auction.Item) map[string]string {
			out := map[string]string{}
			r := auction.New(cells, opts).Schedule(items)
			for _, p := range r.Placements {
				out[fmt.Sprint(items[p.Item].GUID, items[p.Item].Index)] = p.Cell
			}
			for _, p := range r.Refusals {
				out[fmt.Sprint(items[p.Item].GUID, items[p.Item].Index)] = p.Text
			}
			return out
		}
		want := byKey(cells, items)
		got := byKey(rapid.Permutation(cells).Draw(t, "cells"), rapid.Permutation(items).Draw(t, "items"))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("another order of the input gives another result (-first +second):\n%s", diff)
		}
	})
}

// TestExplainAgrees: the cell that Schedule chooses is one that Explain finds without
// a reason against it, and its score is the best of its zone.
func TestExplainAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cells, opts := genCells(t), genOptions(t)
		opts.InFlightLimit = 0
		items := genItems(t, cells)
		if len(items) == 0 {
			return
		}
		item := items[0]
		verdicts := auction.New(cells, opts).Explain(item)
		result := auction.New(cells, opts).Schedule([]auction.Item{item})
		if len(result.Refusals) > 0 {
			for _, v := range verdicts {
				if len(v.Reasons) == 0 {
					t.Fatalf("refused with %q although cell %s would take it", result.Refusals[0].Text, v.Cell)
				}
			}
			return
		}
		winner := verdicts[slices.IndexFunc(verdicts, func(v auction.CellVerdict) bool { return v.Cell == result.Placements[0].Cell })]
		for _, v := range verdicts {
			if len(v.Reasons) == 0 && v.Zone == winner.Zone && v.Score() < winner.Score()-1e-9 {
				t.Fatalf("%s (%v) won over %s (%v)", winner.Cell, winner.Score(), v.Cell, v.Score())
			}
		}
	})
}

// TestNaiveAgreesAtScale compares the spread of both algorithms on one larger input:
// cells of different sizes, large and small processes.
func TestNaiveAgreesAtScale(t *testing.T) {
	t.Parallel()
	cells, items := fleet(48), starts(3000)
	for i := range cells {
		cells[i].Total.MemoryMB += int64(i%7) * 1000
		cells[i].Available = cells[i].Total
	}
	deviation := func(r auction.Result) float64 {
		require.Empty(t, r.Refusals)
		perCell := map[string]int{}
		for _, p := range r.Placements {
			perCell[p.Cell]++
		}
		mean, sum := float64(len(items))/float64(len(cells)), 0.0
		for _, n := range perCell {
			sum += (float64(n) - mean) * (float64(n) - mean)
		}
		return math.Sqrt(sum / float64(len(cells)))
	}
	opts := auction.Options{StartingWeight: 0.25}
	fast := deviation(auction.New(cells, opts).Schedule(items))
	slow := deviation(naive.New(cells, opts).Schedule(items))
	if fast > slow+0.1 {
		t.Errorf("deviation %.3f, scoring every pair gives %.3f", fast, slow)
	}
}

package auction

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// The simulations that placement has to pass. A standard cell has 100 MB of memory,
// 100 MB of disk and 100 containers; cell i is in zone i mod 2; an item takes 1 MB of
// disk.

const stack = "preloaded:stack"

var stackProfile = &Profile{FixedRootFS: map[string][]string{"preloaded": {"stack"}}}

func standardCells(n int) []Cell {
	cells := make([]Cell, n)
	for i := range cells {
		total := Resources{MemoryMB: 100, DiskMB: 100, Containers: 100}
		cells[i] = Cell{
			ID: fmt.Sprintf("cell-%03d", i), Zone: fmt.Sprintf("z%d", i%2), Index: i, Profile: stackProfile,
			Total: total, Available: total, StartSlots: NoStartLimit, Instances: map[string]int{},
		}
	}
	return cells
}

// settle gives a cell n running instances of 1 MB, each of a process of its own.
func settle(c *Cell, n int) {
	for i := range n {
		c.Instances[fmt.Sprintf("settled-%s-%d", c.ID, i)] = 1
	}
	c.Available.MemoryMB -= int64(n)
	c.Available.DiskMB -= int64(n)
	c.Available.Containers -= int64(n)
}

func request(memory int64) *Request { return &Request{MemoryMB: memory, DiskMB: 1, RootFS: stack} }

// apps is n processes with one instance each.
func apps(n int, r *Request) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i] = Item{Kind: LRP, GUID: fmt.Sprintf("app-%04d", i), Request: r}
	}
	return items
}

// instances is n instances of one process.
func instances(guid string, n int, r *Request) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i] = Item{Kind: LRP, GUID: guid, Index: i, Request: r}
	}
	return items
}

func perCell(r Result) map[string]int {
	out := map[string]int{}
	for _, p := range r.Placements {
		out[p.Cell]++
	}
	return out
}

func perZone(cells []Cell, r Result) map[string]int {
	out := map[string]int{}
	byCell := perCell(r)
	for i := range cells {
		out[cells[i].Zone] += byCell[cells[i].ID]
	}
	return out
}

// requireSpread checks that no cell with new work is further than within from the
// mean over the cells with new work.
func requireSpread(t *testing.T, r Result, within float64) {
	t.Helper()
	require.Empty(t, r.Refusals)
	counts := perCell(r)
	mean := float64(len(r.Placements)) / float64(len(counts))
	for id, n := range counts {
		if d := math.Abs(float64(n) - mean); d > within {
			t.Errorf("%s got %d, the mean over %d cells is %.2f: %.2f off, want within %v", id, n, len(counts), mean, d, within)
		}
	}
}

var standard = Options{StartingWeight: 0.25}

func TestColdStart(t *testing.T) {
	t.Parallel()
	for cells, n := range map[int]int{4: 8, 10: 40, 20: 200, 40: 800} {
		r := New(standardCells(cells), standard).Schedule(apps(n, request(1)))
		requireSpread(t, r, 1)
		require.Len(t, perCell(r), cells)
	}
}

func TestMixedSizes(t *testing.T) {
	t.Parallel()
	for cells, n := range map[int]int{25: 2050, 100: 8200} {
		rng := rand.New(rand.NewPCG(7, uint64(n)))
		var items []Item
		for i := range n / 2 {
			items = append(items, Item{Kind: LRP, GUID: fmt.Sprintf("single-%d", i), Request: request(1 << rng.IntN(3))})
			items = append(items, Item{Kind: LRP, GUID: fmt.Sprintf("large-%d", i%12), Index: i / 12, Request: request(1 << rng.IntN(3))})
		}
		rng.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		fleet := standardCells(cells)
		for i := range fleet {
			fleet[i].Total.MemoryMB, fleet[i].Available.MemoryMB = 300, 300
		}
		requireSpread(t, New(fleet, standard).Schedule(items), 10)
	}
}

func TestEmptyCellsAreNotFlooded(t *testing.T) {
	t.Parallel()
	for empty, n := range map[int]int{5: 500, 1: 100} {
		cells := standardCells(100)
		for i := range 100 - empty {
			settle(&cells[i], 50)
		}
		r := New(cells, standard).Schedule(apps(n, request(1)))
		require.Empty(t, r.Refusals)
		// Half a cell of free space is worth two containers that are starting: the
		// spread relative to the mean stays within 1, and no empty cell gets more
		// than two above its share.
		counts, mean := perCell(r), float64(n)/100
		values := slices.Sorted(maps.Values(counts))
		spread := float64(values[len(values)-1]-values[0]) / (float64(n) / float64(len(counts)))
		require.LessOrEqual(t, values[len(values)-1], int(mean)+2)
		if n == 500 {
			require.LessOrEqual(t, spread, 1.0)
		}
	}
}

func TestOneAppOnSettledCells(t *testing.T) {
	t.Parallel()
	for cells, n := range map[int]int{10: 80, 30: 200, 100: 400} {
		fleet := standardCells(cells)
		for i := range fleet {
			settle(&fleet[i], 78+i%3)
		}
		requireSpread(t, New(fleet, standard).Schedule(instances("app", n, request(1))), 1)
	}
}

func TestZonesShareEqually(t *testing.T) {
	t.Parallel()
	cells := standardCells(3)
	cells[0].Zone, cells[1].Zone, cells[2].Zone = "z0", "z0", "z1"
	settle(&cells[2], 50)
	r := New(cells, standard).Schedule(instances("app", 40, request(1)))
	if diff := cmp.Diff(map[string]int{"z0": 20, "z1": 20}, perZone(cells, r)); diff != "" {
		t.Errorf("instances by zone (-want +got):\n%s", diff)
	}
}

func TestBinPacking(t *testing.T) {
	t.Parallel()
	sizes := map[int]int{4: 8, 10: 40, 20: 200, 40: 800}
	for _, weight := range []float64{0.25, 0.5, 0.75} {
		opts := Options{StartingWeight: 0.5, BinPackWeight: weight}
		for cells, n := range sizes {
			fleet := standardCells(cells)
			r := New(fleet, opts).Schedule(apps(n, request(1)))
			require.Empty(t, r.Refusals)
			counts := perCell(r)
			for i := 2; i < cells; i++ {
				if counts[fleet[i].ID] > counts[fleet[i-2].ID] {
					t.Errorf("weight %v, %d cells: ordinal %d of its zone has %d, the one before %d", weight, cells, i/2, counts[fleet[i].ID], counts[fleet[i-2].ID])
				}
			}
			for zone, got := range perZone(fleet, r) {
				if math.Abs(float64(got)-float64(n)/2) > 1 {
					t.Errorf("weight %v, %d cells: zone %s has %d of %d", weight, cells, zone, got, n)
				}
			}
			requireSpread(t, New(fleet, opts).Schedule(instances("app", n, request(1))), 1)
		}
	}
}

func TestOneFullCell(t *testing.T) {
	t.Parallel()
	items := append(apps(80, request(1)), instances("big", 2, request(50))...)
	r := New(standardCells(1), standard).Schedule(items)
	require.Len(t, r.Placements, 51)
	require.Len(t, r.Refusals, 31)
	require.Equal(t, 80, r.Placements[0].Item, "the first instance of the large app is decided first")
	require.Equal(t, 81, r.Refusals[len(r.Refusals)-1].Item, "its second instance is decided last")
	for _, f := range r.Refusals {
		require.Equal(t, "insufficient resources: memory", f.Text)
	}
}

func TestOrderOfDecision(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	items := []Item{
		{Kind: LRP, GUID: "b", Index: 2, Request: request(90), Queued: early},
		{Kind: LRP, GUID: "b", Index: 1, Request: request(1), Queued: early},
		{Kind: LRP, GUID: "a", Index: 1, Request: request(2), Queued: early},
		{Kind: Task, GUID: "t-small", Request: request(3), Queued: early},
		{Kind: Task, GUID: "t-large", Request: request(4), Queued: early},
		{Kind: LRP, GUID: "young", Request: request(5), Queued: late},
		{Kind: LRP, GUID: "old", Request: request(5), Queued: early},
		{Kind: LRP, GUID: "elder", Request: request(5), Queued: early},
	}
	tests := map[string]struct{ items, want []int }{
		"first instances, then tasks, then further instances":            {items: []int{0, 1, 2, 3, 4, 5, 6, 7}, want: []int{7, 6, 5, 4, 3, 2, 1, 0}},
		"first instances come before tasks also without further indexes": {items: []int{4, 3, 6}, want: []int{2, 0, 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var in []Item
			for _, i := range tt.items {
				in = append(in, items[i])
			}
			if diff := cmp.Diff(tt.want, decisionOrder(in)); diff != "" {
				t.Errorf("decisionOrder (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	plain := func(edit func(*Request)) *Request {
		r := request(10)
		if edit != nil {
			edit(r)
		}
		return r
	}
	tagged := func(required, optional []string) func([]Cell) {
		return func(cells []Cell) {
			for i := range cells {
				p := *stackProfile
				p.RequiredTags, p.OptionalTags = required, optional
				cells[i].Profile = &p
			}
		}
	}
	tests := map[string]struct {
		cells   func([]Cell)
		opts    Options
		request *Request
		avoid   []string
		want    string // empty: placed
		waiting bool
		counts  map[string]int
	}{
		"no cell answers": {
			cells: func(c []Cell) { c[0].Condition, c[1].Condition = Unreachable, Evacuating }, request: plain(nil),
			want: "unable to communicate to compatible cells", counts: map[string]int{"unreachable": 1, "evacuating": 1},
		},
		"an evacuating cell is never chosen": {
			cells: func(c []Cell) { c[0].Condition = Evacuating; c[1].Available.DiskMB = 0 }, request: plain(nil),
			want: "insufficient resources: disk", counts: map[string]int{"evacuating": 1, "disk": 1},
		},
		"an unknown stack": {
			request: plain(func(r *Request) { r.RootFS = "preloaded:other" }),
			want:    "found no compatible cell for required rootfs", counts: map[string]int{"rootfs": 2},
		},
		"a missing volume driver": {
			request: plain(func(r *Request) { r.VolumeDrivers = []string{"nfs"} }),
			want:    "found no compatible cell with required volume drivers", counts: map[string]int{"volume_drivers": 2},
		},
		"the furthest stage over all zones is told": {
			cells:   func(c []Cell) { c[1].Profile = &Profile{} },
			request: plain(func(r *Request) { r.PlacementTags = []string{"a"} }),
			want:    `found no compatible cell with placement tag "a"`, counts: map[string]int{"rootfs": 1, "placement_tags": 1},
		},
		"work without tags on isolated cells": {
			cells: tagged([]string{"a"}, nil), request: plain(nil), want: "found no compatible cell with no placement tags",
		},
		"three tags": {
			request: plain(func(r *Request) { r.PlacementTags = []string{"c", "a", "b", "a"} }),
			want:    `found no compatible cell with placement tags "a", "b" and "c"`,
		},
		"two tags": {
			request: plain(func(r *Request) { r.PlacementTags = []string{"b", "a"} }),
			want:    `found no compatible cell with placement tags "a" and "b"`,
		},
		"a required and an optional tag": {
			cells: tagged([]string{"a"}, []string{"b"}), request: plain(func(r *Request) { r.PlacementTags = []string{"b", "a", "b"} }),
		},
		"placement tags are compared with case": {
			cells: tagged(nil, []string{"A"}), request: plain(func(r *Request) { r.PlacementTags = []string{"a"} }),
			want: `found no compatible cell with placement tag "a"`,
		},
		"a constraint is compared without case": {
			cells: tagged([]string{"Dev"}, []string{"GPU", "more"}), request: plain(func(r *Request) { r.Constrained, r.Require = true, []string{"gpu", "DEV"} }),
		},
		"a constraint that no cell meets": {
			request: plain(func(r *Request) { r.Constrained, r.Require = true, []string{"gpu"} }),
			want:    "cell mismatch", counts: map[string]int{"placement_tags": 2},
		},
		"an empty constraint does not open an exclusive cell": {
			cells: tagged([]string{"dev"}, nil), request: plain(func(r *Request) { r.Constrained = true }),
			want: "cell mismatch",
		},
		"the same shortages everywhere are named": {
			cells: func(c []Cell) {
				for i := range c {
					c[i].Available = Resources{}
				}
			},
			request: plain(nil), want: "insufficient resources: containers, disk, memory",
			counts: map[string]int{"containers": 2, "disk": 2, "memory": 2},
		},
		"different shortages are not": {
			cells:   func(c []Cell) { c[0].Available.MemoryMB, c[1].Available.DiskMB = 0, 0 },
			request: plain(nil), want: "insufficient resources", counts: map[string]int{"disk": 1, "memory": 1},
		},
		"proxy memory counts": {
			cells:   func(c []Cell) { c[0].ProxyMemoryMB, c[1].ProxyMemoryMB = 91, 91 },
			request: plain(func(r *Request) { r.Proxy = true }), want: "insufficient resources: memory",
		},
		"proxy memory is not charged to unlimited work": {
			cells:   func(c []Cell) { c[0].ProxyMemoryMB, c[1].ProxyMemoryMB = 200, 200 },
			request: plain(func(r *Request) { r.Proxy, r.MemoryMB = true, 0 }),
		},
		"a total of zero takes what asks for nothing": {
			cells:   func(c []Cell) { c[0].Total.DiskMB, c[1].Total.DiskMB = 0, 0 },
			request: plain(func(r *Request) { r.DiskMB = 0 }),
		},
		"a total of zero refuses what asks for something": {
			cells:   func(c []Cell) { c[0].Total.DiskMB, c[1].Total.DiskMB = 0, 0 },
			request: plain(nil), want: "insufficient resources: disk",
		},
		"the limit on starts over all cells": {
			cells: func(c []Cell) { c[0].Starting = 3 }, opts: Options{InFlightLimit: 3}, request: plain(nil),
			want: "waiting to start instance: reached in-flight start limit", waiting: true, counts: map[string]int{},
		},
		"the limit on starts does not hide that there is no room": {
			cells: func(c []Cell) { c[0].Starting = 3 }, opts: Options{InFlightLimit: 3}, request: plain(func(r *Request) { r.MemoryMB = 101 }),
			want: "insufficient resources: memory",
		},
		"no start slot on the only cell with room": {
			cells: func(c []Cell) { c[0].StartSlots, c[1].Available.MemoryMB = 0, 0 }, request: plain(nil),
			want: "waiting to start instance: reached in-flight start limit", waiting: true,
			counts: map[string]int{"start_limit": 1, "memory": 1},
		},
		"a cell that refused is left out": {
			cells: func(c []Cell) { c[1].Available.MemoryMB = 0 }, request: plain(nil), avoid: []string{"cell-000"},
			want: "insufficient resources: memory", counts: map[string]int{"refused": 1, "memory": 1},
		},
	}
	for name, tt := range tests {
		for _, kind := range []Kind{LRP, Task} {
			t.Run(fmt.Sprintf("%s/%d", name, kind), func(t *testing.T) {
				t.Parallel()
				cells := standardCells(2)
				if tt.cells != nil {
					tt.cells(cells)
				}
				r := New(cells, tt.opts).Schedule([]Item{{Kind: kind, GUID: "g", Request: tt.request, Avoid: tt.avoid}})
				if tt.want == "" {
					require.Len(t, r.Placements, 1)
					return
				}
				require.Len(t, r.Refusals, 1)
				require.Equal(t, tt.want, r.Refusals[0].Text)
				require.Equal(t, tt.waiting, r.Refusals[0].Waiting)
				if tt.counts != nil {
					if diff := cmp.Diff(tt.counts, r.Refusals[0].Verdict.Counts()); diff != "" {
						t.Errorf("verdict (-want +got):\n%s", diff)
					}
				}
			})
		}
	}
}

func TestProxyMemoryIsSubtracted(t *testing.T) {
	t.Parallel()
	cells := standardCells(1)
	cells[0].ProxyMemoryMB = 15
	r := New(cells, standard).Schedule(apps(10, &Request{MemoryMB: 10, DiskMB: 1, RootFS: stack, Proxy: true}))
	require.Len(t, r.Placements, 4, "four of 25 MB fill a cell of 100 MB")
}

func TestStartSlotsAreUsedUp(t *testing.T) {
	t.Parallel()
	cells := standardCells(2)
	cells[0].StartSlots, cells[1].StartSlots = 2, 1
	r := New(cells, standard).Schedule(apps(5, request(1)))
	require.Equal(t, map[string]int{"cell-000": 2, "cell-001": 1}, perCell(r))
	for _, f := range r.Refusals {
		require.True(t, f.Waiting)
	}
}

func TestOnlyLivingSiblingsOfCountedCellsBalanceZones(t *testing.T) {
	t.Parallel()
	// The instances on the unreachable cell are presumed alive, those on the
	// evacuating one are about to move.
	cells := standardCells(4)
	cells[0].Condition, cells[0].Instances["app"] = Unreachable, 2
	cells[3].Condition, cells[3].Instances["app"] = Evacuating, 9
	r := New(cells, standard).Schedule([]Item{{Kind: LRP, GUID: "app", Request: request(1)}})
	require.Equal(t, map[string]int{"cell-001": 1}, perCell(r))
}

func TestTasksSpread(t *testing.T) {
	t.Parallel()
	tasks := func(n int) []Item {
		items := make([]Item, n)
		for i := range items {
			items[i] = Item{Kind: Task, GUID: fmt.Sprintf("task-%d", i), Request: request(1)}
		}
		return items
	}
	cells := standardCells(9)
	r := New(cells, standard).Schedule(tasks(90))
	requireSpread(t, r, 1)

	for i := range cells {
		cells[i].Zone = fmt.Sprintf("z%d", min(1, i)) // one cell against eight
	}
	r = New(cells, Options{}).Schedule(tasks(9))
	require.Equal(t, map[string]int{"z0": 1, "z1": 8}, perZone(cells, r), "zones share by their size")

	// A loaded cell without tasks is worse than an idle one with some.
	cells = standardCells(2)
	settle(&cells[0], 95)
	cells[1].Tasks = 3
	r = New(cells, standard).Schedule(tasks(1))
	require.Equal(t, map[string]int{"cell-001": 1}, perCell(r))
}

func TestSeedsVaryTies(t *testing.T) {
	t.Parallel()
	winners := map[string]bool{}
	for seed := range uint64(64) {
		r := New(standardCells(8), Options{Seed: seed}).Schedule(apps(1, request(1)))
		winners[r.Placements[0].Cell] = true
	}
	require.Len(t, winners, 8, "each of eight equal cells wins sometimes")
}

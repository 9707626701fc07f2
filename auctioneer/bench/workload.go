package main

import (
	"fmt"
	"math/rand/v2"

	"diego.internal/auctioneer/internal/auction"
)

// options are those of an auctioneer as it is delivered.
var options = auction.Options{StartingWeight: 0.25} //nolint:gochecknoglobals // a constant in all but type

const stack = "preloaded:stack"

// scaleRun is one size that the product promises.
type scaleRun struct {
	cells, zones, starts int
	// naive says to score every pair as well, for comparison.
	naive bool
}

// scaleRuns are the promised sizes. Scoring every pair is affordable at the smallest only.
var scaleRuns = []scaleRun{ //nolint:gochecknoglobals // a constant in all but type
	{cells: 100, zones: 2, starts: 10_000, naive: true},
	{cells: 500, zones: 2, starts: 50_000},
	{cells: 1000, zones: 3, starts: 250_000},
}

// fleet is empty cells of one size with room for a third more than they get.
func (r scaleRun) fleet() []auction.Cell {
	share := int64((r.starts + r.cells - 1) / r.cells)
	return cells(r.cells, r.zones, auction.Resources{MemoryMB: share * 4, DiskMB: share * 2, Containers: share * 4 / 3})
}

// work is the mix of the reference's simulation.
func (r scaleRun) work() []auction.Item { return mixed(r.starts) }

func cells(n, zones int, total auction.Resources) []auction.Cell {
	profile := &auction.Profile{FixedRootFS: map[string][]string{"preloaded": {"stack"}}}
	out := make([]auction.Cell, n)
	for i := range out {
		out[i] = auction.Cell{
			ID: fmt.Sprintf("cell-%04d", i), Zone: fmt.Sprintf("z%d", i%zones), Index: i, Profile: profile,
			Total: total, Available: total, StartSlots: auction.NoStartLimit,
		}
	}
	return out
}

// mixed is n instances of 1, 2 and 4 MB in random order: half of them of processes with
// one instance, half spread over 12 large processes. It is the same every time.
func mixed(n int) []auction.Item {
	const large = 12
	rng := rand.New(rand.NewPCG(7, uint64(n))) //nolint:gosec // the same numbers each time are the point
	sizes := []int64{1, 2, 4}
	items := make([]auction.Item, 0, n)
	for i := range n / 2 {
		// Each has a request of its own, as if it came by itself.
		items = append(items,
			auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("single-%06d", i), Request: request(sizes[rng.IntN(3)])},
			auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("large-%02d", i%large), Index: i / large, Request: request(sizes[rng.IntN(3)])})
	}
	rng.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	return items
}

func request(memory int64) *auction.Request {
	return &auction.Request{MemoryMB: memory, DiskMB: 1, RootFS: stack}
}

// apps is n processes with one instance each.
func apps(n int) []auction.Item {
	r := request(1)
	items := make([]auction.Item, n)
	for i := range items {
		items[i] = auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("app-%04d", i), Request: r}
	}
	return items
}

// oneApp is n instances of one process.
func oneApp(n int) []auction.Item {
	r := request(1)
	items := make([]auction.Item, n)
	for i := range items {
		items[i] = auction.Item{Kind: auction.LRP, GUID: "app", Index: i, Request: r}
	}
	return items
}

// simulation is a scenario of the reference's simulation. Cells have 100 MB of memory and
// disk and 100 containers unless memory says otherwise; cell i is in zone i mod 2.
type simulation struct {
	name  string
	cells int
	// memory of a cell in MB; 0 = 100.
	memory int64
	// settled is how many running instances of 1 MB cell i has, each of a process of its own.
	settled func(i int) int
	items   []auction.Item
	opts    auction.Options
}

func (s simulation) fleet() []auction.Cell {
	total := auction.Resources{MemoryMB: 100, DiskMB: 100, Containers: 100}
	if s.memory > 0 {
		total.MemoryMB = s.memory
	}
	fleet := cells(s.cells, 2, total)
	for i := range fleet {
		if s.settled != nil {
			settle(&fleet[i], s.settled(i))
		}
	}
	return fleet
}

func settle(c *auction.Cell, n int) {
	c.Instances = make(map[string]int, n)
	for i := range n {
		c.Instances[fmt.Sprintf("settled-%s-%d", c.ID, i)] = 1
	}
	c.Available.MemoryMB -= int64(n)
	c.Available.DiskMB -= int64(n)
	c.Available.Containers -= int64(n)
}

// simulations are the scenarios in the order of the reference.
func simulations() []simulation {
	var out []simulation
	for _, size := range [][2]int{{4, 8}, {10, 40}, {20, 200}, {40, 800}} {
		out = append(out, simulation{name: fmt.Sprintf("cold_start_%d_cells", size[0]), cells: size[0], items: apps(size[1]), opts: options})
	}
	for _, size := range [][2]int{{25, 2050}, {100, 8200}} {
		out = append(out, simulation{name: fmt.Sprintf("mixed_%d_cells", size[0]), cells: size[0], memory: 300, items: mixed(size[1]), opts: options})
	}
	for _, size := range [][2]int{{5, 500}, {1, 100}} {
		full := 100 - size[0]
		out = append(out, simulation{
			name: fmt.Sprintf("%d_empty_of_100_cells", size[0]), cells: 100, items: apps(size[1]), opts: options,
			settled: func(i int) int {
				if i < full {
					return 50
				}
				return 0
			},
		})
	}
	for _, size := range [][2]int{{10, 80}, {30, 200}, {100, 400}} {
		out = append(out, simulation{
			name: fmt.Sprintf("one_app_%d_settled_cells", size[0]), cells: size[0], items: oneApp(size[1]), opts: options,
			settled: func(i int) int { return 78 + i%3 },
		})
	}
	for _, weight := range []float64{0.25, 0.5, 0.75} {
		opts := auction.Options{StartingWeight: 0.5, BinPackWeight: weight}
		name := fmt.Sprintf("bin_pack_%.0f_percent", weight*100)
		out = append(out,
			simulation{name: name + "_apps_40_cells", cells: 40, items: apps(800), opts: opts},
			simulation{name: name + "_one_app_40_cells", cells: 40, items: oneApp(800), opts: opts})
	}
	return out
}

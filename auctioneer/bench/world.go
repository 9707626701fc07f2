package main

import (
	"maps"
	"math"

	"diego.internal/auctioneer/internal/auction"
)

// world is what runs where: the cells as their next states would tell, and every item on
// its cell.
type world struct {
	cells []auction.Cell
	// positions finds a cell by id.
	positions map[string]int
	// placed are the items on each cell, by position: only those that the auction placed,
	// not what was there before.
	placed [][]auction.Item
}

// newWorld lets everything that was placed run.
func newWorld(cells []auction.Cell, items []auction.Item, result auction.Result) *world {
	w := &world{cells: make([]auction.Cell, len(cells)), placed: make([][]auction.Item, len(cells))}
	for i := range cells {
		w.cells[i] = cells[i]
		w.cells[i].Instances = maps.Clone(cells[i].Instances)
		if w.cells[i].Instances == nil {
			w.cells[i].Instances = map[string]int{}
		}
	}
	w.index()
	w.apply(items, result)
	return w
}

func (w *world) index() {
	w.positions = make(map[string]int, len(w.cells))
	for i := range w.cells {
		w.positions[w.cells[i].ID] = i
	}
}

// apply charges the cells for what was placed on them.
func (w *world) apply(items []auction.Item, result auction.Result) {
	for _, p := range result.Placements {
		at, item := w.positions[p.Cell], items[p.Item]
		c := &w.cells[at]
		c.Available.MemoryMB -= auction.Charge(item.Request, c.ProxyMemoryMB)
		c.Available.DiskMB -= item.Request.DiskMB
		c.Available.Containers--
		c.Instances[item.GUID]++
		w.placed[at] = append(w.placed[at], item)
	}
}

// loseTenth takes one of every ten cells away, at least one and evenly over the zones, and returns what the auction had
// placed there. What was there before is gone for good: it is none of the auction's work.
func (w *world) loseTenth() []auction.Item {
	var lost []auction.Item
	var cells []auction.Cell
	var placed [][]auction.Item
	for i := range w.cells {
		if i%10 == i/10%10 {
			lost = append(lost, w.placed[i]...)
			continue
		}
		cells, placed = append(cells, w.cells[i]), append(placed, w.placed[i])
	}
	w.cells, w.placed = cells, placed
	w.index()
	return lost
}

func (w *world) perCell() summary {
	counts := make([]int, len(w.placed))
	for i, items := range w.placed {
		counts[i] = len(items)
	}
	return summarise(counts)
}

func (w *world) perZone() summary {
	byZone := map[string]int{}
	for i := range w.cells {
		byZone[w.cells[i].Zone] += len(w.placed[i])
	}
	var counts []int
	for _, n := range byZone {
		counts = append(counts, n)
	}
	return summarise(counts)
}

// processZoneSpread is the largest difference that any process has between the zone with
// most and the zone with fewest of its instances. Zone totals differ when zones have
// different numbers of cells, however even each process is.
func (w *world) processZoneSpread() int {
	zones := map[string]int{}
	for i := range w.cells {
		if _, known := zones[w.cells[i].Zone]; !known {
			zones[w.cells[i].Zone] = len(zones)
		}
	}
	counts := map[string][]int{}
	for i := range w.cells {
		zone := zones[w.cells[i].Zone]
		for _, item := range w.placed[i] {
			if counts[item.GUID] == nil {
				counts[item.GUID] = make([]int, len(zones))
			}
			counts[item.GUID][zone]++
		}
	}
	spread := 0
	for _, perZone := range counts {
		s := summarise(perZone)
		spread = max(spread, int(s.max-s.min))
	}
	return spread
}

// summary of a distribution; the deviation is that of the whole population.
type summary struct{ min, mean, max, deviation float64 }

func summarise(counts []int) summary {
	if len(counts) == 0 {
		return summary{}
	}
	s := summary{min: math.Inf(1), max: math.Inf(-1)}
	for _, n := range counts {
		v := float64(n)
		s.min, s.max = min(s.min, v), max(s.max, v)
		s.mean += v / float64(len(counts))
	}
	for _, n := range counts {
		s.deviation += (float64(n) - s.mean) * (float64(n) - s.mean) / float64(len(counts))
	}
	s.deviation = math.Sqrt(s.deviation)
	return s
}

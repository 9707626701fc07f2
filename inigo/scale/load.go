package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// load is how many instances each cell has after a step, the cells in the order of zone and id.
type load struct {
	step  string
	cells []cellLoad
}

type cellLoad struct {
	id, zone  string
	instances int
}

// loadOf counts the containers of each cell; zones holds all cells that are present.
func loadOf(step string, zones map[string]string, containers []container) load {
	count := make(map[string]int, len(zones))
	for _, c := range containers {
		count[c.cell]++
	}
	l := load{step: step}
	for _, id := range slices.Sorted(maps.Keys(zones)) {
		l.cells = append(l.cells, cellLoad{id: id, zone: zones[id], instances: count[id]})
	}
	slices.SortStableFunc(l.cells, func(a, b cellLoad) int { return cmp.Compare(a.zone, b.zone) })
	return l
}

// balance of a load: the fewest, the mean, the most and the standard deviation of instances per cell, and how many more
// instances the fullest zone has than the emptiest.
type balance struct {
	fewest, most, skew int
	mean, deviation    float64
}

func (l load) balance() balance {
	if len(l.cells) == 0 {
		return balance{}
	}
	b := balance{fewest: math.MaxInt}
	zones := map[string]int{}
	for _, c := range l.cells {
		b.fewest, b.most = min(b.fewest, c.instances), max(b.most, c.instances)
		b.mean += float64(c.instances)
		zones[c.zone] += c.instances
	}
	b.mean /= float64(len(l.cells))
	for _, c := range l.cells {
		b.deviation += (float64(c.instances) - b.mean) * (float64(c.instances) - b.mean)
	}
	b.deviation = math.Sqrt(b.deviation / float64(len(l.cells)))
	counts := slices.Collect(maps.Values(zones))
	b.skew = slices.Max(counts) - slices.Min(counts)
	return b
}

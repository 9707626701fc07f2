package auction

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// none is the winner when there is none.
const none = -1

// pool holds the open cells of one zone that satisfy the same constraints, as the
// leaves of a tournament tree. An inner node keeps, for each quantity of the score,
// the best value of any leaf below, so that a search leaves out every subtree which
// cannot hold the winner: a choice costs some steps per level instead of one score
// per cell, and is still exactly the choice that scoring every cell would make.
//
// All trees lie in Auction.nodes one after another. A tree with capacity for n leaves
// (a power of two) takes 2n nodes: its root is node base+1, the children of node
// base+i are base+2i and base+2i+1, and its leaves are base+n to base+2n-1, in order
// of rank.
type pool struct {
	zone          int
	profile       *Profile
	profileNumber int
	base, leaves  int
	members       []int32 // ranks of the cells, ascending; position is the leaf
}

// node is a leaf (a cell) or the best of the leaves below it. Padding leaves fit
// nothing.
//
// Scores are sums of products of these fields. Adding and multiplying by something
// not negative are monotone in floating point as well, as long as a bound and a score
// are computed by the same expression: so a bound is never above a score below it.
type node struct {
	// What the load of the cell costs an instance and a task: minimum.
	lrp, task float64
	// What a unit of demand costs: minimum.
	perMemory, perDisk, perContainer float64
	// Free amounts: maximum. memoryLessProxy is what is left for a container once
	// its proxy is paid.
	memory, memoryLessProxy, disk, containers int64
	proxy                                     int64 // minimum
	rank                                      int32 // minimum
}

var padding = node{
	lrp: math.Inf(1), task: math.Inf(1),
	perMemory: math.Inf(1), perDisk: math.Inf(1), perContainer: math.Inf(1),
	memory: math.MinInt64, memoryLessProxy: math.MinInt64, disk: math.MinInt64, containers: math.MinInt64,
	proxy: math.MaxInt64, rank: math.MaxInt32,
}

// buildPools groups the open cells and builds the tree of each group.
func (a *Auction) buildPools() {
	type key struct{ zone, profile int }
	numbers := map[string]int{}
	known := map[*Profile]int{}
	members := map[key][]int32{}
	profiles := map[int]*Profile{}
	for rank := range a.cells {
		c := &a.cells[rank]
		if c.Condition != Open {
			continue
		}
		n, ok := known[c.Profile]
		if !ok {
			text := profileKey(c.Profile)
			if n, ok = numbers[text]; !ok {
				n = a.profiles
				a.profiles++
				numbers[text], profiles[n] = n, c.Profile
			}
			known[c.Profile] = n
		}
		k := key{zone: c.zone, profile: n}
		members[k] = append(members[k], int32(rank))
	}
	size := 0
	for k, ranks := range members {
		leaves := 1 << bits.Len(uint(len(ranks)-1))
		a.pools = append(a.pools, pool{zone: k.zone, profile: profiles[k.profile], profileNumber: k.profile, leaves: leaves, members: ranks})
		size += 2 * leaves
	}
	slices.SortFunc(a.pools, func(x, y pool) int {
		return cmp.Or(cmp.Compare(x.zone, y.zone), cmp.Compare(x.profileNumber, y.profileNumber))
	})
	a.nodes = make([]node, size)
	base := 0
	for p := range a.pools {
		a.pools[p].base = base
		a.buildTree(&a.pools[p])
		base += 2 * a.pools[p].leaves
	}
}

func (a *Auction) buildTree(p *pool) {
	for i := range p.leaves {
		at := p.base + p.leaves + i
		if i >= len(p.members) {
			a.nodes[at] = padding
			continue
		}
		c := &a.cells[p.members[i]]
		c.pool, c.leaf = p, at
		a.nodes[at] = a.leafOf(c, p.members[i])
	}
	for i := p.leaves - 1; i >= 1; i-- {
		a.nodes[p.base+i] = better(&a.nodes[p.base+2*i], &a.nodes[p.base+2*i+1])
	}
}

// leafOf computes the node of one cell.
func (a *Auction) leafOf(c *cell, rank int32) node {
	n := node{
		lrp: a.lrpLoad(c), task: a.taskLoad(c),
		perMemory: c.perMemory, perDisk: c.perDisk, perContainer: c.perContainer,
		memory: c.Available.MemoryMB, memoryLessProxy: c.Available.MemoryMB - c.ProxyMemoryMB,
		disk: c.Available.DiskMB, containers: c.Available.Containers,
		proxy: c.ProxyMemoryMB, rank: rank,
	}
	if c.StartSlots == 0 {
		// It has room but may start nothing now: never chosen, yet its room tells
		// waiting from a lack of resources.
		n.lrp, n.task = math.Inf(1), math.Inf(1)
	}
	return n
}

func better(l, r *node) node {
	return node{
		lrp: min(l.lrp, r.lrp), task: min(l.task, r.task),
		perMemory:    min(l.perMemory, r.perMemory),
		perDisk:      min(l.perDisk, r.perDisk),
		perContainer: min(l.perContainer, r.perContainer),
		memory:       max(l.memory, r.memory), memoryLessProxy: max(l.memoryLessProxy, r.memoryLessProxy),
		disk: max(l.disk, r.disk), containers: max(l.containers, r.containers),
		proxy: min(l.proxy, r.proxy), rank: min(l.rank, r.rank),
	}
}

// refresh brings the tree up to date with a changed cell.
func (a *Auction) refresh(c *cell) {
	p := c.pool
	a.nodes[c.leaf] = a.leafOf(c, a.nodes[c.leaf].rank)
	for i := (c.leaf - p.base) / 2; i >= 1; i /= 2 {
		merged := better(&a.nodes[p.base+2*i], &a.nodes[p.base+2*i+1])
		if merged == a.nodes[p.base+i] {
			return
		}
		a.nodes[p.base+i] = merged
	}
}

package auction

import (
	"math"
	"slices"
)

// Weights of the score that nobody needs to tune. Utilisation lies between 0 and 1.
const (
	// siblingWeight is the cost of each live instance of the same process on the
	// cell: it outweighs everything else, so that instances spread.
	siblingWeight = 1000
	// taskWeight is the cost of each task on the cell, up to taskCountLimit: it
	// spreads tasks over cells of like load, but half a cell of utilisation is the
	// most it ever outweighs.
	taskWeight     = 0.1
	taskCountLimit = 5
	// taskZoneWeight is the cost of one task per cell of the zone, up to one: among
	// like cells, the zone with fewer tasks is preferred.
	taskZoneWeight = 0.25
)

// The products below are converted explicitly: that forbids the compiler to fuse them
// with the addition, which some processors do and which would round a bound and the
// score below it differently.

// utilisation is the mean of the used parts of memory, disk and containers.
func utilisation(c *cell) float64 {
	return (usedPart(c.Total.MemoryMB, c.Available.MemoryMB, c.perMemory) +
		usedPart(c.Total.DiskMB, c.Available.DiskMB, c.perDisk) +
		usedPart(c.Total.Containers, c.Available.Containers, c.perContainer)) / 3
}

func usedPart(total, available int64, perUnit float64) float64 {
	return float64(float64(total-available) * perUnit)
}

// lrpLoad is the part of an instance's score that does not depend on the instance.
func (a *Auction) lrpLoad(c *cell) float64 {
	return utilisation(c) + float64(float64(c.Starting)*a.opts.StartingWeight) +
		float64(float64(c.ordinal)*a.opts.BinPackWeight)
}

// taskLoad is the part of a task's score that depends on the cell alone.
func (a *Auction) taskLoad(c *cell) float64 {
	return utilisation(c) + float64(float64(c.Starting)*a.opts.StartingWeight) +
		float64(float64(min(c.Tasks, taskCountLimit))*taskWeight)
}

// taskZoneCost is the part of a task's score that depends on the zone.
func taskZoneCost(z *zone) float64 {
	return float64(min(1, float64(z.tasks)/float64(max(1, z.open))) * taskZoneWeight)
}

// demandCost is what the item itself adds to the utilisation. For an inner node it is
// a lower bound of the cost on any cell below.
func demandCost(n *node, cl *class) float64 {
	memory := cl.memory
	if cl.key.proxy {
		memory += float64(n.proxy)
	}
	return (float64(memory*n.perMemory) + float64(cl.disk*n.perDisk) + n.perContainer) / 3
}

// search looks for the cell with the smallest score over some pools; the lower rank
// wins a tie.
type search struct {
	a     *Auction
	cl    *class
	avoid []string
	proc  *process // nil for a task
	zone  float64  // cost of the zone being searched

	winner int // rank, or none
	score  float64
}

// bestForLRP walks the zones from the one with the fewest instances of the process;
// zones with equally many are one. It stops at the first that has room.
func (a *Auction) bestForLRP(item *Item, cl *class) int {
	proc := a.processes[item.GUID]
	s := search{a: a, cl: cl, avoid: item.Avoid, proc: proc, winner: none}
	for done := int32(-1); ; {
		next := int32(math.MaxInt32)
		for z, pools := range cl.constraint.pools {
			if n := proc.zones[z]; len(pools) > 0 && n > done && n < next {
				next = n
			}
		}
		if next == math.MaxInt32 {
			return none
		}
		for z, pools := range cl.constraint.pools {
			if len(pools) > 0 && proc.zones[z] == next {
				s.visitPools(pools)
			}
		}
		if s.winner != none {
			return s.winner
		}
		done = next
	}
}

// bestForTask looks at all zones at once.
func (a *Auction) bestForTask(item *Item, cl *class) int {
	s := search{a: a, cl: cl, avoid: item.Avoid, winner: none}
	for z, pools := range cl.constraint.pools {
		s.zone = taskZoneCost(&a.zones[z])
		s.visitPools(pools)
	}
	return s.winner
}

func (s *search) visitPools(pools []int) {
	for _, p := range pools {
		pl := &s.a.pools[p]
		if bound := s.bound(pl.base + 1); s.promising(pl.base+1, bound) {
			s.visit(pl, 1)
		}
	}
}

// visit searches below node i of the pool, the better half first.
func (s *search) visit(pl *pool, i int) {
	if i >= pl.leaves {
		s.consider(pl.base + i)
		return
	}
	first, second := 2*i, 2*i+1
	firstBound, secondBound := s.bound(pl.base+first), s.bound(pl.base+second)
	if secondBound < firstBound {
		first, second = second, first
		firstBound, secondBound = secondBound, firstBound
	}
	if s.promising(pl.base+first, firstBound) {
		s.visit(pl, first)
	}
	if s.promising(pl.base+second, secondBound) {
		s.visit(pl, second)
	}
}

// bound is the score of a leaf, or a lower bound of the scores of all leaves below an
// inner node; infinite if the item fits none of them.
func (s *search) bound(at int) float64 {
	n := &s.a.nodes[at]
	if !fits(n, s.cl) {
		return math.Inf(1)
	}
	return s.scoreWith(n, s.siblings(at))
}

func (s *search) scoreWith(n *node, siblings int32) float64 {
	load := n.lrp
	if s.proc == nil {
		load = n.task + s.zone
	}
	return load + demandCost(n, s.cl) + float64(float64(siblings)*siblingWeight)
}

// siblings is the number of live instances of the process on a leaf, or not more than
// the smallest number on any leaf below.
func (s *search) siblings(at int) int32 {
	if s.proc == nil {
		return 0
	}
	return s.proc.lowerBound(at)
}

// promising tells whether the winner may be at or below a node.
func (s *search) promising(at int, bound float64) bool {
	switch {
	case math.IsInf(bound, 1):
		return false
	case s.winner == none || bound < s.score:
		return true
	default:
		return bound == s.score && int(s.a.nodes[at].rank) < s.winner
	}
}

// consider scores a leaf and keeps it if it is the best so far.
func (s *search) consider(at int) {
	n := &s.a.nodes[at]
	rank := int(n.rank)
	if slices.Contains(s.avoid, s.a.cells[rank].ID) {
		return
	}
	siblings := int32(0)
	if s.proc != nil {
		siblings = s.proc.on(at)
	}
	score := s.scoreWith(n, siblings)
	if s.winner == none || score < s.score || (score == s.score && rank < s.winner) {
		s.winner, s.score = rank, score
	}
}

// fits tells whether a cell has room, or any cell below an inner node may have.
func fits(n *node, cl *class) bool {
	return cl.key.memory <= roomFor(n, cl) && cl.key.disk <= n.disk && n.containers >= 1
}

// roomFor is the memory that is free for containers of the class.
func roomFor(n *node, cl *class) int64 {
	if cl.key.proxy {
		return n.memoryLessProxy
	}
	return n.memory
}

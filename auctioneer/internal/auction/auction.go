// Package auction decides which cell gets which instance or task.
//
// It owns the rules of placement: the order in which work is decided, the hard
// constraints, the scores, the limits on starts and the words in which a refusal
// is told to users. It is a function of values: states of cells and work in,
// placements and refusals out. It has no clock, no I/O and no goroutine, and gives
// the same answer for the same input and seed, whatever the order of the input.
//
// It does not fetch states, talk to cells, queue work or remember anything between
// batches; package batch does that.
package auction

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// Options are the tunable weights and limits of an auction. The zero value spreads
// by utilisation only and has no limits.
type Options struct {
	// StartingWeight is the cost of each container that is starting on a cell, in
	// units of average utilisation (0.25 = a quarter of the cell). Range 0 to 1.
	StartingWeight float64
	// BinPackWeight is the cost of each step of a cell's ordinal within its zone;
	// above zero, cells with low indexes fill first. Range 0 to 1.
	BinPackWeight float64
	// InFlightLimit is the number of containers that may be starting at once over
	// all cells; work beyond it waits. Zero or less means no limit.
	InFlightLimit int
	// Seed decides ties between equally good cells. Vary it from batch to batch, so
	// that ties do not always favour the same cell.
	Seed uint64
}

// Placement says that an item goes to a cell.
type Placement struct {
	// Item is the position of the item in the list that was scheduled.
	Item int
	// Cell is the id of the winner.
	Cell string
}

// Refusal says that no cell takes an item now.
type Refusal struct {
	// Item is the position of the item in the list that was scheduled.
	Item int
	// Text is the placement error, shown to users and parsed by clients.
	Text string
	// Waiting is true when the item would be placed but for a limit on starts, so
	// that it is best kept and tried again as starts finish.
	Waiting bool
	// Verdict counts the cells per reason. It is shared by items that were refused
	// alike and must not be changed.
	Verdict *Verdict
}

// Result is the outcome of a batch. Every item is in exactly one of the two lists,
// each in the order of decision.
type Result struct {
	Placements []Placement
	Refusals   []Refusal
}

// Auction is a snapshot of the cells and the decisions made on it so far. It is not
// safe for concurrent use.
type Auction struct {
	opts     Options
	cells    []cell // in order of rank; a cell's position is its rank
	zones    []zone // in order of name
	profiles int    // number of distinct profiles
	pools    []pool
	nodes    []node
	open     int // cells that take work
	inFlight int
	placed   int // decisions so far; the age of remembered verdicts

	classes     map[classKey]*class
	constraints map[constraintKey]*constraint
	requests    map[*Request]*classPair
	processes   map[string]*process
}

// New takes a snapshot of the cells. It keeps no reference to the slice, but reads
// the maps and profiles of the cells until the auction is dropped; nobody may change
// them meanwhile. Two cells with one id are a mistake of the caller: the first by
// order of the list counts.
func New(cells []Cell, opts Options) *Auction {
	a := &Auction{
		opts:        opts,
		classes:     map[classKey]*class{},
		constraints: map[constraintKey]*constraint{},
		requests:    map[*Request]*classPair{},
		processes:   map[string]*process{},
	}
	a.rankCells(cells)
	a.nameZones()
	a.assignOrdinals()
	a.buildPools()
	return a
}

// Schedule decides all items, one after another in the order of section "which work
// first": instances with index 0, then tasks, then further instances. Later decisions
// see the earlier ones, also those of earlier calls. Keys of items must be unique.
func (a *Auction) Schedule(items []Item) Result {
	a.countInstances(items)
	result := Result{Placements: make([]Placement, 0, len(items))}
	for _, i := range decisionOrder(items) {
		item := &items[i]
		if winner, refusal := a.decide(item); refusal != nil {
			refusal.Item = i
			result.Refusals = append(result.Refusals, *refusal)
		} else {
			result.Placements = append(result.Placements, Placement{Item: i, Cell: winner})
		}
	}
	return result
}

// decide finds the best cell for one item and reserves its share there.
func (a *Auction) decide(item *Item) (string, *Refusal) {
	cl := a.classOf(item)
	if a.open == 0 || !cl.constraint.compatible || a.atInFlightLimit() {
		return "", a.refuse(item, cl)
	}
	best := a.bestForLRP
	if item.Kind == Task {
		best = a.bestForTask
	}
	winner := best(item, cl)
	if winner == none {
		return "", a.refuse(item, cl)
	}
	a.reserve(winner, item, cl)
	return a.cells[winner].ID, nil
}

func (a *Auction) atInFlightLimit() bool {
	return a.opts.InFlightLimit > 0 && a.inFlight >= a.opts.InFlightLimit
}

// rankCells orders the cells by a hash of their ids and the seed. The order decides
// ties, so that equal cells are chosen evenly over many batches and the same way
// every time for one seed.
func (a *Auction) rankCells(cells []Cell) {
	type ranked struct {
		hash uint64
		pos  int
	}
	order := make([]ranked, 0, len(cells))
	seen := make(map[string]bool, len(cells))
	for i := range cells {
		if seen[cells[i].ID] {
			continue
		}
		seen[cells[i].ID] = true
		order = append(order, ranked{hash: seededHash(a.opts.Seed, cells[i].ID), pos: i})
	}
	slices.SortFunc(order, func(x, y ranked) int {
		return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(cells[x.pos].ID, cells[y.pos].ID))
	})
	a.cells = make([]cell, len(order))
	for rank, o := range order {
		a.cells[rank] = newCell(&cells[o.pos])
	}
}

// seededHash mixes the seed into an FNV hash of the id (the finaliser of splitmix64),
// because FNV alone keeps the order of similar ids for every seed.
func seededHash(seed uint64, id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	x := h.Sum64() ^ (seed * 0x9e3779b97f4a7c15)
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

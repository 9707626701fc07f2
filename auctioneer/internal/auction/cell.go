package auction

import (
	"cmp"
	"slices"
)

// Resources are amounts of a cell.
type Resources struct {
	MemoryMB, DiskMB int64
	// Containers is a number of containers.
	Containers int64
}

// Condition says whether a cell takes work.
type Condition uint8

// The conditions of a cell.
const (
	// Open cells take work.
	Open Condition = iota
	// Evacuating cells take none, and their instances are about to move: they do
	// not count when zones are balanced.
	Evacuating
	// Unreachable cells do not answer. They take no work, but their instances are
	// presumed alive and count when zones are balanced.
	Unreachable
	// Unhealthy cells answer that they cannot run containers; as Unreachable.
	Unhealthy
	// Busy cells have not answered yet to work that was handed to them; as
	// Unreachable.
	Busy
)

// NoStartLimit is the value of Cell.StartSlots for a cell without a limit.
const NoStartLimit = -1

// Profile is the part of a cell that constraints are matched against. It is fixed
// for the life of the cell's process, and cells may share one.
type Profile struct {
	// ArbitraryRootFS are the schemes whose every root filesystem the cell takes,
	// such as "docker".
	ArbitraryRootFS []string
	// FixedRootFS are the names that the cell has of each scheme, such as
	// "cflinuxfs4" of "preloaded".
	FixedRootFS map[string][]string
	// VolumeDrivers are the drivers that are mounted.
	VolumeDrivers []string
	// RequiredTags must be asked for by all work; OptionalTags may be.
	RequiredTags, OptionalTags []string
}

// Cell is the state of a cell at the start of a batch.
type Cell struct {
	ID   string
	Zone string
	// Index is the ordinal of the cell in its deployment, used by bin packing.
	Index     int
	Condition Condition
	// Profile must not be nil for an open cell.
	Profile *Profile
	// Total is the capacity, Available what is neither reserved nor used.
	Total, Available Resources
	// ProxyMemoryMB is what a container with a proxy costs on top of its own
	// memory; 0 if the cell runs no proxies.
	ProxyMemoryMB int64
	// Starting counts containers between reservation and running.
	Starting int
	// StartSlots is how many more containers the cell starts at once, or
	// NoStartLimit.
	StartSlots int
	// Tasks counts the tasks on the cell that are not completed.
	Tasks int
	// Instances counts live instances (claimed or running, not crashed or shut
	// down) per process guid.
	Instances map[string]int
}

// Charge is the memory that a container of the request takes on a cell with the
// given proxy memory. The auction subtracts exactly this, and a cell reserves the
// same: the proxy is charged when it will run, and only to a container whose memory
// is limited, since an unlimited one (0) reserves nothing anyway.
func Charge(r *Request, proxyMemoryMB int64) int64 {
	if !chargesProxy(r) {
		return r.MemoryMB
	}
	return r.MemoryMB + proxyMemoryMB
}

func chargesProxy(r *Request) bool { return r.Proxy && r.MemoryMB > 0 }

// cell is a Cell with the decisions of this auction applied.
type cell struct {
	Cell
	zone    int   // position in Auction.zones
	ordinal int   // position in the zone by index, when bin packing
	pool    *pool // nil for a cell that takes no work
	leaf    int   // position in Auction.nodes
	// Reciprocals of the totals, 0 for a total of 0: what is not there adds
	// nothing to the score.
	perMemory, perDisk, perContainer float64
}

func newCell(c *Cell) cell {
	n := cell{Cell: *c}
	n.perMemory = normalise(&n.Total.MemoryMB, &n.Available.MemoryMB)
	n.perDisk = normalise(&n.Total.DiskMB, &n.Available.DiskMB)
	n.perContainer = normalise(&n.Total.Containers, &n.Available.Containers)
	return n
}

// normalise brings the free amount between 0 and the total, so that an overbooked
// cell still takes what asks for nothing of the resource, and returns 1/total, or 0
// for a total of 0.
func normalise(total, available *int64) float64 {
	*total = max(0, *total)
	*available = max(0, min(*available, *total))
	if *total == 0 {
		return 0
	}
	return 1 / float64(*total)
}

// zone is an availability zone.
type zone struct {
	name  string
	open  int // cells that take work
	tasks int // tasks on those
}

func (a *Auction) nameZones() {
	var names []string
	for i := range a.cells {
		names = append(names, a.cells[i].Zone)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	a.zones = make([]zone, len(names))
	for z, name := range names {
		a.zones[z].name = name
	}
	for i := range a.cells {
		c := &a.cells[i]
		c.zone, _ = slices.BinarySearch(names, c.Zone)
		if c.Condition == Open {
			a.open++
			a.inFlight += c.Starting
			a.zones[c.zone].open++
			a.zones[c.zone].tasks += c.Tasks
		}
	}
}

// assignOrdinals numbers the open cells of each zone from 0 by their index. Without
// bin packing all ordinals stay 0.
func (a *Auction) assignOrdinals() {
	if a.opts.BinPackWeight <= 0 {
		return
	}
	order := make([]*cell, 0, len(a.cells))
	for i := range a.cells {
		if a.cells[i].Condition == Open {
			order = append(order, &a.cells[i])
		}
	}
	slices.SortFunc(order, func(x, y *cell) int {
		return cmp.Or(cmp.Compare(x.Index, y.Index), cmp.Compare(x.ID, y.ID))
	})
	next := make([]int, len(a.zones))
	for _, c := range order {
		c.ordinal = next[c.zone]
		next[c.zone]++
	}
}

// reserve books the item on its winner, so that the next decision sees it.
func (a *Auction) reserve(winner int, item *Item, cl *class) {
	c := &a.cells[winner]
	c.Available.MemoryMB -= Charge(item.Request, c.ProxyMemoryMB)
	c.Available.DiskMB -= cl.key.disk
	c.Available.Containers--
	c.Starting++
	if c.StartSlots > 0 {
		c.StartSlots--
	}
	a.inFlight++
	a.placed++
	if item.Kind == Task {
		c.Tasks++
		a.zones[c.zone].tasks++
	} else {
		a.processes[item.GUID].add(a, c, 1)
	}
	a.refresh(c)
}

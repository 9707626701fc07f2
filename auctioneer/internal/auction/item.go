package auction

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Kind tells instances of long-running processes from tasks.
type Kind uint8

// The kinds of work.
const (
	LRP Kind = iota + 1
	Task
)

// Request is what work asks of a cell. Items of one process share one Request, which
// must not change while an auction uses it.
type Request struct {
	// MemoryMB and DiskMB are zero for "unlimited", never negative.
	MemoryMB, DiskMB int64
	// Proxy says that a sidecar proxy will run in the container, which costs the
	// cell's proxy memory on top.
	Proxy bool
	// RootFS is a URL: "preloaded:cflinuxfs4", "docker:///busybox".
	RootFS string
	// VolumeDrivers must all be present on the cell.
	VolumeDrivers []string
	// PlacementTags must cover the cell's required tags and be among its required
	// and optional ones; compared exactly.
	PlacementTags []string
	// Constrained says that Require decides instead of PlacementTags.
	Constrained bool
	// Require are tags that a cell must have, compared without case. A cell's
	// required tags must all be among them.
	Require []string
}

// Item is one piece of work: an instance of a process, or a task.
type Item struct {
	Kind Kind
	// GUID is the process guid of an instance or the guid of a task.
	GUID string
	// Index is the index of an instance and 0 for a task.
	Index int
	// Queued is when the work first asked for a place; older work is decided first
	// among equals.
	Queued  time.Time
	Request *Request
	// Avoid lists cells that have refused this item already.
	Avoid []string
}

// decisionOrder returns the positions of the items in the order of decision: every
// process gets a first instance, then come tasks, which users wait for, then further
// instances by index. Within each step large items go first, because they are the
// hardest to fit, then older ones, then by guid, so that the order is total.
func decisionOrder(items []Item) []int {
	type record struct {
		step   uint64 // step, index and size in one comparison
		queued int64
		guid   string
		pos    int
	}
	records := make([]record, len(items))
	for i := range items {
		it := &items[i]
		records[i] = record{step: orderKey(it), queued: it.Queued.UnixNano(), guid: it.GUID, pos: i}
	}
	slices.SortFunc(records, func(x, y record) int {
		if x.step != y.step {
			return cmp.Compare(x.step, y.step)
		}
		if x.queued != y.queued {
			return cmp.Compare(x.queued, y.queued)
		}
		return cmp.Compare(x.guid, y.guid)
	})
	order := make([]int, len(records))
	for i := range records {
		order[i] = records[i].pos
	}
	return order
}

// orderKey packs the step (2 bits), the index (30 bits) and the complement of the
// memory (32 bits) of an item. Indexes and sizes beyond these ranges are clamped;
// they keep a total order through the later keys.
func orderKey(it *Item) uint64 {
	step, index := uint64(0), uint64(0)
	switch {
	case it.Kind == Task:
		step = 1
	case it.Index > 0:
		step, index = 2, uint64(min(it.Index, 1<<30-1))
	}
	size := uint64(math.MaxUint32) - uint64(max(0, min(it.Request.MemoryMB, math.MaxUint32)))
	return step<<62 | index<<32 | size
}

package auction

import (
	"slices"
	"strings"
)

// Reason is why a cell does not take an item.
type Reason uint8

// The reasons, in the order in which they are found. A cell has one of those up to
// ReasonStartLimit, or one or more of the three resources.
const (
	ReasonUnreachable Reason = iota
	ReasonUnhealthy
	ReasonBusy
	ReasonEvacuating
	ReasonRootFS
	ReasonVolumeDrivers
	ReasonPlacementTags
	ReasonRefused // the cell itself refused this item earlier
	ReasonStartLimit
	ReasonContainers
	ReasonDisk
	ReasonMemory
	reasonCount
)

var reasonNames = [reasonCount]string{
	"unreachable", "unhealthy", "busy", "evacuating", "rootfs", "volume_drivers", "placement_tags",
	"refused", "start_limit", "containers", "disk", "memory",
}

// String returns the name of the reason as it is reported.
func (r Reason) String() string {
	if r >= reasonCount {
		return "unknown"
	}
	return reasonNames[r]
}

// Verdict says over all cells why an item was not placed.
type Verdict struct {
	// Cells is the number of cells that were looked at.
	Cells int
	// InFlight is true when the limit on starts over all cells held the item back;
	// cells without a reason would have taken it.
	InFlight bool
	counts   [reasonCount]int
}

// Count returns the number of cells with the reason. A cell may lack several
// resources at once and is then counted for each.
func (v *Verdict) Count(r Reason) int { return v.counts[r] }

// Counts returns the numbers by name of the reason, without those that are zero.
func (v *Verdict) Counts() map[string]int {
	out := map[string]int{}
	for r, n := range v.counts {
		if n > 0 {
			out[Reason(r).String()] = n
		}
	}
	return out
}

// CellVerdict is the judgement of one cell about one item. Score parts are those of
// the spec and lower is better; they are filled in for every open cell that satisfies
// the constraints, also when it lacks room.
type CellVerdict struct {
	Cell, Zone string
	// Reasons why not; empty if the cell takes the item.
	Reasons []Reason
	// Utilisation is the mean of memory, disk and containers with the item on it.
	Utilisation float64
	// Starting, Siblings, BinPack, Tasks are the further parts, weighted.
	Starting, Siblings, BinPack, Tasks float64
	// Instances is the number of live instances of the same process in the zone.
	Instances int
}

// Score is the sum of the parts.
func (v *CellVerdict) Score() float64 {
	return v.Utilisation + v.Starting + v.Siblings + v.BinPack + v.Tasks
}

// Explain judges every cell for an item, in order of cell id, with no effect on later
// decisions.
func (a *Auction) Explain(item Item) []CellVerdict {
	a.countInstances([]Item{item})
	cl := a.classOf(&item)
	out := make([]CellVerdict, 0, len(a.cells))
	for i := range a.cells {
		out = append(out, a.explainCell(&a.cells[i], &item, cl))
	}
	slices.SortFunc(out, func(x, y CellVerdict) int { return strings.Compare(x.Cell, y.Cell) })
	return out
}

func (a *Auction) explainCell(c *cell, item *Item, cl *class) CellVerdict {
	v := CellVerdict{Cell: c.ID, Zone: c.Zone}
	reasons := a.judge(c, item, cl)
	for r := range reasonCount {
		if reasons.has(r) {
			v.Reasons = append(v.Reasons, r)
		}
	}
	if c.pool == nil || cl.constraint.stages[c.pool.profileNumber] != stageAll {
		return v
	}
	v.Utilisation = utilisation(c) + demandCost(&a.nodes[c.leaf], cl)
	v.Starting = float64(c.Starting) * a.opts.StartingWeight
	if item.Kind == Task {
		v.Tasks = float64(min(c.Tasks, taskCountLimit))*taskWeight + taskZoneCost(&a.zones[c.zone])
		return v
	}
	proc := a.processes[item.GUID]
	v.Siblings = float64(proc.on(c.leaf)) * siblingWeight
	v.BinPack = float64(c.ordinal) * a.opts.BinPackWeight
	v.Instances = int(proc.zones[c.zone])
	return v
}

// reasonSet is a set of reasons, one bit each.
type reasonSet uint16

func (s reasonSet) has(r Reason) bool { return s&(1<<r) != 0 }

// lacking is the set of reasons that are shortages.
const lacking reasonSet = 1<<ReasonContainers | 1<<ReasonDisk | 1<<ReasonMemory

// judge returns why a cell does not take an item.
func (a *Auction) judge(c *cell, item *Item, cl *class) reasonSet {
	switch c.Condition {
	case Unreachable:
		return 1 << ReasonUnreachable
	case Unhealthy:
		return 1 << ReasonUnhealthy
	case Busy:
		return 1 << ReasonBusy
	case Evacuating:
		return 1 << ReasonEvacuating
	case Open:
	}
	switch cl.constraint.stages[c.pool.profileNumber] {
	case stageNone:
		return 1 << ReasonRootFS
	case stageRootFS:
		return 1 << ReasonVolumeDrivers
	case stageVolumeDrivers:
		return 1 << ReasonPlacementTags
	case stageAll:
	}
	if len(item.Avoid) > 0 && slices.Contains(item.Avoid, c.ID) {
		return 1 << ReasonRefused
	}
	short := shortages(&a.nodes[c.leaf], cl)
	if short == 0 && c.StartSlots == 0 {
		return 1 << ReasonStartLimit
	}
	return short
}

func shortages(n *node, cl *class) reasonSet {
	var s reasonSet
	if n.containers < 1 {
		s |= 1 << ReasonContainers
	}
	if n.disk < cl.key.disk {
		s |= 1 << ReasonDisk
	}
	if roomFor(n, cl) < cl.key.memory {
		s |= 1 << ReasonMemory
	}
	return s
}

// refuse says why an item has no place. Equal items that meet the same state share
// one answer.
func (a *Auction) refuse(item *Item, cl *class) *Refusal {
	if cl.refused != nil && cl.placedAt == a.placed && len(item.Avoid) == 0 {
		shared := *cl.refused
		return &shared
	}
	r := a.makeRefusal(item, cl)
	if len(item.Avoid) == 0 {
		kept := *r
		cl.refused, cl.placedAt = &kept, a.placed
	}
	return r
}

func (a *Auction) makeRefusal(item *Item, cl *class) *Refusal {
	v := &Verdict{Cells: len(a.cells)}
	common, short, takers := lacking, false, 0
	for i := range a.cells {
		reasons := a.judge(&a.cells[i], item, cl)
		for r := range reasonCount {
			if reasons.has(r) {
				v.counts[r]++
			}
		}
		if reasons == 0 {
			takers++
		}
		if reasons&lacking != 0 {
			common &= reasons
			short = true
		}
	}
	refusal := &Refusal{Verdict: v}
	switch {
	case a.open == 0:
		refusal.Text = TextCommunication
	case !cl.constraint.compatible:
		refusal.Text = mismatchText(item.Request, cl.constraint.furthest)
	case takers > 0 || v.Count(ReasonStartLimit) > 0:
		// Some cell has room: only a limit on starts, of all cells or of that
		// cell, is in the way.
		v.InFlight = a.atInFlightLimit()
		refusal.Text, refusal.Waiting = TextInFlightLimit, true
	default:
		refusal.Text = insufficientText(common, short)
	}
	return refusal
}

// insufficientText names the resources that every compatible cell lacks.
func insufficientText(common reasonSet, short bool) string {
	var names []string
	for _, r := range []Reason{ReasonContainers, ReasonDisk, ReasonMemory} {
		if short && common.has(r) {
			names = append(names, r.String())
		}
	}
	if len(names) == 0 {
		return TextInsufficient
	}
	return TextInsufficient + ": " + strings.Join(names, ", ")
}

package auction

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
)

// naive is the auction as the rules are written: for each item it scores every cell.
// It shares no code with the fast one but the input types, and is what the fast one
// is compared with.
type naive struct {
	opts     Options
	cells    []Cell
	perCell  []map[string]int
	ordinals map[string]int
	charge   func(r *Request, c *Cell) int64
}

func newNaive(cells []Cell, opts Options) *naive {
	n := &naive{opts: opts, cells: slices.Clone(cells), ordinals: map[string]int{}}
	for i := range n.cells {
		c := &n.cells[i]
		counts := map[string]int{}
		maps.Copy(counts, c.Instances)
		n.perCell = append(n.perCell, counts)
		for _, pair := range [][2]*int64{
			{&c.Total.MemoryMB, &c.Available.MemoryMB},
			{&c.Total.DiskMB, &c.Available.DiskMB},
			{&c.Total.Containers, &c.Available.Containers},
		} {
			*pair[0] = max(0, *pair[0])
			*pair[1] = max(0, min(*pair[1], *pair[0]))
		}
	}
	if opts.BinPackWeight > 0 {
		for i := range n.cells {
			for j := range n.cells {
				ci, cj := &n.cells[i], &n.cells[j]
				if ci.Condition == Open && cj.Condition == Open && ci.Zone == cj.Zone &&
					(cj.Index < ci.Index || (cj.Index == ci.Index && cj.ID < ci.ID)) {
					n.ordinals[ci.ID]++
				}
			}
		}
	}
	n.charge = func(r *Request, c *Cell) int64 {
		if r.Proxy && r.MemoryMB > 0 {
			return r.MemoryMB + c.ProxyMemoryMB
		}
		return r.MemoryMB
	}
	return n
}

// step is how far a cell gets with an item: 0 to 2 for the constraint it fails, 3 for
// none.
func (n *naive) step(it *Item, c *Cell) int {
	r, p := it.Request, c.Profile
	u, err := url.Parse(r.RootFS)
	if err != nil || u.Scheme == "" {
		return 0
	}
	if !slices.Contains(p.ArbitraryRootFS, u.Scheme) &&
		(u.Opaque == "" || !slices.Contains(p.FixedRootFS[u.Scheme], u.Opaque)) {
		return 0
	}
	for _, d := range r.VolumeDrivers {
		if !slices.Contains(p.VolumeDrivers, d) {
			return 1
		}
	}
	fold := func(s string) string { return s }
	asked := r.PlacementTags
	if r.Constrained {
		asked, fold = r.Require, strings.ToLower
	}
	has := map[string]bool{}
	wants := map[string]bool{}
	for _, t := range append(slices.Clone(p.RequiredTags), p.OptionalTags...) {
		has[fold(t)] = true
	}
	for _, t := range asked {
		wants[fold(t)] = true
		if !has[fold(t)] {
			return 2
		}
	}
	for _, t := range p.RequiredTags {
		if !wants[fold(t)] {
			return 2
		}
	}
	return 3
}

func (n *naive) missing(it *Item, c *Cell) []string {
	var out []string
	if c.Available.Containers < 1 {
		out = append(out, "containers")
	}
	if c.Available.DiskMB < it.Request.DiskMB {
		out = append(out, "disk")
	}
	if c.Available.MemoryMB < n.charge(it.Request, c) {
		out = append(out, "memory")
	}
	return out
}

func used(total, available, demand int64) float64 {
	if total == 0 {
		return 0
	}
	return 1 - float64(available-demand)/float64(total)
}

func (n *naive) score(it *Item, i int) float64 {
	c := &n.cells[i]
	s := (used(c.Total.MemoryMB, c.Available.MemoryMB, n.charge(it.Request, c)) +
		used(c.Total.DiskMB, c.Available.DiskMB, it.Request.DiskMB) +
		used(c.Total.Containers, c.Available.Containers, 1)) / 3
	s += float64(c.Starting) * n.opts.StartingWeight
	if it.Kind == LRP {
		return s + 1000*float64(n.perCell[i][it.GUID]) + float64(n.ordinals[c.ID])*n.opts.BinPackWeight
	}
	tasks, open := 0, 0
	for j := range n.cells {
		if n.cells[j].Condition == Open && n.cells[j].Zone == c.Zone {
			tasks += n.cells[j].Tasks
			open++
		}
	}
	return s + 0.1*float64(min(c.Tasks, 5)) + 0.25*min(1, float64(tasks)/float64(open))
}

// decision is what the rules allow: the cells within rounding of the best score, or
// the text of the refusal.
type decision struct {
	best    []string
	text    string
	waiting bool
}

func (n *naive) decide(it *Item) decision {
	open, furthest := 0, 0
	var compatible []int
	inFlight := 0
	for i := range n.cells {
		c := &n.cells[i]
		if c.Condition != Open {
			continue
		}
		open++
		inFlight += c.Starting
		s := n.step(it, c)
		furthest = max(furthest, s)
		if s == 3 {
			compatible = append(compatible, i)
		}
	}
	if open == 0 {
		return decision{text: TextCommunication}
	}
	if furthest < 3 {
		return decision{text: n.mismatch(it, furthest)}
	}
	atLimit := n.opts.InFlightLimit > 0 && inFlight >= n.opts.InFlightLimit
	var takers []int
	slotless, failed := false, 0
	missing := map[string]int{}
	for _, i := range compatible {
		c := &n.cells[i]
		if slices.Contains(it.Avoid, c.ID) {
			continue
		}
		if m := n.missing(it, c); len(m) > 0 {
			failed++
			for _, name := range m {
				missing[name]++
			}
			continue
		}
		if c.StartSlots == 0 {
			slotless = true
			continue
		}
		takers = append(takers, i)
	}
	if atLimit && len(takers) > 0 || len(takers) == 0 && slotless {
		return decision{text: TextInFlightLimit, waiting: true}
	}
	if len(takers) == 0 {
		return decision{text: insufficient(missing, failed)}
	}
	return decision{best: n.bestOf(it, takers)}
}

func insufficient(missing map[string]int, failed int) string {
	var common []string
	for _, name := range []string{"containers", "disk", "memory"} {
		if failed > 0 && missing[name] == failed {
			common = append(common, name)
		}
	}
	if len(common) == 0 {
		return "insufficient resources"
	}
	return "insufficient resources: " + strings.Join(common, ", ")
}

func (n *naive) mismatch(it *Item, furthest int) string {
	switch {
	case furthest == 0:
		return "found no compatible cell for required rootfs"
	case furthest == 1:
		return "found no compatible cell with required volume drivers"
	case it.Request.Constrained:
		return "cell mismatch"
	}
	tags := slices.Compact(slices.Sorted(slices.Values(it.Request.PlacementTags)))
	switch len(tags) {
	case 0:
		return "found no compatible cell with no placement tags"
	case 1:
		return fmt.Sprintf("found no compatible cell with placement tag %q", tags[0])
	}
	text := "found no compatible cell with placement tags "
	for i, t := range tags {
		switch {
		case i == 0:
		case i == len(tags)-1:
			text += " and "
		default:
			text += ", "
		}
		text += fmt.Sprintf("%q", t)
	}
	return text
}

// bestOf returns the takers within rounding of the best score; for an instance, only
// of the zones with the fewest instances among the zones that have takers.
func (n *naive) bestOf(it *Item, takers []int) []string {
	inZone := map[string]int{}
	for i := range n.cells {
		if n.cells[i].Condition != Evacuating {
			inZone[n.cells[i].Zone] += n.perCell[i][it.GUID]
		}
	}
	fewest := math.MaxInt
	for _, i := range takers {
		fewest = min(fewest, inZone[n.cells[i].Zone])
	}
	best, scores := math.Inf(1), map[int]float64{}
	for _, i := range takers {
		if it.Kind == LRP && inZone[n.cells[i].Zone] > fewest {
			continue
		}
		scores[i] = n.score(it, i)
		best = min(best, scores[i])
	}
	var out []string
	for i, s := range scores {
		if s <= best+1e-9 {
			out = append(out, n.cells[i].ID)
		}
	}
	slices.Sort(out)
	return out
}

func (n *naive) place(it *Item, id string) {
	for i := range n.cells {
		c := &n.cells[i]
		if c.ID != id {
			continue
		}
		c.Available.MemoryMB -= n.charge(it.Request, c)
		c.Available.DiskMB -= it.Request.DiskMB
		c.Available.Containers--
		c.Starting++
		if c.StartSlots > 0 {
			c.StartSlots--
		}
		if it.Kind == Task {
			c.Tasks++
		} else {
			n.perCell[i][it.GUID]++
		}
	}
}

// order sorts the items by the table of the rules.
func (n *naive) order(items []Item) []int {
	pos := make([]int, len(items))
	for i := range pos {
		pos[i] = i
	}
	step := func(it *Item) int {
		switch {
		case it.Kind == Task:
			return 2
		case it.Index == 0:
			return 1
		default:
			return 3
		}
	}
	slices.SortStableFunc(pos, func(x, y int) int {
		a, b := &items[x], &items[y]
		if d := step(a) - step(b); d != 0 {
			return d
		}
		if d := a.Index - b.Index; d != 0 {
			return d
		}
		if d := b.Request.MemoryMB - a.Request.MemoryMB; d != 0 {
			return int(d)
		}
		if d := a.Queued.Compare(b.Queued); d != 0 {
			return d
		}
		return strings.Compare(a.GUID, b.GUID)
	})
	return pos
}

// schedule runs the naive auction to its end, taking the first of equally good cells.
func (n *naive) schedule(items []Item) Result {
	var result Result
	for _, i := range n.order(items) {
		d := n.decide(&items[i])
		if len(d.best) == 0 {
			result.Refusals = append(result.Refusals, Refusal{Item: i, Text: d.text, Waiting: d.waiting})
			continue
		}
		n.place(&items[i], d.best[0])
		result.Placements = append(result.Placements, Placement{Item: i, Cell: d.best[0]})
	}
	return result
}

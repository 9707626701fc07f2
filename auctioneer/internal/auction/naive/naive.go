// Package naive is the auction as the rules are written: for each item it scores every
// cell. It is the oracle of tests and the yardstick of benchmarks, and no part of the
// product: nothing that the auctioneer runs may import it.
//
// It shares the input and result types and the texts of package auction and none of its code,
// so that a mistake cannot be in both.
package naive

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"

	"diego.internal/auctioneer/internal/auction"
)

// Auction is a snapshot of the cells and the decisions made on it so far. It is not safe
// for concurrent use.
type Auction struct {
	// Cells are the cells as they are after the placements so far. Readers may look at them.
	Cells []auction.Cell

	opts     auction.Options
	perCell  []map[string]int
	ordinals map[string]int
}

// New takes a snapshot of the cells.
func New(cells []auction.Cell, opts auction.Options) *Auction {
	n := &Auction{opts: opts, Cells: slices.Clone(cells), ordinals: map[string]int{}}
	for i := range n.Cells {
		c := &n.Cells[i]
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
		for i := range n.Cells {
			for j := range n.Cells {
				ci, cj := &n.Cells[i], &n.Cells[j]
				if ci.Condition == auction.Open && cj.Condition == auction.Open && ci.Zone == cj.Zone &&
					(cj.Index < ci.Index || (cj.Index == ci.Index && cj.ID < ci.ID)) {
					n.ordinals[ci.ID]++
				}
			}
		}
	}
	return n
}

func charge(r *auction.Request, c *auction.Cell) int64 {
	if r.Proxy && r.MemoryMB > 0 {
		return r.MemoryMB + c.ProxyMemoryMB
	}
	return r.MemoryMB
}

// Step is how far a cell gets with an item: 0 to 2 for the constraint it fails (root
// filesystem, volume drivers, placement tags), 3 for none.
func (n *Auction) Step(it *auction.Item, c *auction.Cell) int {
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

// Missing names what the cell has too little of for the item, in alphabetical order.
func (n *Auction) Missing(it *auction.Item, c *auction.Cell) []string {
	var out []string
	if c.Available.Containers < 1 {
		out = append(out, "containers")
	}
	if c.Available.DiskMB < it.Request.DiskMB {
		out = append(out, "disk")
	}
	if c.Available.MemoryMB < charge(it.Request, c) {
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

func (n *Auction) score(it *auction.Item, i int) float64 {
	c := &n.Cells[i]
	s := (used(c.Total.MemoryMB, c.Available.MemoryMB, charge(it.Request, c)) +
		used(c.Total.DiskMB, c.Available.DiskMB, it.Request.DiskMB) +
		used(c.Total.Containers, c.Available.Containers, 1)) / 3
	s += float64(c.Starting) * n.opts.StartingWeight
	if it.Kind == auction.LRP {
		return s + 1000*float64(n.perCell[i][it.GUID]) + float64(n.ordinals[c.ID])*n.opts.BinPackWeight
	}
	tasks, open := 0, 0
	for j := range n.Cells {
		if n.Cells[j].Condition == auction.Open && n.Cells[j].Zone == c.Zone {
			tasks += n.Cells[j].Tasks
			open++
		}
	}
	return s + 0.1*float64(min(c.Tasks, 5)) + 0.25*min(1, float64(tasks)/float64(open))
}

// Decision is what the rules allow for an item.
type Decision struct {
	// Best are the ids of the cells within rounding of the best score, in order; none for
	// an item that is refused.
	Best []string
	// Text is the placement error of a refusal, Waiting whether only a limit on starts
	// stands against the item.
	Text    string
	Waiting bool
}

// Decide judges an item and changes nothing.
func (n *Auction) Decide(it *auction.Item) Decision {
	open, furthest := 0, 0
	var compatible []int
	inFlight := 0
	for i := range n.Cells {
		c := &n.Cells[i]
		if c.Condition != auction.Open {
			continue
		}
		open++
		inFlight += c.Starting
		s := n.Step(it, c)
		furthest = max(furthest, s)
		if s == 3 {
			compatible = append(compatible, i)
		}
	}
	if open == 0 {
		return Decision{Text: auction.TextCommunication}
	}
	if furthest < 3 {
		return Decision{Text: n.mismatch(it, furthest)}
	}
	atLimit := n.opts.InFlightLimit > 0 && inFlight >= n.opts.InFlightLimit
	var takers []int
	slotless, failed := false, 0
	missing := map[string]int{}
	for _, i := range compatible {
		c := &n.Cells[i]
		if slices.Contains(it.Avoid, c.ID) {
			continue
		}
		if m := n.Missing(it, c); len(m) > 0 {
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
		return Decision{Text: auction.TextInFlightLimit, Waiting: true}
	}
	if len(takers) == 0 {
		return Decision{Text: insufficient(missing, failed)}
	}
	return Decision{Best: n.bestOf(it, takers)}
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

func (n *Auction) mismatch(it *auction.Item, furthest int) string {
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
	var text strings.Builder
	text.WriteString("found no compatible cell with placement tags ")
	for i, t := range tags {
		switch {
		case i == 0:
		case i == len(tags)-1:
			text.WriteString(" and ")
		default:
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%q", t)
	}
	return text.String()
}

// bestOf returns the takers within rounding of the best score; for an instance, only
// of the zones with the fewest instances among the zones that have takers.
func (n *Auction) bestOf(it *auction.Item, takers []int) []string {
	inZone := map[string]int{}
	for i := range n.Cells {
		if n.Cells[i].Condition != auction.Evacuating {
			inZone[n.Cells[i].Zone] += n.perCell[i][it.GUID]
		}
	}
	fewest := math.MaxInt
	for _, i := range takers {
		fewest = min(fewest, inZone[n.Cells[i].Zone])
	}
	best, scores := math.Inf(1), map[int]float64{}
	for _, i := range takers {
		if it.Kind == auction.LRP && inZone[n.Cells[i].Zone] > fewest {
			continue
		}
		scores[i] = n.score(it, i)
		best = min(best, scores[i])
	}
	var out []string
	for i, s := range scores {
		if s <= best+1e-9 {
			out = append(out, n.Cells[i].ID)
		}
	}
	slices.Sort(out)
	return out
}

// Place books the item on the cell of that id.
func (n *Auction) Place(it *auction.Item, id string) {
	for i := range n.Cells {
		c := &n.Cells[i]
		if c.ID != id {
			continue
		}
		c.Available.MemoryMB -= charge(it.Request, c)
		c.Available.DiskMB -= it.Request.DiskMB
		c.Available.Containers--
		c.Starting++
		if c.StartSlots > 0 {
			c.StartSlots--
		}
		if it.Kind == auction.Task {
			c.Tasks++
		} else {
			n.perCell[i][it.GUID]++
		}
	}
}

// Order is the positions of the items in the order of decision, by the table of the rules.
func (n *Auction) Order(items []auction.Item) []int {
	pos := make([]int, len(items))
	for i := range pos {
		pos[i] = i
	}
	step := func(it *auction.Item) int {
		switch {
		case it.Kind == auction.Task:
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

// Schedule decides all items, taking the first of equally good cells. The refusals have no
// verdict.
func (n *Auction) Schedule(items []auction.Item) auction.Result {
	var result auction.Result
	for _, i := range n.Order(items) {
		d := n.Decide(&items[i])
		if len(d.Best) == 0 {
			result.Refusals = append(result.Refusals, auction.Refusal{Item: i, Text: d.Text, Waiting: d.Waiting})
			continue
		}
		n.Place(&items[i], d.Best[0])
		result.Placements = append(result.Placements, auction.Placement{Item: i, Cell: d.Best[0]})
	}
	return result
}

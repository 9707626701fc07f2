package naive

import (
	"fmt"
	"maps"
	"slices"

	"diego.internal/auctioneer/internal/auction"
)

// Check replays the decisions of another auction and returns the first that the rules do not
// allow: the order must be the same, each winner one of the best cells of all, and each refusal
// must have the same words and the same verdict, if it has one.
func Check(cells []auction.Cell, opts auction.Options, items []auction.Item, got auction.Result) error {
	if len(got.Placements)+len(got.Refusals) != len(items) {
		return fmt.Errorf("%d items became %d placements and %d refusals", len(items), len(got.Placements), len(got.Refusals))
	}
	n := New(cells, opts)
	for _, i := range n.Order(items) {
		d := n.Decide(&items[i])
		if len(d.Best) == 0 {
			if len(got.Refusals) == 0 || got.Refusals[0].Item != i {
				return fmt.Errorf("%v should be refused with %q", items[i], d.Text)
			}
			r := got.Refusals[0]
			got.Refusals = got.Refusals[1:]
			if r.Text != d.Text || r.Waiting != d.Waiting {
				return fmt.Errorf("%v refused with %q waiting %v, want %q waiting %v", items[i], r.Text, r.Waiting, d.Text, d.Waiting)
			}
			if err := n.checkVerdict(&items[i], r.Verdict); err != nil {
				return err
			}
			continue
		}
		if len(got.Placements) == 0 || got.Placements[0].Item != i {
			return fmt.Errorf("%v should be placed on one of %v", items[i], d.Best)
		}
		p := got.Placements[0]
		got.Placements = got.Placements[1:]
		if !slices.Contains(d.Best, p.Cell) {
			return fmt.Errorf("%v placed on %s, the best are %v", items[i], p.Cell, d.Best)
		}
		n.Place(&items[i], p.Cell)
	}
	return nil
}

// checkVerdict counts again what a refusal says about the cells.
func (n *Auction) checkVerdict(it *auction.Item, v *auction.Verdict) error {
	if v == nil {
		return nil
	}
	want := map[string]int{}
	for i := range n.Cells {
		for _, reason := range n.reasons(it, &n.Cells[i]) {
			want[reason]++
		}
	}
	if got := v.Counts(); !maps.Equal(got, want) {
		return fmt.Errorf("verdict of %v counts %v, want %v", it, got, want)
	}
	if v.Cells != len(n.Cells) {
		return fmt.Errorf("verdict is about %d cells of %d", v.Cells, len(n.Cells))
	}
	return nil
}

// reasons names what stands against an item on a cell.
func (n *Auction) reasons(it *auction.Item, c *auction.Cell) []string {
	switch c.Condition {
	case auction.Unreachable:
		return []string{"unreachable"}
	case auction.Unhealthy:
		return []string{"unhealthy"}
	case auction.Busy:
		return []string{"busy"}
	case auction.Evacuating:
		return []string{"evacuating"}
	case auction.Open:
	}
	missing := n.Missing(it, c)
	switch step := n.Step(it, c); {
	case step < 3:
		return []string{[]string{"rootfs", "volume_drivers", "placement_tags"}[step]}
	case slices.Contains(it.Avoid, c.ID):
		return []string{"refused"}
	case len(missing) == 0 && c.StartSlots == 0:
		return []string{"start_limit"}
	default:
		return missing
	}
}

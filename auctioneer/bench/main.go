// Command bench measures the auction and prints one row "name n value unit" per figure,
// n being the number of items that were decided.
//
// The rows that targets are set for go to standard output. All others go to standard error,
// to be looked at: the distributions of instances per cell and per zone in the simulations,
// once after all work was placed and once after a tenth of the cells was lost and their
// instances were placed again. It measures and judges nothing; the bounds that must hold are
// in the tests of internal/auction.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/auction/naive"
)

// runs is how often a time is taken. The shortest counts: the auction is one thread doing the
// same work each time, and whatever else the machine does can only add to it.
const runs = 3

// targeted are the rows that targets are set for.
var targeted = []string{ //nolint:gochecknoglobals // a constant in all but type
	"auction_schedule_100_cells", "auction_schedule_500_cells", "auction_schedule_1000_cells",
	"auction_naive_100_cells", "auction_balance_1000_cells", "auction_zone_spread_1000_cells",
}

func main() {
	every := flag.Bool("naive", false, "score every pair at all sizes, which takes minutes")
	flag.Parse()
	promised := scaleRuns
	for i := range promised {
		promised[i].naive = promised[i].naive || *every
	}
	if err := bench(output{targeted: os.Stdout, others: os.Stderr}, promised, simulations()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench measures the runs of the product's promise, then the simulations.
func bench(out output, promised []scaleRun, small []simulation) error {
	w := &rows{targeted: bufio.NewWriter(out.targeted), others: bufio.NewWriter(out.others)}
	for _, run := range promised {
		if err := w.scaleRun(run); err != nil {
			return fmt.Errorf("measuring %d starts on %d cells: %w", run.starts, run.cells, err)
		}
	}
	for _, s := range small {
		if err := w.simulation(s); err != nil {
			return fmt.Errorf("simulating %s: %w", s.name, err)
		}
	}
	return errors.Join(w.targeted.Flush(), w.others.Flush())
}

// output is where rows go.
type output struct{ targeted, others io.Writer }

// rows prints rows.
type rows struct{ targeted, others *bufio.Writer }

func (w *rows) row(name string, n int, value float64, unit string) {
	out := w.others
	if slices.Contains(targeted, name) {
		out = w.targeted
	}
	// Flush reports what a write failed with.
	_, _ = fmt.Fprintf(out, "%s %d %s %s\n", name, n, strconv.FormatFloat(value, 'f', 4, 64), unit)
}

func (w *rows) summary(name string, n int, s summary) {
	w.row(name+"_min", n, s.min, "instances")
	w.row(name+"_mean", n, s.mean, "instances")
	w.row(name+"_max", n, s.max, "instances")
	w.row(name+"_deviation", n, s.deviation, "instances")
}

// scaleRun prints the time to place everything on empty cells, how even the result is, and
// the same for the replacements after a loss.
func (w *rows) scaleRun(run scaleRun) error {
	cells, items := run.fleet(), run.work()
	suffix := fmt.Sprintf("_%d_cells", run.cells)
	var result auction.Result
	w.row("auction_schedule"+suffix, len(items), shortest(func() {
		result = auction.New(cells, options).Schedule(items)
	}), "seconds")
	if len(result.Refusals) > 0 {
		return fmt.Errorf("%d items were refused: %s", len(result.Refusals), result.Refusals[0].Text)
	}
	if run.naive {
		var slow auction.Result
		w.row("auction_naive"+suffix, len(items), seconds(func() { slow = naive.New(cells, options).Schedule(items) }), "seconds")
		state := newWorld(cells, items, slow)
		w.summary("auction_naive_cell"+suffix, len(items), state.perCell())
		w.summary("auction_naive_zone"+suffix, len(items), state.perZone())
	}
	state := newWorld(cells, items, result)
	perCell, perZone := state.perCell(), state.perZone()
	w.row("auction_balance"+suffix, len(items), perCell.deviation, "instances")
	w.row("auction_zone_spread"+suffix, len(items), perZone.max-perZone.min, "instances")
	w.row("auction_process_zone_spread"+suffix, len(items), float64(state.processZoneSpread()), "instances")
	w.summary("auction_cell"+suffix, len(items), perCell)
	w.summary("auction_zone"+suffix, len(items), perZone)

	lost := state.loseTenth()
	w.row("auction_reschedule"+suffix, len(lost), shortest(func() {
		result = auction.New(state.cells, options).Schedule(lost)
	}), "seconds")
	if len(result.Refusals) > 0 {
		return fmt.Errorf("%d lost items were refused: %s", len(result.Refusals), result.Refusals[0].Text)
	}
	state.apply(lost, result)
	w.row("auction_process_zone_spread_after_loss"+suffix, len(lost), float64(state.processZoneSpread()), "instances")
	w.summary("auction_cell_after_loss"+suffix, len(lost), state.perCell())
	w.summary("auction_zone_after_loss"+suffix, len(lost), state.perZone())
	return nil
}

// simulation prints the distributions of one scenario.
func (w *rows) simulation(s simulation) error {
	cells := s.fleet()
	result := auction.New(cells, s.opts).Schedule(s.items)
	if len(result.Refusals) > 0 {
		return fmt.Errorf("%d items were refused: %s", len(result.Refusals), result.Refusals[0].Text)
	}
	state := newWorld(cells, s.items, result)
	w.summary("auction_sim_"+s.name+"_cell", len(s.items), state.perCell())
	w.summary("auction_sim_"+s.name+"_zone", len(s.items), state.perZone())
	lost := state.loseTenth()
	result = auction.New(state.cells, s.opts).Schedule(lost)
	if len(result.Refusals) > 0 {
		return fmt.Errorf("%d lost items were refused: %s", len(result.Refusals), result.Refusals[0].Text)
	}
	state.apply(lost, result)
	w.summary("auction_sim_"+s.name+"_cell_after_loss", len(lost), state.perCell())
	w.summary("auction_sim_"+s.name+"_zone_after_loss", len(lost), state.perZone())
	return nil
}

func shortest(work func()) float64 {
	best := math.Inf(1)
	for range runs {
		best = min(best, seconds(work))
	}
	return best
}

// seconds that the work takes, without the garbage of what ran before.
func seconds(work func()) float64 {
	runtime.GC()
	start := time.Now()
	work()
	return time.Since(start).Seconds()
}

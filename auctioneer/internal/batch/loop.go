// Package batch turns requests into placements: work gathers while a batch runs, the
// next batch decides all of it on one snapshot, and what a cell does not take is placed
// elsewhere at once.
//
// It owns the queue, the loop, the reports to the BBS about work that found no place,
// and the recovery of waiting work by a new master. It does not own the rules of
// placement (package auction) nor the cells (package cells).
package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/cells"
	"diego.internal/auctioneer/internal/work"
)

const (
	// maxPasses bounds how often one batch tries: on the warm states, on fresh ones,
	// and twice more for what cells refuse.
	maxPasses = 4
	// emptyAttempts is how often a batch looks for a cell that takes work before it
	// refuses everything.
	emptyAttempts = 4
	// maxRefusals is how many cells may refuse a piece of work before it goes back to
	// the BBS, which asks again later.
	maxRefusals = 8
	emptyPause  = 100 * time.Millisecond
	// holdInterval is how often held work is tried again.
	holdInterval = time.Second
	// stateShare bounds the time that cells are asked for their states to a quarter: where it takes seconds because there are very
	// many, or because all are busy, what they have begun with since is known here, and room that has come free can wait.
	stateShare = 3
	// Pause after a batch that could not begin because the cells are unknown.
	minPause, maxPause = 100 * time.Millisecond, 5 * time.Second
)

var errNotActive = errors.New("the lock is not held")

// Fleet is what the loop needs of the cells; *cells.Fleet is one.
type Fleet interface {
	Snapshot(ctx context.Context, since time.Time) (cells.Snapshot, error)
	Perform(cellID string, works []*work.Work, done func(cells.Outcome))
	Reservation(key work.Key, asked time.Time) cells.Reservation
}

// Config is what a Loop needs. All fields are required.
type Config struct {
	Fleet   Fleet
	Queue   *Queue
	Reports *Reports
	History *History
	// Options are the weights and limits; the seed is the loop's own.
	Options auction.Options
	// StateMaxAge is how old a state may be for the first try of a batch, or stateShare times as old as the asking takes if that is
	// more; but no older than StaleLimit halved.
	StateMaxAge, StaleLimit time.Duration
	// CommitDeadline is how long a batch waits for the next answer of a cell. What
	// comes later is dealt with when it comes.
	CommitDeadline time.Duration
	// Active tells whether this process may still act as the auctioneer.
	Active   func() bool
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Loop runs one batch after another.
type Loop struct {
	cfg     Config
	metrics metrics
	late    sync.WaitGroup // answers that a batch did not wait for
	// asking is how long it took to ask all cells the last time.
	asking time.Duration
}

// NewLoop makes a loop; Run runs it.
func NewLoop(cfg Config) *Loop {
	return &Loop{cfg: cfg, metrics: newMetrics(cfg.Registry, cfg.Queue)}
}

// Run decides batches until ctx ends. The cells' fleet must be closed to let Run
// return: it waits for the answers that are under way, as they may free work.
func (l *Loop) Run(ctx context.Context) error {
	defer l.late.Wait()
	pause := minPause
	var heldDue time.Time
	for {
		if !l.waitForWork(ctx, heldDue) {
			return nil
		}
		began := time.Now()
		withHeld := !began.Before(heldDue)
		err := l.batch(ctx, withHeld)
		if withHeld {
			// Where very much is held back a try is long; it must not take all the time.
			heldDue = began.Add(max(holdInterval, 3*time.Since(began)))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			pause = minPause
			continue
		}
		l.cfg.Log.WarnContext(ctx, "batch-not-begun", "error", err, "pause", pause)
		l.cfg.Queue.poke()
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, maxPause)
	}
}

// waitForWork blocks until there is new work or held work is due; false at the end.
func (l *Loop) waitForWork(ctx context.Context, heldDue time.Time) bool {
	timer := time.NewTimer(max(0, time.Until(heldDue)))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-l.cfg.Queue.signal:
			return true
		case <-timer.C:
			if _, held, _ := l.cfg.Queue.Lengths(); held > 0 {
				return true
			}
			timer.Reset(holdInterval)
		}
	}
}

// batch takes all that waits and decides it. An error means that nothing was taken.
func (l *Loop) batch(ctx context.Context, withHeld bool) error {
	if !l.cfg.Active() {
		return errNotActive
	}
	started := time.Now()
	snapshot, err := l.cellsFor(ctx, started)
	if err != nil {
		return err
	}
	works := l.cfg.Queue.Take(withHeld) // also what came during the fetch
	if len(works) == 0 {
		return nil
	}
	b := &run{loop: l, started: started, items: len(works), left: works, texts: map[string]int{}}
	for pass := 1; len(b.left) > 0 && pass <= maxPasses; pass++ {
		if pass > 1 {
			if snapshot, err = l.cfg.Fleet.Snapshot(ctx, started); err != nil {
				break
			}
		}
		b.pass(ctx, snapshot, pass)
	}
	for _, w := range b.left { // refused by cells to the last
		l.cfg.Queue.Again(w)
	}
	l.metrics.observe(b, time.Since(started))
	b.log(ctx)
	return nil
}

// cellsFor gets the states to begin with. When no cell takes work it looks again, for
// a cell may just be changing its incarnation.
func (l *Loop) cellsFor(ctx context.Context, started time.Time) (cells.Snapshot, error) {
	since := started.Add(-l.stateMaxAge())
	for attempt := 1; ; attempt++ {
		began := time.Now()
		s, err := l.cfg.Fleet.Snapshot(ctx, since)
		if s.Asked > len(s.Cells)/2 {
			l.asking = time.Since(began)
		}
		if err != nil || s.Open > 0 || attempt == emptyAttempts {
			return s, err
		}
		pause := emptyPause << (attempt - 1)
		if !sleep(ctx, pause/2+rand.N(pause)) { //nolint:gosec // jitter
			return s, fmt.Errorf("waiting for a cell that takes work: %w", context.Cause(ctx))
		}
		since = time.Now()
	}
}

// stateMaxAge is how old the states of cells may be to begin a batch with.
func (l *Loop) stateMaxAge() time.Duration {
	return max(l.cfg.StateMaxAge, min(stateShare*l.asking, l.cfg.StaleLimit/2))
}

// run is one batch on its way.
type run struct {
	loop    *Loop
	started time.Time
	// left is the work that needs another pass.
	left  []*work.Work
	texts map[string]int // refusals by text

	scheduling              time.Duration
	items                   int
	cells                   int // on the last snapshot
	placed, failed, unknown tally
	held                    int
	reserved                int // has its place already
	deferred                int // cells whose answer the batch did not wait for
}

// tally counts work by kind.
type tally struct{ lrps, tasks int }

func (t *tally) add(kind auction.Kind) {
	if kind == auction.Task {
		t.tasks++
	} else {
		t.lrps++
	}
}

func (t *tally) any() bool { return t.lrps+t.tasks > 0 }

// withoutReserved leaves out what a cell is about to begin with. The BBS asks again after half a minute for what has not
// begun; where very much begins at once that is only slow, and a second place would make it slower still. What a cell was about
// to begin with before it was asked for may have begun and ended since: that waits for the next pass, which asks the cells, and
// then until the cell has answered.
func (b *run) withoutReserved(works []*work.Work, first bool) []*work.Work {
	now := make([]*work.Work, 0, len(works))
	for _, w := range works {
		switch b.loop.cfg.Fleet.Reservation(w.Key(), w.Asked) {
		case cells.NotReserved:
			now = append(now, w)
		case cells.WasReserved:
			if first {
				b.left = append(b.left, w)
				continue
			}
			b.held++
			b.loop.cfg.Queue.Hold(w)
		case cells.StillReserved:
			b.reserved++
			b.loop.metrics.reserved.Inc()
			b.loop.cfg.Queue.Dropped(w)
		}
	}
	return now
}

// pass decides what is left on one snapshot and hands it to the winners.
func (b *run) pass(ctx context.Context, snapshot cells.Snapshot, number int) {
	l := b.loop
	if !l.cfg.Active() {
		return // the lock is gone; whoever has it now asks for all of this again
	}
	b.cells = len(snapshot.Cells)
	works := b.left
	b.left = nil
	if works = b.withoutReserved(works, number == 1); len(works) == 0 {
		return
	}
	last := number == maxPasses
	items := make([]auction.Item, len(works))
	for i, w := range works {
		items[i] = w.Item
	}
	began := time.Now()
	options := l.cfg.Options
	options.Seed = rand.Uint64() //nolint:gosec // varies ties, nothing secret
	result := auction.New(snapshot.Cells, options).Schedule(items)
	b.scheduling += time.Since(began)

	winners := map[string][]*work.Work{}
	for _, p := range result.Placements {
		winners[p.Cell] = append(winners[p.Cell], works[p.Item])
	}
	fresh := last || !snapshot.Oldest.Before(b.started)
	for _, r := range result.Refusals {
		b.refused(works[r.Item], r, fresh)
	}
	b.commit(ctx, winners)
}

// refused deals with work that the auction found no place for.
func (b *run) refused(w *work.Work, r auction.Refusal, fresh bool) {
	switch {
	case !fresh && (!r.Waiting || !w.Held):
		// Room may have come free since the states were told. What is held already
		// can wait for the next time.
		b.left = append(b.left, w)
	case r.Waiting || r.Text == auction.TextCommunication && w.Kind == auction.LRP:
		b.hold(w, r.Text, r.Verdict)
	case r.Text == auction.TextInsufficient && w.Reason != "" && r.Verdict.Count(auction.ReasonRefused) > 0:
		b.giveUp(w, w.Reason, r.Verdict) // the cell that refused knew better
	default:
		b.giveUp(w, r.Text, r.Verdict)
	}
}

// hold keeps work until starts finish or cells answer again, and tells why once. A task
// that waits is not told of: each telling counts as a rejection.
func (b *run) hold(w *work.Work, text string, verdict *auction.Verdict) {
	b.held++
	b.loop.cfg.History.refused(w, text, verdict.Counts())
	if w.Kind == auction.LRP && !w.Held {
		b.texts[text]++
		b.loop.metrics.failed(w.Kind)
		b.loop.cfg.Reports.Refused(w, text)
	}
	w.Held = true
	b.loop.cfg.Queue.Hold(w)
}

// giveUp reports work as not placed. verdict is nil if cells refused it that the auction
// had chosen.
func (b *run) giveUp(w *work.Work, text string, verdict *auction.Verdict) {
	b.failed.add(w.Kind)
	b.loop.cfg.Log.Debug("work-refused", "key", w.Key().String(), "placement_error", text, "trace_id", w.TraceID,
		"memory_mb", w.Request.MemoryMB, "disk_mb", w.Request.DiskMB, "root_fs", w.Request.RootFS,
		"volume_drivers", w.Request.VolumeDrivers, "placement_tags", w.Request.PlacementTags, "require", w.Request.Require)
	counts := map[string]int{auction.ReasonRefused.String(): len(w.Avoid)}
	if verdict != nil {
		counts = verdict.Counts()
	}
	b.loop.cfg.History.refused(w, text, counts)
	b.texts[text]++
	b.loop.metrics.failed(w.Kind)
	b.loop.cfg.Reports.Refused(w, text)
	b.loop.cfg.Queue.Dropped(w)
}

// commit hands the work to its winners, all at once, and waits for the answers until
// none has come for the deadline: what comes in steadily is worth waiting for.
func (b *run) commit(ctx context.Context, winners map[string][]*work.Work) {
	if len(winners) == 0 {
		return
	}
	l := b.loop
	outcomes := make(chan cells.Outcome, len(winners))
	for cell, works := range winners {
		l.cfg.Fleet.Perform(cell, works, func(o cells.Outcome) { outcomes <- o })
	}
	deadline := time.NewTimer(l.cfg.CommitDeadline)
	defer deadline.Stop()
	for answered := range len(winners) {
		select {
		case o := <-outcomes:
			b.settle(ctx, o)
			deadline.Reset(l.cfg.CommitDeadline)
		case <-deadline.C:
			b.leave(ctx, outcomes, len(winners)-answered)
			return
		case <-ctx.Done():
			b.leave(ctx, outcomes, len(winners)-answered)
			return
		}
	}
}

// leave has the answers that are still missing dealt with when they come, so that the
// next batch need not wait for them.
func (b *run) leave(ctx context.Context, outcomes <-chan cells.Outcome, missing int) {
	l := b.loop
	b.deferred += missing
	l.late.Go(func() {
		for range missing {
			late := &run{loop: l, started: b.started, texts: map[string]int{}}
			late.settle(ctx, <-outcomes)
			for _, w := range late.left {
				l.cfg.Queue.Again(w)
			}
		}
	})
}

// settle takes over one answer; what the cell does not have stays left for another.
func (b *run) settle(ctx context.Context, o cells.Outcome) {
	l := b.loop
	if o.Err != nil && ctx.Err() == nil {
		l.cfg.Log.WarnContext(ctx, "perform-failed", "cell_id", o.Cell, "accepted", len(o.Accepted),
			"refused", len(o.Refused), "unknown", len(o.Unknown), "error", o.Err)
	}
	for _, w := range o.Accepted {
		l.metrics.started(w.Kind, time.Since(w.Queued))
		l.cfg.Log.DebugContext(ctx, "work-placed", "key", w.Key().String(), "cell_id", o.Cell, "trace_id", w.TraceID)
		l.cfg.History.placed(w)
		l.cfg.Queue.Placed(w)
		b.placed.add(w.Kind)
	}
	words := auction.TextInsufficient
	if o.Err != nil {
		words = auction.TextCommunication // it did not refuse, it failed
	}
	for _, w := range o.Refused {
		b.elsewhere(w, o.Cell, words)
	}
	for _, w := range o.Unknown {
		b.unknown.add(w.Kind)
		l.metrics.unknown(w.Kind)
		b.elsewhere(w, o.Cell, auction.TextCommunication)
	}
}

// elsewhere keeps work for another cell, or gives up after too many. words are told if no
// cell said why.
func (b *run) elsewhere(w *work.Work, cell, words string) {
	w.Avoid = append(w.Avoid, cell)
	w.Reason = cmp.Or(w.Reason, words)
	if len(w.Avoid) < maxRefusals {
		b.left = append(b.left, w)
		return
	}
	b.giveUp(w, w.Reason, nil)
}

func (b *run) log(ctx context.Context) {
	level := slog.LevelInfo
	if !b.placed.any() && !b.failed.any() && !b.unknown.any() {
		level = slog.LevelDebug // only held work, again
	}
	b.loop.cfg.Log.Log(ctx, level, "batch-scheduled", "lrps_placed", b.placed.lrps, "tasks_placed", b.placed.tasks,
		"lrps_failed", b.failed.lrps, "tasks_failed", b.failed.tasks, "held", b.held, "reserved", b.reserved, "unknown", b.unknown.lrps+b.unknown.tasks, "again", len(b.left), "unanswered_cells", b.deferred, "cells", b.cells,
		"scheduling_ms", b.scheduling.Milliseconds(), "total_ms", time.Since(b.started).Milliseconds())
	if len(b.texts) == 0 {
		return
	}
	attrs := make([]any, 0, 2*len(b.texts))
	for text, n := range b.texts {
		attrs = append(attrs, slog.Int(strings.ReplaceAll(text, " ", "_"), n))
	}
	b.loop.cfg.Log.InfoContext(ctx, "placements-refused", slog.Group("by_text", attrs...))
}

// sleep waits for d; false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package effect

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
)

// convergeChunk bounds the indices and tasks of one transaction, so that requests of clients are not
// held up and auctions for the first begin before the last is done.
const convergeChunk = 500

// scopedCells is up to how many cells whose status changed at once are converged one by one; for more
// one look at everything is cheaper.
const scopedCells = 8

// Status of convergence, for operators.
type Status struct {
	Runs       int
	LastRun    time.Time
	Duration   time.Duration // of the last run
	Stats      converge.Stats
	Brake      bool
	Present    int // cells
	Missing    int // cells that were known lately
	TasksActed int // tasks failed, demoted or deleted, ever
	LRPsActed  int // indices changed, ever
	FullRuns   int // runs that looked at each LRP and not only at the unsettled ones
	Looked     int // LRPs that the last run looked at
	Missed     int // LRPs that a run should have looked at and did not, ever; always 0 unless the program is wrong
}

// convergence compares everything every so often, what a cell holds when that comes or goes, and an
// index when its crash delay is over or its instance was removed. Everything is what package attention cannot rule out.
type convergence struct {
	store    Store
	config   Config
	log      *slog.Logger
	newEpoch func() string
	// told are the loops that are to look again at what the plan names.
	told tellers
	// again are indices to look at: restarts when they are due, and those whose instance is gone.
	again *pending[lrp.Key]
	// attention knows what a look at everything has to look at.
	attention *attention
	// compared is the revision of the last look at everything, and drifted are the indices of which their cells were told then.
	// section is where the next part of what is settled begins. Only the goroutine of run uses them.
	compared uint64
	drifted  []lrp.Key
	section  string

	mu     sync.Mutex
	fleet  *converge.Fleet
	synced bool
	status Status
	failed bool // a commit has failed since it was last asked
	wake   chan struct{}
}

// tellers is what convergence has others do.
type tellers struct {
	auctions  *auctions
	orders    *orders
	callbacks *callbacks
}

func newConvergence(store Store, config Config, log *slog.Logger, told tellers) *convergence {
	return &convergence{
		store: store, config: config, log: log, newEpoch: config.NewEpoch, told: told,
		again: newPending[lrp.Key](), attention: newAttention(), fleet: converge.NewFleet(config.Fleet), wake: make(chan struct{}, 1),
	}
}

func (c *convergence) committed(changes Changes, now time.Time) {
	c.attention.committed(c.store.Snapshot(), &changes)
	c.again.add(now, changes.Gone...)
	for _, row := range changes.Actuals {
		if row.State == lrp.Crashed {
			c.again.add(now, row.Key) // which finds when it is due
		}
	}
}

// cells changes what is known, of the cells above all, and has the loop look at it.
func (c *convergence) cells(change func(*converge.Fleet, time.Time)) {
	c.mu.Lock()
	change(c.fleet, time.Now())
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run converges until ctx ends. Nothing is done before it is known once which cells are present.
func (c *convergence) run(ctx context.Context) error {
	c.attention.begin(c.store.Snapshot())
	var known converge.Cells
	full := time.Now() // when the next look at everything is due
	retry := backoff{first: time.Second, most: c.config.Interval}
	for ctx.Err() == nil {
		now := time.Now()
		view, next, ready := c.view(now)
		if !ready {
			if !c.rest(ctx, time.Time{}) {
				break
			}
			continue
		}
		changed := differ(known, view.Cells)
		known = view.Cells
		c.attend(changed)
		everything := !now.Before(full) || len(changed) > scopedCells
		switch {
		case everything:
			c.all(ctx, view)
			full = time.Now().Add(c.config.Interval)
		default:
			for _, cell := range changed {
				c.cell(ctx, view, cell)
			}
		}
		if c.hasFailed() {
			if again := time.Now().Add(retry.next()); again.Before(full) {
				full = again
			}
		} else if everything {
			retry.reset()
		}
		if next.IsZero() || full.Before(next) {
			next = full
		}
		if !c.rest(ctx, next) {
			break
		}
	}
	return context.Cause(ctx)
}

// attend notes the LRPs on cells whose status has changed: that of a settled one is no longer certain.
func (c *convergence) attend(cells []string) {
	if len(cells) > scopedCells {
		c.attention.all()
		return
	}
	for _, cell := range cells {
		c.attention.cell(cell)
	}
}

// runAgain converges single indices as they become due.
func (c *convergence) runAgain(ctx context.Context) error {
	for {
		keys := c.again.take(ctx, convergeChunk)
		if keys == nil {
			return context.Cause(ctx)
		}
		view, _, ready := c.view(time.Now())
		if !ready {
			continue // the first look at everything finds them
		}
		state := c.store.Snapshot()
		due := keys[:0]
		for _, key := range keys {
			s := subject(state, key)
			switch {
			case view.Next(s) != converge.Nothing:
				due = append(due, key)
			case s.Desired != nil && s.Instance.Ordinary != nil:
				if at, restarts := lrp.ResolvePolicy(s.Desired, s.Domain).RestartDue(s.Instance.Ordinary); restarts {
					c.again.add(time.Unix(0, at), key)
				}
			}
		}
		if len(due) > 0 {
			c.applyLRPs(ctx, view, due)
		}
	}
}

// reader is what snapshots and transactions have in common.
type reader interface {
	Instance(key lrp.Key) lrp.Instance
	Desired(processGUID string) *lrp.Desired
	Domain(name string) *lrp.Domain
}

// subject gathers all that decides about an index.
func subject(state reader, key lrp.Key) converge.Subject {
	s := converge.Subject{Key: key, Instance: state.Instance(key), Desired: state.Desired(key.ProcessGUID)}
	switch {
	case s.Desired != nil:
		s.Domain = state.Domain(s.Desired.Domain)
	case !s.Instance.IsZero():
		s.Domain = state.Domain(s.Instance.Any().Domain)
	}
	return s
}

// view freezes what is known now, and says when that changes by time alone. It is not ready before
// the cells are known.
func (c *convergence) view(now time.Time) (view *converge.View, next time.Time, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.synced {
		return nil, time.Time{}, false
	}
	c.fleet.Forget(now)
	cells := c.fleet.View(now)
	braked := c.fleet.Braked(now)
	if braked != c.status.Brake {
		c.log.Warn("convergence-brake-changed", "engaged", braked)
	}
	c.status.Brake = braked
	c.status.Present, c.status.Missing = c.fleet.Count()
	return &converge.View{Now: now, Cells: cells, Config: c.config.Converge}, c.fleet.NextChange(now), true
}

// rest waits until next, zero meaning for ever, or for news of cells; false when ctx ended.
func (c *convergence) rest(ctx context.Context, next time.Time) bool {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-c.wake:
	case <-due:
	}
	return true
}

// differ returns the cells whose status is another than before; one that is not known is Unsure.
func differ(before, after converge.Cells) []string {
	var changed []string
	for id, status := range after {
		if before[id] != status {
			changed = append(changed, id)
		}
	}
	for id, status := range before {
		if _, known := after[id]; !known && status != converge.Unsure {
			changed = append(changed, id)
		}
	}
	return changed
}

// cell makes and carries out a plan for what one cell holds.
func (c *convergence) cell(ctx context.Context, view *converge.View, cellID string) {
	plan := view.MakeForCell(c.store.Snapshot(), cellID)
	c.carryOut(ctx, view, &plan)
	if len(plan.LRPs)+len(plan.Tasks) > 0 {
		c.log.InfoContext(ctx, "converged-cell", "cell_id", cellID, "lost", view.Cells[cellID] == converge.Lost,
			"lrps", len(plan.LRPs), "tasks", len(plan.Tasks), "duration", time.Since(view.Now))
	}
}

func (c *convergence) carryOut(ctx context.Context, view *converge.View, plan *converge.Plan) {
	if len(plan.UnsureCells) > 0 {
		c.cells(func(f *converge.Fleet, now time.Time) {
			for _, id := range plan.UnsureCells {
				f.Noted(id, now)
			}
		})
	}
	c.expireDomains(ctx, view, plan.LapsedDomains)
	keys := make([]lrp.Key, 0, min(len(plan.LRPs), convergeChunk))
	for n, work := range plan.LRPs {
		keys = append(keys, work.Key)
		if len(keys) == convergeChunk || n == len(plan.LRPs)-1 {
			c.applyLRPs(ctx, view, keys)
			keys = keys[:0]
		}
	}
	for start := 0; start < len(plan.Tasks); start += convergeChunk {
		c.applyTasks(ctx, view, plan.Tasks[start:min(start+convergeChunk, len(plan.Tasks))])
	}
	c.tell(plan)
}

// tell has the other loops look at what needs no change but them.
func (c *convergence) tell(plan *converge.Plan) {
	now := time.Now()
	c.told.auctions.lrps.add(now, plan.Unclaimed...)
	c.told.auctions.tasks.add(now, plan.PendingTasks...)
	c.told.callbacks.due.add(now, plan.Callbacks...)
	for _, key := range plan.Drifted {
		c.told.orders.updated.add(now, key.ProcessGUID)
	}
}

func (c *convergence) applyLRPs(ctx context.Context, view *converge.View, keys []lrp.Key) {
	acted := 0
	err := c.store.Do(ctx, func(tx Tx) error {
		acted = 0
		epoch := c.newEpoch()
		for _, key := range keys {
			s := subject(tx, key)
			if out, _ := view.Converge(s, epoch); out.After != s.Instance {
				tx.PutInstance(s.Instance, out)
				acted++
			}
		}
		return nil
	})
	c.acted(ctx, "lrps", acted, 0, err)
}

func (c *convergence) applyTasks(ctx context.Context, view *converge.View, work []converge.TaskWork) {
	acted := 0
	err := c.store.Do(ctx, func(tx Tx) error {
		acted = 0
		for _, w := range work {
			before := tx.Task(w.GUID)
			if before == nil {
				continue
			}
			if after, _ := view.ConvergeTask(before); after != before {
				tx.PutTask(before, after)
				acted++
			}
		}
		return nil
	})
	c.acted(ctx, "tasks", 0, acted, err)
}

func (c *convergence) expireDomains(ctx context.Context, view *converge.View, names []string) {
	if len(names) == 0 {
		return
	}
	err := c.store.Do(ctx, func(tx Tx) error {
		for _, name := range names {
			before := tx.Domain(name)
			if after, event, changed := lrp.ExpireDomain(before, view.Now); changed {
				tx.PutDomain(before, after, event)
			}
		}
		return nil
	})
	c.acted(ctx, "domains", 0, 0, err)
}

// hasFailed reports whether a commit has failed since the last call.
func (c *convergence) hasFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.failed
	c.failed = false
	return failed
}

// acted counts what a transaction did. After a failed one everything is looked at again soon.
func (c *convergence) acted(ctx context.Context, what string, lrps, tasks int, err error) {
	if err != nil {
		c.cells(func(*converge.Fleet, time.Time) { c.failed = true })
		if ctx.Err() == nil {
			c.log.WarnContext(ctx, "convergence-commit-failed", "kind", what, "error", fmt.Errorf("converging %s: %w", what, err))
		}
		return
	}
	c.mu.Lock()
	c.status.LRPsActed += lrps
	c.status.TasksActed += tasks
	c.mu.Unlock()
}

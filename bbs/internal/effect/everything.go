package effect

import (
	"context"
	"slices"
	"time"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
)

const (
	// sections is in how many looks all that is settled is looked at once, too: in ten minutes at the usual interval.
	sections = 20
	// leastSection is how many LRPs a look takes of them at least.
	leastSection = 256
)

// all makes and carries out a plan for everything.
func (c *convergence) all(ctx context.Context, view *converge.View) {
	state, guids, everything := c.attention.take()
	tally, known := state.Tally()
	view.Compared, view.Remember = c.compared, max(leastLimit, tally.LRPs/8)
	var plan converge.Plan
	if !everything {
		plan = view.MakeOf(state, guids)
		everything = !c.confirmed(ctx, view, state, &plan, guids)
	}
	if everything {
		plan = view.Make(state)
		if known && !plan.Stats.Counted(&tally) {
			c.missed(ctx, 1, "tally")
		}
	}
	plan.Drifted = c.stillDrifted(state, plan.Drifted)
	c.compared, c.drifted = state.Revision(), plan.Drifted
	c.attention.keep(&plan)
	c.carryOut(ctx, view, &plan)
	for _, restart := range plan.Restarts {
		c.again.add(time.Unix(0, restart.Due), restart.Key)
	}
	c.mu.Lock()
	c.status.Runs++
	if everything {
		c.status.FullRuns++
	}
	c.status.LastRun, c.status.Duration = view.Now, time.Since(view.Now)
	c.status.Stats, c.status.Looked = plan.Stats, plan.Looked
	c.mu.Unlock()
	if len(plan.LRPs)+len(plan.Tasks) > 0 {
		c.log.InfoContext(ctx, "converged", "lrps", len(plan.LRPs), "tasks", len(plan.Tasks), "duration", time.Since(view.Now))
	}
}

// confirmed looks at the next section of all LRPs, whether settled or not, so that none goes without a look for long. Whatever needs
// one must be among guids, or have been seen to drift: if not, attention is wrong, and false has everything looked at.
func (c *convergence) confirmed(ctx context.Context, view *converge.View, state Snapshot, plan *converge.Plan, guids []string) bool {
	anew := *view
	anew.Compared = 0
	tally, _ := state.Tally()
	var section converge.Plan
	section, c.section = anew.MakeSection(state, c.section, max(leastSection, tally.LRPs/sections))
	plan.Looked += section.Looked
	missed := 0
	for _, guid := range section.Unsettled {
		if _, ok := slices.BinarySearch(guids, guid); !ok {
			missed++
		}
	}
	told := make(map[lrp.Key]struct{}, len(c.drifted)+len(plan.Drifted))
	for _, key := range append(slices.Clip(c.drifted), plan.Drifted...) {
		told[key] = struct{}{}
	}
	for _, key := range section.Drifted {
		if _, ok := told[key]; !ok {
			missed++
		}
	}
	if missed == 0 {
		return !section.TooMany
	}
	c.missed(ctx, missed, "section")
	view.Compared = 0
	return false
}

// missed notes that convergence has gone wrong, which the look at everything that follows sets right.
func (c *convergence) missed(ctx context.Context, n int, where string) {
	c.log.ErrorContext(ctx, "convergence-missed", "lrps", n, "found_by", where)
	c.mu.Lock()
	c.status.Missed += n
	c.mu.Unlock()
}

// stillDrifted adds to what has drifted since the last look what had then and still has, because its cell did not take the news.
func (c *convergence) stillDrifted(state Snapshot, drifted []lrp.Key) []lrp.Key {
	if len(c.drifted) == 0 {
		return drifted
	}
	known := make(map[lrp.Key]struct{}, len(drifted))
	for _, key := range drifted {
		known[key] = struct{}{}
	}
	for _, key := range c.drifted {
		if _, again := known[key]; again {
			continue
		}
		if s := subject(state, key); converge.Drifted(&s) {
			drifted = append(drifted, key)
		}
	}
	return drifted
}

package converge

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"diego.internal/bbs/internal/lrp"
)

func drawCells(t *rapid.T) Cells {
	cells := Cells{}
	for n := range 4 {
		if rapid.Bool().Draw(t, "known") {
			cells[fmt.Sprint("cell-", n)] = rapid.SampledFrom([]CellStatus{Unsure, Present, Present, Present, Lost}).Draw(t, "status")
		}
	}
	return cells
}

// Whatever becomes of the time and of domains, and of all cells but its own, nothing is to be done about a settled index.
func TestSettledNeedsNothingAtAnyTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		v := view(drawCells(t))
		for key, instance := range w.actual {
			s := Subject{Key: key, Instance: instance, Desired: w.desired[key.ProcessGUID], Domain: w.domains["apps"]}
			if !v.settled(&s) {
				continue
			}
			cells := drawCells(t)
			cells[instance.Ordinary.CellID] = Present
			later := view(cells)
			later.Now = now.Add(time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(t, "later")))
			later.Compared = v.Compared
			if rapid.Bool().Draw(t, "no domain") {
				s.Domain = nil
			}
			if action := later.Next(s); action != Nothing {
				t.Fatalf("%v needs %v", key, action)
			}
			p := newPlanner(w, later)
			if !p.index(key, instance, s.Desired) {
				t.Fatalf("%v is no longer settled", key)
			}
			if d := cmp.Diff(Plan{Drifted: p.plan.Drifted, LapsedDomains: p.plan.LapsedDomains, Stats: Stats{LRPsRunning: 1}}, p.plan); d != "" {
				t.Fatalf("%v makes for a plan (-want +got):\n%s", key, d)
			}
		}
	})
}

// A look at what was unsettled, what has changed since and what is on cells whose status has changed finds all that a look at
// everything finds, at any later time, and counts the same.
func TestMakeOfTheUnsettledIsMake(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		before := view(drawCells(t))
		look := map[string]struct{}{}
		for _, guid := range before.Make(w).Unsettled {
			look[guid] = struct{}{}
		}

		changed := draw(t)
		for _, guid := range []string{"a", "b", "c"} {
			if !rapid.Bool().Draw(t, "changed "+guid) {
				continue
			}
			look[guid] = struct{}{}
			w.replace(guid, changed)
		}
		w.tasks, w.domains = changed.tasks, changed.domains
		after := view(drawCells(t))
		after.Now = now.Add(time.Duration(rapid.Int64Range(0, 1e13).Draw(t, "later")))
		for n := range 4 {
			if id := fmt.Sprint("cell-", n); before.Cells[id] != after.Cells[id] {
				for row := range w.RecordsOnCell(id) {
					look[row.ProcessGUID] = struct{}{}
				}
			}
		}

		want := after.Make(w)
		got := after.MakeOf(w, slices.Sorted(maps.Keys(look)))
		got.Looked = want.Looked
		got.Drifted = want.Drifted // of which View.Compared leaves out what has not changed
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("plans (-everything +unsettled):\n%s", d)
		}
		if tally, _ := w.Tally(); !want.Stats.Counted(&tally) {
			t.Fatalf("a walk counts %+v, the tally is %+v", want.Stats, tally)
		}
	})
}

// replace takes all of one LRP from another state.
func (w *world) replace(guid string, from *world) {
	delete(w.desired, guid)
	if d := from.desired[guid]; d != nil {
		w.desired[guid] = d
	}
	maps.DeleteFunc(w.actual, func(key lrp.Key, _ lrp.Instance) bool { return key.ProcessGUID == guid })
	for key, instance := range from.actual {
		if key.ProcessGUID == guid {
			w.actual[key] = instance
		}
	}
}

// The sections of a state, of whatever size, are the whole of it.
func TestSectionsAreEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		v := view(drawCells(t))
		want := v.Make(w)
		var got Plan
		from, rounds := "", 0
		for n := rapid.IntRange(1, 4).Draw(t, "size"); rounds == 0 || from != ""; rounds++ {
			var part Plan
			part, from = v.MakeSection(w, from, n)
			got.LRPs, got.Unsettled = append(got.LRPs, part.LRPs...), append(got.Unsettled, part.Unsettled...)
			got.Looked += part.Looked
			got.Stats.LRPsDesired += part.Stats.LRPsDesired
			got.Stats.LRPsRunning += part.Stats.LRPsRunning
			got.Stats.LRPsMissing += part.Stats.LRPsMissing
			got.Stats.CrashingDesiredLRPs += part.Stats.CrashingDesiredLRPs
		}
		want = Plan{LRPs: want.LRPs, Unsettled: want.Unsettled, Looked: want.Looked, Stats: Stats{
			LRPsDesired: want.Stats.LRPsDesired, LRPsRunning: want.Stats.LRPsRunning, LRPsMissing: want.Stats.LRPsMissing,
			CrashingDesiredLRPs: want.Stats.CrashingDesiredLRPs,
		}}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("in %d sections (-want +got):\n%s", rounds, d)
		}
	})
}

func TestMoreThanCanBeRememberedIsNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.want("a", 1)
	w.want("b", 1)
	v := view(bothPresent)
	v.Remember = 2
	if plan := v.Make(w); plan.TooMany || len(plan.Unsettled) != 2 {
		t.Errorf("unsettled: %v, too many: %v", plan.Unsettled, plan.TooMany)
	}
	v.Remember = 1
	if plan := v.Make(w); !plan.TooMany || plan.Unsettled != nil {
		t.Errorf("unsettled: %v, too many: %v", plan.Unsettled, plan.TooMany)
	}
}

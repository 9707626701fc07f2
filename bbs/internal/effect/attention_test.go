package effect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// exact compares what convergence counts with a look at everything.
func exact(t *testing.T, r *rig, step int) {
	t.Helper()
	got := r.effects.Status()
	view, _, _ := r.effects.convergence.view(got.LastRun)
	want := view.Make(r.store.Snapshot())
	// Tasks are looked at each time, all of them, and the last look may have deleted one.
	want.Stats.TasksCompleted = got.Stats.TasksCompleted
	if got.Stats != want.Stats || got.Missed != 0 {
		t.Fatalf("after step %d: %+v, counted %+v", step, got, want.Stats)
	}
	if len(want.LRPs)+len(want.Tasks) > 0 && !got.Brake {
		t.Fatalf("after step %d there is left to do: %v, %v", step, want.LRPs, want.Tasks)
	}
}

// Whatever happens, what is counted is exact when it has settled, nothing is left to do, and no section shows that anything was
// missed.
func TestNothingIsMissedAndCountsAreExact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(r *rig) { happenings(r.t, r, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func happenings(t *testing.T, r *rig, random *rand.Rand) {
	t.Helper()
	cells := []string{"cell-1", "cell-2", "cell-3", "cell-4", "cell-5"}
	r.effects.CellsSynced(cells)
	r.desire(t, "a", 6)
	for step := range 150 {
		index, cell := random.Int32N(8), cells[random.IntN(len(cells))]
		key := lrp.Key{ProcessGUID: "a", Index: index}
		switch random.IntN(10) {
		case 0:
			r.effects.CellExpired(cell, random.IntN(2) == 0)
		case 1, 2:
			r.effects.CellArrived(cell)
		case 3:
			r.store.edit(t, func(tx *memoryTx) {
				d := *tx.Desired("a")
				d.Instances, d.Tag.Index = random.Int32N(7), d.Tag.Index+1
				tx.putDesired(&d)
			})
		case 4:
			r.store.edit(t, func(tx *memoryTx) {
				i := tx.Instance(key)
				if i.Ordinary != nil && i.Ordinary.Held() {
					if out, err := lrp.Crash(i, i.Ordinary.InstanceKey, "oom", lrp.ResolvePolicy(nil, nil), time.Now()); err == nil {
						tx.PutInstance(i, out)
					}
				}
			})
		case 5:
			d, event := lrp.UpsertDomain(r.store.Snapshot().Domain("apps"), "apps", time.Minute, nil, time.Now())
			r.store.edit(t, func(tx *memoryTx) { tx.PutDomain(nil, d, event) })
		case 6:
			guid := fmt.Sprint("task-", step)
			r.putTask(t, &task.Task{GUID: guid, State: task.Running, CellID: cell, CreatedAt: time.Now().UnixNano(), UpdatedAt: time.Now().UnixNano()})
		default:
			by := lrp.InstanceKey{InstanceGUID: fmt.Sprint("i", step), CellID: cell}
			r.store.edit(t, func(tx *memoryTx) {
				report := &lrp.Report{Key: key, InstanceKey: by, Domain: "apps", Routable: true}
				if out, err := lrp.Start(tx.Instance(key), report, lrp.Stamp{Now: time.Now(), Epoch: "s"}); err == nil {
					tx.PutInstance(tx.Instance(key), out)
				}
			})
		}
		synctest.Wait()
		if random.IntN(3) == 0 {
			passes(time.Duration(random.IntN(90)) * time.Second)
		}
		if step%10 == 9 {
			passes(3 * time.Minute) // in which the brake lets go, and crashed instances start
			exact(t, r, step)
		}
	}
	status := r.effects.Status()
	if status.FullRuns == status.Runs {
		t.Errorf("all %d runs looked at everything", status.Runs)
	}
}

// A state that changes without a commit is a fault of the program. The next section shows it.
func TestASectionShowsWhatWasMissed(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		threeCells(t, r)
		passes(time.Minute)
		if got := r.effects.Status(); got.Missed != 0 || got.Looked == 0 {
			t.Fatalf("status is %+v", got)
		}
		r.effects.convergence.attention.mu.Lock()
		hidden := r.effects.convergence.attention.state.(state)
		delete(hidden.actual, lrp.Key{ProcessGUID: "a", Index: 2})
		r.effects.convergence.attention.mu.Unlock()
		passes(time.Minute)
		if got := r.effects.Status(); got.Missed == 0 || got.Stats.LRPsMissing+got.Stats.LRPsUnclaimed == 0 {
			t.Errorf("status is %+v", got)
		}
	})
}

// Under load everything is looked at, and nothing is kept of what has changed.
func TestAttentionForManyIsForEverything(t *testing.T) {
	t.Parallel()
	m := newMemory()
	a := newAttention()
	a.begin(m.Snapshot())
	a.take()
	changes := Changes{}
	for n := range leastLimit {
		changes.DesiredsGone = append(changes.DesiredsGone, fmt.Sprint("app-", n))
	}
	a.committed(m.Snapshot(), &changes)
	a.committed(m.Snapshot(), &changes)
	if _, guids, everything := a.take(); len(guids) != leastLimit || everything {
		t.Errorf("%d LRPs, everything: %v", len(guids), everything)
	}
	a.committed(m.Snapshot(), &changes)
	a.committed(m.Snapshot(), &Changes{Gone: []lrp.Key{{ProcessGUID: "another"}}})
	if _, guids, everything := a.take(); len(guids) > 0 || !everything {
		t.Errorf("%d LRPs, everything: %v", len(guids), everything)
	}
	a.keep(&converge.Plan{TooMany: true})
	if _, _, everything := a.take(); !everything {
		t.Error("too many unsettled LRPs are not everything")
	}
	if _, guids, everything := a.take(); len(guids) > 0 || everything {
		t.Errorf("%d LRPs, everything: %v", len(guids), everything)
	}
}

func TestDifferTellsOfCellsThatAreForgotten(t *testing.T) {
	t.Parallel()
	before := converge.Cells{"a": converge.Present, "b": converge.Unsure}
	expect(t, "changed", differ(before, converge.Cells{"c": converge.Unsure}), "a")
}

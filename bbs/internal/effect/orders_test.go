package effect

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

func TestStopsAreOrderedUntilTheInstanceIsGone(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.desire(t, "a", 1)
		by := r.start(t, 0, "cell-1")
		r.transition(t, 0, lrp.Retire)
		expect(t, "ordered at once", r.cells.took(), "cell-1 stop a0@cell-1")
		passes(29 * time.Second)
		expect(t, "ordered while the cell is at it", r.cells.took())
		passes(2 * time.Second)
		expect(t, "ordered again, as the instance is still there", r.cells.took(), "cell-1 stop a0@cell-1")
		r.transition(t, 0, func(i lrp.Instance) (lrp.Outcome, error) { return lrp.Remove(i, by) })
		passes(time.Minute)
		expect(t, "ordered after it was gone", r.cells.took())
		if got := r.effects.Waiting(); got.Cells != 0 {
			t.Errorf("still waiting: %+v", got)
		}
	})
}

func TestAnInstanceThatItsCellDoesNotKnowIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.cells.answer = func(string) (bool, error) { return false, nil }
		r.start(t, 0, "cell-1")
		r.transition(t, 0, lrp.Retire)
		if got := r.instance(0); !got.IsZero() {
			t.Errorf("records are left: %+v", got)
		}
	})
}

func TestACellThatDoesNotAnswerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		stuck := make(chan struct{})
		r.cells.answer = func(order string) (bool, error) {
			if order == "cell-1 stop a0@cell-1" {
				<-stuck
				return false, errUnavailable
			}
			return true, nil
		}
		r.start(t, 0, "cell-1")
		r.start(t, 1, "cell-2")
		r.start(t, 2, "cell-1")
		for index := range int32(3) {
			r.transition(t, index, lrp.Retire)
		}
		expect(t, "ordered", r.cells.took(), "cell-1 stop a0@cell-1", "cell-2 stop a1@cell-2")
		r.cells.set(func() { r.cells.answer = nil })
		close(stuck)
		passes(2 * time.Second)
		expect(t, "ordered when the cell answers", r.cells.took(), "cell-1 stop a0@cell-1", "cell-1 stop a2@cell-1")
	})
}

func TestAnUnreachableCellIsTriedLessAndLess(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.cells.answer = func(string) (bool, error) { return false, errUnavailable }
		for index := range int32(20) {
			r.start(t, index, "cell-1")
			r.transition(t, index, lrp.Retire)
		}
		passes(5 * time.Minute)
		n := len(r.cells.took())
		if n < 10 || n > 35 {
			t.Errorf("%d attempts in five minutes for 20 orders", n)
		}
		if got := r.effects.Counts(); got.OrdersFailed != int64(n) || got.OrdersRefused != 0 {
			t.Errorf("counted %+v, want %d failed orders", got, n)
		}
	})
}

func TestARefusedOrderDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.cells.answer = func(string) (bool, error) {
			return true, status.Error(codes.Internal, "broken container")
		}
		for index := range int32(3) {
			r.start(t, index, "cell-1")
			r.transition(t, index, lrp.Retire)
		}
		expect(t, "ordered at once", r.cells.took(), "cell-1 stop a0@cell-1", "cell-1 stop a1@cell-1", "cell-1 stop a2@cell-1")
		if got := r.effects.Counts(); got.OrdersRefused != 3 || got.OrdersFailed != 0 {
			t.Errorf("counted %+v, want 3 refused orders", got)
		}
	})
}

func TestStopsOfAnEarlierMasterAreFound(t *testing.T) {
	t.Parallel()
	prepare := func(r *rig) {
		key := lrp.Key{ProcessGUID: "a"}
		r.store.state.actual[key] = lrp.Instance{Suspect: &lrp.Actual{
			Key: key, InstanceKey: lrp.InstanceKey{InstanceGUID: "i", CellID: "cell-1"},
			Presence: lrp.Suspect, State: lrp.Running, StopRequested: true,
		}}
		r.cells.absent["cell-1"] = true
	}
	inBubble(t, prepare, func(r *rig) {
		t := r.t
		expect(t, "ordered while the cell is away", r.cells.took())
		r.cells.set(func() { r.cells.absent["cell-1"] = false })
		passes(time.Second)
		expect(t, "ordered when it is back", r.cells.took(), "cell-1 stop i")
	})
}

func TestUpdatesAreToldToTheCellsConcerned(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.desire(t, "a", 3)
		r.start(t, 0, "cell-1")
		r.start(t, 1, "cell-2")
		expect(t, "ordered before any update", r.cells.took())
		update := func(u lrp.Update) {
			r.store.edit(t, func(tx *memoryTx) {
				change, err := lrp.ApplyUpdate(tx.Desired("a"), u, nil, lrp.Stamp{Now: time.Now()})
				if err != nil {
					t.Fatalf("updating: %v", err)
				}
				tx.putDesired(change.Desired)
			})
			synctest.Wait()
		}
		note := "new"
		update(lrp.Update{Annotation: &note, MetricTags: &[]lrp.MetricTag{{Name: "a", Dynamic: lrp.DynamicIndex}}})
		expect(t, "told of tags", r.cells.took(), "cell-2 update a1@cell-2 tags map[a:1]")
		update(lrp.Update{Routes: &[]lrp.Route{{Router: lrp.InternalRouter, Value: []byte(`[{"hostname":"x"}]`)}}})
		expect(t, "told of routes, and again of tags that were not reported back", r.cells.took(),
			"cell-1 update a0@cell-1 routes [x]", "cell-2 update a1@cell-2 routes [x] tags map[a:1]")
	})
}

// cancelled puts a task that was cancelled while it ran.
func (r *rig) cancelled(t *testing.T, guid, cell, run string) {
	t.Helper()
	cancelled, err := task.Cancel(&task.Task{GUID: guid, State: task.Running, CellID: cell, InstanceGUID: run}, time.Now())
	if err != nil {
		t.Fatalf("cancelling: %v", err)
	}
	r.putTask(t, cancelled)
	synctest.Wait()
}

func TestCancelsAreToldUntilTheCellTakesThem(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.cells.answer = func(string) (bool, error) { return false, errUnavailable }
		r.cancelled(t, "pending", "", "")
		r.cancelled(t, "t", "cell-1", "run-1")
		passes(10 * time.Minute)
		if n := len(r.cells.took()); n < 20 {
			t.Errorf("only %d attempts in ten minutes", n)
		}
		r.cells.set(func() { r.cells.answer = nil })
		passes(time.Minute)
		expect(t, "ordered once the cell answers", r.cells.took(), "cell-1 cancel t run-1")
		if got := r.store.Snapshot().Task("t"); got.CancelStands() {
			t.Errorf("the order still stands in %+v", got)
		}
		if got := r.effects.Waiting(); got.Cells != 0 {
			t.Errorf("still waiting: %+v", got)
		}
	})
}

func TestCancelsOfDeletedTasksAreTold(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.cells.answer = func(string) (bool, error) { return false, errUnavailable }
		r.cancelled(t, "deleted", "cell-1", "run-1")
		r.cancelled(t, "again", "cell-2", "run-2")
		r.cells.took()
		r.store.edit(t, func(tx *memoryTx) { tx.PutTask(tx.Task("deleted"), nil) })
		// A guid that was desired again and runs once more is another run.
		r.putTask(t, &task.Task{GUID: "again", State: task.Running, CellID: "cell-2", InstanceGUID: "run-3"})
		r.cells.set(func() { r.cells.answer = nil })
		passes(time.Minute)
		expect(t, "ordered for the earlier runs", r.cells.took(), "cell-1 cancel deleted run-1", "cell-2 cancel again run-2")
		if got := r.store.Snapshot().Task("again"); got.CellID != "cell-2" {
			t.Errorf("the later run was forgotten: %+v", got)
		}
	})
}

func TestCancelsOfAnEarlierMasterAreFound(t *testing.T) {
	t.Parallel()
	prepare := func(r *rig) {
		tx := &memoryTx{state: r.store.state}
		tx.tasks["t"] = &task.Task{GUID: "t", State: task.Completed, CellID: "cell-1", InstanceGUID: "run-1"}
		tx.tasks["u"] = &task.Task{GUID: "u", State: task.Resolving, CellID: "cell-1", InstanceGUID: "run-2"}
		tx.tasks["v"] = &task.Task{GUID: "v", State: task.Completed}
	}
	inBubble(t, prepare, func(r *rig) {
		got := r.cells.took()
		slices.Sort(got)
		expect(r.t, "ordered", got, "cell-1 cancel t run-1", "cell-1 cancel u run-2")
	})
}

// An instance whose routes or tags drifted is told of at every look at everything, changed or not, until they fit.
func TestADriftedInstanceIsToldUntilItFits(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		threeCells(t, r) // whose instances report a tag that nobody desires
		passes(DefaultConfig().Interval)
		updates := []string{"cell-1 update a0@cell-1 tags map[]", "cell-2 update a1@cell-2 tags map[]", "cell-3 update a2@cell-3 tags map[]"}
		r.cells.took()
		for range 2 {
			passes(DefaultConfig().Interval)
			expect(t, "told", r.cells.took(), updates...)
		}
		r.store.edit(t, func(tx *memoryTx) {
			fits := *tx.Desired("a")
			fits.MetricTags = []lrp.MetricTag{{Name: "a", Static: "0"}}
			tx.putDesired(&fits)
		})
		synctest.Wait()
		r.cells.took()
		passes(2 * DefaultConfig().Interval)
		expect(t, "told when it fits", r.cells.took())
	})
}

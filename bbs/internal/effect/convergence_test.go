package effect

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

func states(i lrp.Instance) []string {
	var words []string
	for _, a := range [...]*lrp.Actual{i.Ordinary, i.Evacuating, i.Suspect} {
		if a != nil {
			words = append(words, fmt.Sprint(a.Presence, " ", a.State))
		}
	}
	return words
}

// threeCells runs an LRP of three instances and a task on three cells.
func threeCells(t *testing.T, r *rig) {
	t.Helper()
	r.effects.CellsSynced([]string{"cell-1", "cell-2", "cell-3"})
	r.desire(t, "a", 3)
	for index := range int32(3) {
		r.start(t, index, fmt.Sprint("cell-", index+1))
	}
	r.putTask(t, &task.Task{GUID: "t", State: task.Running, CellID: "cell-1", CreatedAt: time.Now().UnixNano()})
	r.auctioneer.took()
}

func TestAnExpiredPresenceIsActedOnAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		threeCells(t, r)
		r.effects.CellExpired("cell-1", false)
		synctest.Wait()
		expect(t, "a/0", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
		expect(t, "a/1", states(r.instance(1)), "ORDINARY RUNNING")
		expect(t, "requested", r.auctioneer.took(), "[a[0]]")
		if got := r.store.Snapshot().Task("t"); got.FailureReason != "cell disappeared before completion" {
			t.Errorf("the task is %+v", got)
		}
		r.effects.CellArrived("cell-1")
		synctest.Wait()
		expect(t, "a/0 when its cell is back", states(r.instance(0)), "ORDINARY RUNNING")
	})
}

func TestACellThatIsMissedIsWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		threeCells(t, r)
		r.effects.CellsSynced([]string{"cell-2", "cell-3"})
		passes(5*time.Second - 1)
		expect(t, "a/0 within a TTL", states(r.instance(0)), "ORDINARY RUNNING")
		passes(1)
		expect(t, "a/0 after a TTL", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
	})
}

func TestACellThatTheNewMasterNeverSawIsFoundByItsRecords(t *testing.T) {
	t.Parallel()
	prepare := func(r *rig) {
		key := lrp.Key{ProcessGUID: "a"}
		r.store.state.desired["a"] = &lrp.Desired{ProcessGUID: "a", Domain: "apps", Instances: 1}
		r.store.state.actual[key] = lrp.Instance{Ordinary: &lrp.Actual{
			Key: key, InstanceKey: lrp.InstanceKey{InstanceGUID: "i", CellID: "ghost"}, Domain: "apps", State: lrp.Running,
		}}
	}
	inBubble(t, prepare, func(r *rig) {
		t := r.t
		passes(time.Minute)
		expect(t, "before the cells are known", states(r.instance(0)), "ORDINARY RUNNING")
		r.effects.CellsSynced([]string{"cell-1", "cell-2"})
		passes(4 * time.Second)
		expect(t, "at first", states(r.instance(0)), "ORDINARY RUNNING")
		passes(2 * time.Second)
		expect(t, "after a TTL", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
		expect(t, "requested", r.auctioneer.took(), "[a[0]]")
	})
}

func TestTheBrakeHoldsAMassLoss(t *testing.T) {
	t.Parallel()
	lose := func(t *testing.T, r *rig) {
		t.Helper()
		threeCells(t, r)
		r.effects.CellsSynced(nil)
		passes(50 * time.Second)
		expect(t, "a/0 with the brake on", states(r.instance(0)), "ORDINARY RUNNING")
		if got := r.effects.Status(); !got.Brake || got.Present != 0 || got.Missing != 3 {
			t.Errorf("status is %+v", got)
		}
	}
	t.Run("until it has lasted", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(r *rig) {
			t := r.t
			lose(t, r)
			passes(20 * time.Second)
			expect(t, "a/0", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
		})
	})
	t.Run("until an operator releases it", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(r *rig) {
			t := r.t
			lose(t, r)
			r.effects.OverrideBrake(true, time.Minute)
			synctest.Wait()
			expect(t, "a/0", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
		})
	})
	t.Run("and for good if the cells come back", func(t *testing.T) {
		t.Parallel()
		inBubble(t, nil, func(r *rig) {
			t := r.t
			lose(t, r)
			r.effects.CellsSynced([]string{"cell-1", "cell-2", "cell-3"})
			passes(5 * time.Minute)
			expect(t, "a/0", states(r.instance(0)), "ORDINARY RUNNING")
		})
	})
}

func TestACrashedInstanceRestartsWhenItIsDue(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.effects.CellsSynced([]string{"cell-1"})
		r.desire(t, "a", 1)
		for range 3 {
			by := r.start(t, 0, "cell-1")
			r.transition(t, 0, func(i lrp.Instance) (lrp.Outcome, error) {
				return lrp.Crash(i, by, "oom", lrp.ResolvePolicy(nil, nil), time.Now())
			})
		}
		r.auctioneer.took()
		passes(30*time.Second - 1)
		expect(t, "before it is due", states(r.instance(0)), "ORDINARY CRASHED")
		passes(1)
		expect(t, "when it is due", states(r.instance(0)), "ORDINARY UNCLAIMED")
		expect(t, "requested", r.auctioneer.took(), "[a[0]]")
	})
}

func TestARetiredInstanceIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.effects.CellsSynced([]string{"cell-1"})
		r.desire(t, "a", 1)
		by := r.start(t, 0, "cell-1")
		r.auctioneer.took()
		r.transition(t, 0, func(i lrp.Instance) (lrp.Outcome, error) { return lrp.Remove(i, by) })
		expect(t, "a/0", states(r.instance(0)), "ORDINARY UNCLAIMED")
		expect(t, "requested", r.auctioneer.took(), "[a[0]]")
	})
}

func TestConvergenceOffersAgainWhatStillWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.effects.CellsSynced([]string{"cell-1"})
		synctest.Wait()
		passes(time.Second)
		r.desire(t, "a", 1)
		r.putTask(t, &task.Task{GUID: "t", State: task.Pending, CreatedAt: time.Now().UnixNano(), UpdatedAt: time.Now().UnixNano()})
		r.auctioneer.took()
		passes(50 * time.Second)
		expect(t, "offered again too early", r.auctioneer.took())
		passes(20 * time.Second)
		if got := r.auctioneer.took(); len(got) != 2 {
			t.Errorf("offered again: %v", got)
		}
	})
}

func TestAnAbandonedCallbackIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.effects.CellsSynced([]string{"cell-1"})
		attempts := 0
		r.receive = func(*http.Request) (*http.Response, error) {
			attempts++
			if attempts == 1 {
				return nil, errors.New("no such host")
			}
			return answered(http.StatusOK), nil
		}
		r.putTask(t, completed("t"))
		if got := r.store.Snapshot().Task("t").State; got != task.Resolving {
			t.Errorf("given up, the task is %v", got)
		}
		passes(65 * time.Second)
		if attempts != 2 || r.store.Snapshot().Task("t") != nil {
			t.Errorf("%d attempts, task %+v", attempts, r.store.Snapshot().Task("t"))
		}
	})
}

func TestALapsedDomainIsTold(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.effects.CellsSynced(nil)
		d, event := lrp.UpsertDomain(nil, "apps", 10*time.Second, nil, time.Now())
		r.store.edit(t, func(tx *memoryTx) { tx.PutDomain(nil, d, event) })
		passes(31 * time.Second)
		if got := r.store.Snapshot().Domain("apps"); got != nil {
			t.Errorf("the domain is %+v", got)
		}
	})
}

func TestConvergenceOutlivesAStoreThatFails(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		threeCells(t, r)
		r.store.fail(errUnavailable)
		r.effects.CellExpired("cell-1", false)
		passes(4 * time.Second)
		expect(t, "a/0 while nothing can be written", states(r.instance(0)), "ORDINARY RUNNING")
		r.store.fail(nil)
		passes(5 * time.Second)
		expect(t, "a/0", states(r.instance(0)), "ORDINARY UNCLAIMED", "SUSPECT RUNNING")
	})
}

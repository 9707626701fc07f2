package effect

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
)

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestAuctionsFollowCommits(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.desire(t, "a", 3)
		expect(t, "requested for a new LRP", r.auctioneer.took(), "[a[0 1 2]]")
		r.putTask(t, &task.Task{GUID: "t", State: task.Pending})
		expect(t, "requested for a new task", r.auctioneer.took(), "[t]")

		by := r.start(t, 0, "cell-1")
		r.transition(t, 0, func(i lrp.Instance) (lrp.Outcome, error) {
			return lrp.Crash(i, by, "oom", lrp.ResolvePolicy(nil, nil), time.Now())
		})
		expect(t, "requested after a crash", r.auctioneer.took(), "[a[0]]")

		passes(7 * time.Second) // so that the times of looks at everything are others
		fail := func(i lrp.Instance) (lrp.Outcome, error) { return lrp.Fail(i, "no room", time.Now()) }
		r.transition(t, 0, fail)
		r.transition(t, 1, fail)
		passes(30*time.Second - time.Millisecond)
		expect(t, "requested soon after a failed placement", r.auctioneer.took())
		r.start(t, 1, "cell-1")
		passes(time.Millisecond)
		expect(t, "requested when its time has come, as far as it still waits", r.auctioneer.took(), "[a[0]]")
	})
}

func TestAuctionsOfAnEarlierMasterAreFound(t *testing.T) {
	t.Parallel()
	prepare := func(r *rig) {
		tx := &memoryTx{state: r.store.state}
		r.create(tx, &lrp.Desired{ProcessGUID: "a", Instances: 2})
		tx.tasks["t"] = &task.Task{GUID: "t", State: task.Pending}
		tx.tasks["u"] = &task.Task{GUID: "u", State: task.Running, CellID: "cell-1"}
		// It was offered, could not be placed, and has to wait its time.
		failed := &lrp.Actual{
			Key: lrp.Key{ProcessGUID: "b"}, State: lrp.Unclaimed, PlacementError: "no room", Since: time.Now().Add(-20 * time.Second).UnixNano(),
		}
		tx.desired["b"], tx.actual[failed.Key] = &lrp.Desired{ProcessGUID: "b", Instances: 1}, lrp.Instance{Ordinary: failed}
	}
	inBubble(t, prepare, func(r *rig) {
		t := r.t
		got := r.auctioneer.took()
		if len(got) == 2 && got[0] == "[t]" {
			got[0], got[1] = got[1], got[0]
		}
		expect(t, "requested", got, "[a[0 1]]", "[t]")
		passes(10 * time.Second)
		expect(t, "requested later", r.auctioneer.took(), "[b[0]]")
	})
}

func TestAuctionsSurviveAnAuctioneerThatIsAway(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.auctioneer.answers(func() ([]*auctioneerv1.RejectedItem, error) { return nil, errUnavailable })
		r.desire(t, "a", 2)
		passes(time.Minute)
		attempts := len(r.auctioneer.took())
		if attempts < 12 || attempts > 30 {
			t.Errorf("%d attempts in a minute", attempts)
		}
		if got := r.effects.Counts().AuctionRequestsFailed; got != int64(attempts) {
			t.Errorf("%d failed requests counted, want %d", got, attempts)
		}
		// What happens meanwhile is not forgotten, and what is no longer needed is not asked for.
		r.desire(t, "b", 1)
		r.start(t, 1, "cell-1")
		r.auctioneer.took()
		r.auctioneer.answers(nil)
		passes(6 * time.Second)
		got := r.auctioneer.took()
		if len(got) != 1 || got[0] != "[a[0] b[0]]" && got[0] != "[b[0] a[0]]" {
			t.Errorf("requested when it is back: %v", got)
		}
		passes(6 * time.Second)
		expect(t, "requested again", r.auctioneer.took())
	})
}

func TestAuctionsAreChunked(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.desire(t, "a", 1201)
		var sizes []string
		for _, request := range r.auctioneer.took() {
			n := 1
			for _, c := range request {
				if c == ' ' {
					n++
				}
			}
			sizes = append(sizes, fmt.Sprint(n))
		}
		expect(t, "indices by request", sizes, "500", "500", "201")
	})
}

func TestRejectedTasksPauseBeforeTheNextAuction(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		for n, most := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second} {
			rejected := &task.Task{GUID: "t", State: task.Pending, RejectionCount: int32(n) + 1}
			r.putTask(t, rejected)
			passes(most/2 - time.Millisecond)
			expect(t, "requested too early", r.auctioneer.took())
			passes(most/2 + time.Millisecond)
			expect(t, "requested after the pause", r.auctioneer.took(), "[t]")
		}
	})
}

func TestWhatTheAuctioneerRefusesIsTold(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		r.auctioneer.answers(func() ([]*auctioneerv1.RejectedItem, error) {
			return []*auctioneerv1.RejectedItem{{Position: 0, Problem: "no resources given"}, {Position: 7}}, nil
		})
		r.desire(t, "a", 1)
		if got := r.instance(0).Ordinary.PlacementError; got != "no resources given" {
			t.Errorf("placement error %q", got)
		}
		r.putTask(t, &task.Task{GUID: "t", State: task.Pending})
		if got := r.store.Snapshot().Task("t"); got.State != task.Completed || got.FailureReason != "no resources given" {
			t.Errorf("task is %+v", got)
		}
		if got := r.effects.Counts().AuctionsRefused; got != 2 {
			t.Errorf("%d refused items counted, want an instance and a task", got)
		}
	})
}

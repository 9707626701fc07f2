package task

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/servicekit/fault"
)

var (
	created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now     = created.Add(time.Minute)
	onCell1 = Run{CellID: "cell-1", InstanceGUID: "run-1"}
)

func in(state State) *Task {
	t := &Task{
		GUID: "task", Domain: "d", State: state, CreatedAt: created.UnixNano(), UpdatedAt: created.UnixNano(),
		DefinitionDigest: "digest",
	}
	switch state {
	case Running:
		t.CellID, t.InstanceGUID = onCell1.CellID, onCell1.InstanceGUID
	case Completed, Resolving:
		t.FirstCompletedAt = created.UnixNano()
	case Pending:
	}
	return t
}

// Each call in each state: the state after, or the reason of the refusal.
func TestTransitions(t *testing.T) {
	t.Parallel()
	const (
		notFound = "ResourceNotFound"
		wrong    = "InvalidStateTransition"
		invalid  = "InvalidRequest"
		other    = "RunningOnDifferentCell"
	)
	calls := map[string]struct {
		do func(*Task) (*Task, error)
		// want is what becomes of no task, Pending, Running, Completed and Resolving.
		want [5]string
	}{
		"start by another cell": {
			func(t *Task) (*Task, error) { next, _, err := Start(t, "cell-2", "run-2", now); return next, err },
			[5]string{notFound, "Running", wrong, wrong, wrong},
		},
		"start by its cell": {
			func(t *Task) (*Task, error) { next, _, err := Start(t, "cell-1", "run-2", now); return next, err },
			[5]string{notFound, "Running", "Running", wrong, wrong},
		},
		"complete by its run":     {func(t *Task) (*Task, error) { return Complete(t, onCell1, Result{}, now) }, [5]string{notFound, wrong, "Completed", wrong, wrong}},
		"complete by its cell":    {func(t *Task) (*Task, error) { return Complete(t, Run{CellID: "cell-1"}, Result{}, now) }, [5]string{notFound, wrong, "Completed", wrong, wrong}},
		"complete by another run": {func(t *Task) (*Task, error) { return Complete(t, Run{"cell-1", "run-0"}, Result{}, now) }, [5]string{notFound, wrong, other, wrong, wrong}},
		"complete by another cell": {
			func(t *Task) (*Task, error) { return Complete(t, Run{"cell-2", "run-1"}, Result{}, now) },
			[5]string{notFound, wrong, other, wrong, wrong},
		},
		"cancel":           {func(t *Task) (*Task, error) { return Cancel(t, now) }, [5]string{notFound, "Completed", "Completed", wrong, wrong}},
		"fail":             {func(t *Task) (*Task, error) { return Fail(t, "why", now) }, [5]string{notFound, "Completed", "Completed", wrong, wrong}},
		"reject":           {func(t *Task) (*Task, error) { return Reject(t, onCell1, "why", 3, now) }, [5]string{notFound, "Pending", "Pending", invalid, invalid}},
		"reject by others": {func(t *Task) (*Task, error) { return Reject(t, Run{CellID: "cell-2"}, "why", 3, now) }, [5]string{notFound, "Pending", other, invalid, invalid}},
		"reject placement": {func(t *Task) (*Task, error) { return RejectPlacement(t, "why", 3, now) }, [5]string{notFound, "Pending", invalid, invalid, invalid}},
		"resolve":          {func(t *Task) (*Task, error) { return Resolve(t, now) }, [5]string{notFound, wrong, wrong, "Resolving", wrong}},
		"demote":           {Demote, [5]string{notFound, wrong, wrong, wrong, "Completed"}},
		"delete":           {func(t *Task) (*Task, error) { return t, CanDelete(t, false) }, [5]string{notFound, wrong, wrong, wrong, "Resolving"}},
		"resolve and delete": {
			func(t *Task) (*Task, error) { return t, CanDelete(t, true) },
			[5]string{notFound, wrong, wrong, "Completed", "Resolving"},
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n, before := range []*Task{nil, in(Pending), in(Running), in(Completed), in(Resolving)} {
				var kept Task
				if before != nil {
					kept = *before
				}
				after, err := call.do(before)
				got := fault.Reason(err)
				if err == nil {
					got = after.State.String()
				}
				if got != call.want[n] {
					t.Errorf("of %+v: %s (%v), want %s", before, got, err, call.want[n])
				}
				if err != nil && after != before {
					t.Errorf("of %+v: refused, but became %+v", before, after)
				}
				if before != nil && !cmp.Equal(*before, kept) {
					t.Errorf("the stored task was changed to %+v", before)
				}
			}
		})
	}
}

func TestDesire(t *testing.T) {
	t.Parallel()
	want := &Task{GUID: "task", Domain: "d", DefinitionDigest: "digest", HasCallback: true}
	got, err := Desire(nil, want, now)
	require.NoError(t, err)
	if d := cmp.Diff(&Task{
		GUID: "task", Domain: "d", DefinitionDigest: "digest", HasCallback: true,
		State: Pending, CreatedAt: now.UnixNano(), UpdatedAt: now.UnixNano(),
	}, got); d != "" {
		t.Errorf("desired task (-want +got):\n%s", d)
	}
	for _, state := range []State{Pending, Running, Completed, Resolving} {
		existing := in(state)
		if again, err := Desire(existing, want, now); err != nil || again != existing {
			t.Errorf("the same again while %v: %v", state, err)
		}
		existing.DefinitionDigest = "" // of a release that did not keep it
		if _, err := Desire(existing, &Task{GUID: "task", Domain: "d"}, now); fault.Reason(err) != "ResourceExists" {
			t.Errorf("what cannot be compared counts as the same while %v: %v", state, err)
		}
		existing.DefinitionDigest = "digest"
		for name, other := range map[string]*Task{
			"domain":     {GUID: "task", Domain: "e", DefinitionDigest: "digest"},
			"definition": {GUID: "task", Domain: "d", DefinitionDigest: "other"},
			"no digest":  {GUID: "task", Domain: "d"},
		} {
			if _, err := Desire(existing, other, now); fault.Reason(err) != "ResourceExists" {
				t.Errorf("another %s while %v: %v", name, state, err)
			}
		}
	}
}

func TestStartSaysOnceThatTheCellMayRunIt(t *testing.T) {
	t.Parallel()
	running, should, err := Start(in(Pending), "cell-1", "run-1", now)
	require.NoError(t, err)
	if !should || running.CellID != "cell-1" || running.InstanceGUID != "run-1" || running.UpdatedTime() != now {
		t.Errorf("started task is %+v, should start %v", running, should)
	}
	again, should, err := Start(running, "cell-1", "run-2", now.Add(time.Second))
	if err != nil || should || again != running {
		t.Errorf("repeated: %+v, should start %v, %v", again, should, err)
	}
}

// Its cell stays in the record of a cancelled task until it has been told. That is no claim to run it.
func TestStartByTheCellOfACancelledTaskIsRefused(t *testing.T) {
	t.Parallel()
	cancelled, err := Cancel(in(Running), now)
	require.NoError(t, err)
	after, should, err := Start(cancelled, cancelled.CellID, "run-2", now)
	if fault.Reason(err) != "InvalidStateTransition" || should || after != cancelled {
		t.Errorf("became %+v, should start %v: %v", after, should, err)
	}
	_, should, err = Start(nil, "cell-1", "run-2", now)
	if fault.Reason(err) != "ResourceNotFound" || should {
		t.Errorf("no task: should start %v: %v", should, err)
	}
}

func TestCancelStandsWhileSomebodyResolves(t *testing.T) {
	t.Parallel()
	cancelled, err := Cancel(in(Running), now)
	require.NoError(t, err)
	resolving, err := Resolve(cancelled, now.Add(time.Second))
	require.NoError(t, err)
	if !cancelled.CancelStands() || !resolving.CancelStands() || in(Running).CancelStands() {
		t.Error("the order to cancel does not stand exactly while the task has ended and its cell was not told")
	}
	if resolving.UpdatedAt != now.Add(time.Second).UnixNano() {
		t.Errorf("resolving since %v", resolving.UpdatedTime())
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	got, err := Complete(in(Running), onCell1, Result{Failed: true, FailureReason: strings.Repeat("x", 2000), Result: "r"}, now)
	require.NoError(t, err)
	if got.CellID != "" || got.InstanceGUID != "" || !got.Failed || got.Result != "r" || len(got.FailureReason) != 1024 {
		t.Errorf("completed task is %+v", got)
	}
	if got.FirstCompletedAt != now.UnixNano() || got.UpdatedAt != now.UnixNano() {
		t.Errorf("completed at %d, updated at %d", got.FirstCompletedAt, got.UpdatedAt)
	}
}

func TestCancelGivesItsReason(t *testing.T) {
	t.Parallel()
	got, err := Cancel(in(Running), now)
	require.NoError(t, err)
	if !got.Failed || got.FailureReason != "task was cancelled" {
		t.Errorf("cancelled task is %+v", got)
	}
}

func TestTheFourthRejectionIsFatal(t *testing.T) {
	t.Parallel()
	task := in(Running)
	for n := int32(1); n <= 3; n++ {
		rejected, err := Reject(task, Run{CellID: task.CellID}, "no room", 3, now)
		require.NoError(t, err)
		if rejected.State != Pending || rejected.RejectionCount != n || rejected.RejectionReason != "no room" || rejected.CellID != "" || rejected.InstanceGUID != "" || rejected.UpdatedAt != now.UnixNano() {
			t.Fatalf("after rejection %d: %+v", n, rejected)
		}
		task = rejected
	}
	failed, err := RejectPlacement(task, "no room", 3, now)
	require.NoError(t, err)
	if failed.State != Completed || !failed.Failed || failed.FailureReason != "no room" || failed.RejectionCount != 4 {
		t.Errorf("after rejection 4: %+v", failed)
	}
}

func TestDemoteKeepsTheTimes(t *testing.T) {
	t.Parallel()
	resolving, err := Resolve(in(Completed), now)
	require.NoError(t, err)
	demoted, err := Demote(resolving)
	require.NoError(t, err)
	if demoted.UpdatedAt != resolving.UpdatedAt || demoted.FirstCompletedAt != created.UnixNano() {
		t.Errorf("demoted task is %+v", demoted)
	}
}

func TestARepeatedRejectionCountsOnce(t *testing.T) {
	t.Parallel()
	once, err := Reject(in(Running), onCell1, "no disk", 3, now)
	require.NoError(t, err)
	again, err := Reject(once, onCell1, "no disk", 3, now.Add(time.Second))
	require.NoError(t, err)
	require.Same(t, once, again)
	without, err := Reject(once, Run{CellID: "cell-1"}, "no disk", 3, now)
	require.NoError(t, err)
	require.Equal(t, int32(2), without.RejectionCount, "rejections, one of them by a cell that does not know its run")
}

func TestACancelledTaskKeepsItsCellUntilThatIsTold(t *testing.T) {
	t.Parallel()
	running := in(Running)
	cancelled, err := Cancel(running, now)
	require.NoError(t, err)
	require.True(t, cancelled.CancelStands())
	require.Equal(t, Run{CellID: cancelled.CellID, InstanceGUID: cancelled.InstanceGUID}, onCell1)
	for name, other := range map[string]Run{"another cell": {CellID: "cell-2", InstanceGUID: "run-1"}, "another run": {CellID: "cell-1", InstanceGUID: "run-2"}} {
		require.Same(t, cancelled, CancelTold(cancelled, other), name)
	}
	resolving, err := Resolve(cancelled, now)
	require.NoError(t, err)
	told := CancelTold(resolving, onCell1)
	require.False(t, told.CancelStands())
	require.Equal(t, Resolving, told.State)
	require.Same(t, told, CancelTold(told, onCell1))
	require.Nil(t, CancelTold(nil, onCell1))

	require.Same(t, running, CancelTold(running, onCell1), "a task that runs")
	pending, err := Cancel(in(Pending), now)
	require.NoError(t, err)
	require.False(t, pending.CancelStands(), "a task that never ran")
}

// play is one task as the rules make it, and what cells did that were allowed to.
type play struct {
	task *Task
	runs int // that were ever allowed, in this life of the guid and in earlier ones
	// allowed are the runs of this life that may begin or have begun, by guid.
	allowed map[string]string
	// begun are the runs of this life whose action has begun.
	begun map[string]bool
	// rejections counts what should be counted: each run once, and each of the auctioneer's.
	rejections int32
}

func newPlay() *play {
	p := &play{}
	p.desire()
	return p
}

// desire begins another life of the guid.
func (p *play) desire() {
	p.task, p.allowed, p.begun, p.rejections = in(Pending), map[string]string{}, map[string]bool{}, 0
}

// take applies the outcome of a message.
func (p *play) take(t *rapid.T, what string, after *Task, err error) {
	if err != nil {
		return
	}
	before := p.task
	if before.State != Pending && before.State != Running &&
		(after.Result != before.Result || after.FailureReason != before.FailureReason || after.FirstCompletedAt != before.FirstCompletedAt) {
		t.Fatalf("%s replaced the outcome %+v by %+v", what, before, after)
	}
	p.task = after
}

// anyRun names a run that was, is, or never was, also of an earlier life: messages arrive late and more
// than once. A cell that has lost the guid names none.
func (p *play) anyRun(t *rapid.T) Run {
	run := Run{CellID: rapid.SampledFrom([]string{"cell-1", "cell-2"}).Draw(t, "cell")}
	if n := rapid.IntRange(0, p.runs+1).Draw(t, "run"); n > 0 {
		run.InstanceGUID = fmt.Sprint("run-", n)
	}
	return run
}

// mayReject reports whether an honest cell sends that rejection: it must not when the action has begun
// there.
func (p *play) mayReject(by Run) bool {
	for run := range p.begun {
		if run == by.InstanceGUID || by.InstanceGUID == "" && p.allowed[run] == by.CellID {
			return false
		}
	}
	return true
}

func (p *play) start(t *rapid.T) {
	by, guid := rapid.SampledFrom([]string{"cell-1", "cell-2"}).Draw(t, "cell"), fmt.Sprint("run-", p.runs+1)
	after, should, err := Start(p.task, by, guid, now)
	if should {
		if len(p.allowed) > 0 {
			t.Fatalf("a second run was allowed beside %v", p.allowed)
		}
		p.runs++
		p.allowed[guid] = by
	}
	p.take(t, "start", after, err)
}

func (p *play) reject(t *rapid.T) {
	by := p.anyRun(t)
	if !p.mayReject(by) {
		return
	}
	running := p.task.State == Running && p.task.CellID == by.CellID
	given := p.task.InstanceGUID
	after, err := Reject(p.task, by, "no room", 3, now)
	switch {
	case err != nil:
	case running:
		delete(p.allowed, given)
		p.rejections++
	case by.InstanceGUID == "":
		p.rejections++ // the auctioneer's or a cell's, nobody knows
	}
	p.take(t, "reject", after, err)
}

// Whatever cells, clients, the auctioneer and convergence do, in whatever order, late and however often
// repeated, also about earlier tasks of the guid: a run is allowed at most once, no two runs of a task
// are allowed at a time unless the first was given back before its action began, an outcome is never
// replaced, and no rejection counts twice.
func TestTheActionRunsAtMostOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPlay()
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if len(p.begun) > 1 {
					t.Fatalf("the action began in %v", p.begun)
				}
				if p.task.RejectionCount != p.rejections {
					t.Fatalf("%d rejections were counted of %d", p.task.RejectionCount, p.rejections)
				}
			},
			"start": p.start,
			"begin": func(*rapid.T) { // the cell runs the action as it was allowed to
				for run := range p.allowed {
					p.begun[run] = true
				}
			},
			"reject": p.reject,
			"reject placement": func(t *rapid.T) {
				after, err := RejectPlacement(p.task, "no room", 3, now)
				if err == nil {
					p.rejections++
				}
				p.take(t, "reject placement", after, err)
			},
			"complete": func(t *rapid.T) {
				after, err := Complete(p.task, p.anyRun(t), Result{Result: fmt.Sprint(p.runs)}, now)
				p.take(t, "complete", after, err)
			},
			"cancel": func(t *rapid.T) { after, err := Cancel(p.task, now); p.take(t, "cancel", after, err) },
			"told":   func(t *rapid.T) { p.take(t, "told", CancelTold(p.task, p.anyRun(t)), nil) },
			"lose": func(t *rapid.T) {
				after, err := Fail(p.task, ReasonCellDisappeared, now)
				p.take(t, "lose", after, err)
			},
			"resolve": func(t *rapid.T) { after, err := Resolve(p.task, now); p.take(t, "resolve", after, err) },
			"demote":  func(t *rapid.T) { after, err := Demote(p.task); p.take(t, "demote", after, err) },
			"delete and desire": func(*rapid.T) {
				if CanDelete(p.task, true) == nil {
					p.desire()
				}
			},
		})
	})
}

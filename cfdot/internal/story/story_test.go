package story

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func actual(state workloadv1.ActualLRPState, change func(*workloadv1.ActualLRP)) *workloadv1.ActualLRP {
	l := &workloadv1.ActualLRP{Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 3}, State: state, Presence: ordinary}
	if state == claimed || state == running {
		l.InstanceKey, l.Routable = &workloadv1.ActualLRPInstanceKey{InstanceGuid: "i", CellId: "cell-1"}, state == running
	}
	if change != nil {
		change(l)
	}
	return l
}

func changedActual(before, after *workloadv1.ActualLRP) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{Before: before, After: after}}}
}

func changedTask(before, after *workloadv1.Task) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_TaskChanged{TaskChanged: &bbsv1.TaskChanged{Before: before, After: after}}}
}

func TestOf(t *testing.T) {
	t.Parallel()
	refused := func(l *workloadv1.ActualLRP) { l.PlacementError = "insufficient resources: memory" }
	const pending, runs, completed = workloadv1.TaskState_TASK_STATE_PENDING, workloadv1.TaskState_TASK_STATE_RUNNING, workloadv1.TaskState_TASK_STATE_COMPLETED
	for name, test := range map[string]struct {
		event *bbsv1.Event
		want  Line
	}{
		"a new instance":    {&bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceCreated{ActualLrpInstanceCreated: &bbsv1.ActualLRPInstanceCreated{ActualLrp: actual(unclaimed, nil)}}}, Line{Subject: "p/3", What: "waits for a cell"}},
		"a claim":           {changedActual(actual(unclaimed, nil), actual(claimed, nil)), Line{Subject: "p/3", What: "claimed by cell-1", CellID: "cell-1"}},
		"a start":           {changedActual(actual(claimed, nil), actual(running, nil)), Line{Subject: "p/3", What: "runs on cell-1", CellID: "cell-1"}},
		"a refusal":         {changedActual(actual(unclaimed, nil), actual(unclaimed, refused)), Line{Subject: "p/3", What: "has no place", Reason: "insufficient resources: memory", Bad: true}},
		"readiness is lost": {changedActual(actual(running, nil), actual(running, func(l *workloadv1.ActualLRP) { l.Routable = false })), Line{Subject: "p/3", What: "not routable any more: readiness checks fail", CellID: "cell-1", Bad: true}},
		"a lost cell":       {changedActual(actual(running, nil), actual(running, func(l *workloadv1.ActualLRP) { l.Presence = suspect })), Line{Subject: "p/3", What: "suspect: its cell is lost", CellID: "cell-1", Bad: true}},
		"a cell that is back": {
			changedActual(actual(running, func(l *workloadv1.ActualLRP) { l.Presence = suspect }), actual(running, nil)),
			Line{Subject: "p/3", What: "its cell is back: runs on cell-1", CellID: "cell-1"},
		},
		"an evacuation": {changedActual(actual(running, nil), actual(running, func(l *workloadv1.ActualLRP) { l.Presence = evacuating })), Line{Subject: "p/3", What: "evacuating", CellID: "cell-1"}},
		"down": {
			changedActual(actual(running, nil), actual(crashed, func(l *workloadv1.ActualLRP) { l.CrashReason = "exit 1" })),
			Line{Subject: "p/3", What: "is down after a crash", Reason: "exit 1", CellID: "cell-1", Bad: true},
		},
		"other tags": {
			changedActual(actual(running, nil), actual(running, func(l *workloadv1.ActualLRP) { l.MetricTags = map[string]string{"a": "b"} })),
			Line{Subject: "p/3", What: "changed: metric tags", CellID: "cell-1"},
		},
		"a crash": {
			&bbsv1.Event{Event: &bbsv1.Event_ActualLrpCrashed{ActualLrpCrashed: &bbsv1.ActualLRPCrashed{
				Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 3}, InstanceKey: &workloadv1.ActualLRPInstanceKey{CellId: "cell-1"}, CrashCount: 2, CrashReason: "exit 1",
			}}},
			Line{Subject: "p/3", What: "crashed (2 in a row)", Reason: "exit 1", CellID: "cell-1", Bad: true},
		},
		"a scale": {
			&bbsv1.Event{Event: &bbsv1.Event_DesiredLrpChanged{DesiredLrpChanged: &bbsv1.DesiredLRPChanged{
				Before: &workloadv1.SchedulingInfo{ProcessGuid: "p", Instances: 3}, After: &workloadv1.SchedulingInfo{ProcessGuid: "p", Instances: 5, Annotation: "x"},
			}}},
			Line{Subject: "p", What: "changed: instances 3 -> 5, annotation"},
		},
		"a task runs":       {changedTask(&workloadv1.Task{TaskGuid: "t", State: pending}, &workloadv1.Task{TaskGuid: "t", State: runs, CellId: "c"}), Line{Subject: "t", What: "task runs on c", CellID: "c"}},
		"a task fails":      {changedTask(&workloadv1.Task{State: runs, CellId: "c"}, &workloadv1.Task{TaskGuid: "t", State: completed, Failed: true, FailureReason: "why"}), Line{Subject: "t", What: "task failed", Reason: "why", CellID: "c", Bad: true}},
		"a task succeeds":   {changedTask(&workloadv1.Task{State: runs}, &workloadv1.Task{TaskGuid: "t", State: completed}), Line{Subject: "t", What: "task succeeded"}},
		"a task is refused": {changedTask(&workloadv1.Task{State: pending}, &workloadv1.Task{TaskGuid: "t", State: pending, RejectionCount: 1, RejectionReason: "disk"}), Line{Subject: "t", What: "task has no place", Reason: "disk", Bad: true}},
		"a domain": {
			&bbsv1.Event{Event: &bbsv1.Event_DomainChanged{DomainChanged: &bbsv1.DomainChanged{Domain: &bbsv1.Domain{Domain: "apps"}}}},
			Line{Subject: "apps", What: "domain is not fresh any more: surplus instances are left alone", Bad: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := time.Unix(7, 0)
			test.want.At, test.want.First, test.want.Revision, test.want.Count = at, at, 9, 1
			got, known := Of(test.event, 9, at)
			require.True(t, known)
			require.Equal(t, test.want, got)
		})
	}
	_, known := Of(&bbsv1.Event{}, 1, time.Time{})
	require.False(t, known)
}

func TestGather(t *testing.T) {
	t.Parallel()
	line := func(second int64, what, reason string) Line {
		at := time.Unix(second, 0)
		return Line{At: at, First: at, Subject: "p/0", What: what, Reason: reason, Count: 1, Revision: uint64(second)}
	}
	got := Gather([]Line{line(1, "waits for a cell", ""), line(2, "crashed (1 in a row)", "exit 1"), line(3, "crashed (1 in a row)", "exit 2"), line(4, "crashed (2 in a row)", "exit 1"), line(5, "runs", "")})
	require.Len(t, got, 4)
	var whats []string
	for _, l := range got {
		whats = append(whats, l.What+" "+l.Reason)
	}
	require.Equal(t, []string{"waits for a cell ", "crashed (1 in a row) exit 2", "crashed (2 in a row) exit 1", "runs "}, whats)
	require.Equal(t, 2, got[2].Count)
	require.Equal(t, time.Unix(2, 0), got[2].First)
	require.Equal(t, time.Unix(4, 0), got[2].At)
}

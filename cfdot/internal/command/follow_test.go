package command

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func changedTo(before, after *workloadv1.ActualLRP) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{Before: before, After: after}}}
}

func inState(index int32, state workloadv1.ActualLRPState) *workloadv1.ActualLRP {
	l := anInstance(index)
	l.State, l.Routable = state, state == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	return l
}

const (
	claimedState = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	runningState = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
)

// hold keeps a stream open until its reader leaves.
func hold(stream watchStream) error {
	<-stream.Context().Done()
	return nil
}

func TestWaitForInstances(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
		messages := snapshotOf(&bbsv1.WatchResponse_SnapshotChunk{
			DesiredLrps: []*workloadv1.SchedulingInfo{{ProcessGuid: "p", Instances: 3}}, ActualLrps: []*workloadv1.ActualLRP{inState(0, runningState), inState(1, claimedState)},
		})
		err := sendAll(stream, append(messages,
			changes(6, false, changedTo(inState(1, claimedState), inState(1, runningState))),
			changes(7, false, &bbsv1.Event{Event: &bbsv1.Event_DesiredLrpChanged{DesiredLrpChanged: &bbsv1.DesiredLRPChanged{After: &workloadv1.SchedulingInfo{ProcessGuid: "p", Instances: 2}}}}),
		)...)
		if err != nil {
			return err
		}
		return hold(stream)
	}
	got := p.run("wait", "lrp", "p", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, "p: 1 of 3 running\np: 2 of 3 running\n", got.errors)
	require.Equal(t, "p: 2 of 2 running\n", got.out, "what is desired may change meanwhile")
	require.Empty(t, p.run("wait", "lrp", "p", "--running", "2").errors, "a script is told by the exit code alone")

	got = p.run("wait", "lrp", "p", "--running", "3", "--timeout", "200ms")
	require.Equal(t, ExitUnreachable, got.exit)
	require.Equal(t, "p: 2 of 3 running after 200ms\n", got.errors)
	require.Equal(t, ExitUnreachable, p.run("wait", "lrp", "p", "--gone", "--timeout", "200ms").exit)
	for _, bad := range []string{"wait lrp p --running -1", "wait lrp p --timeout -1s", "wait cell c", "describe nobody", "evacuation c --interval 1ms", "events --since -1s", "lrp-events --for -1s", "lrp-events --until state", "tasks --state BUSY", "tasks --limit -1", "actual-lrps --older-than -1s", "actual-lrps --selector a", "desired-lrps --selector a", "diff --older-than -1s"} {
		require.Equal(t, ExitUsage, p.run(strings.Fields(bad)...).exit, bad)
	}
}

func TestWaitForTheEnd(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	remove := &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: anInstance(0)}}}
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
		return sendAll(stream, append(snapshotOf(&bbsv1.WatchResponse_SnapshotChunk{ActualLrps: []*workloadv1.ActualLRP{anInstance(0)}}), changes(6, false, remove))...)
	}
	got := p.run("wait", "lrp", "p", "--gone")
	require.Equal(t, ExitOK, got.exit, got.errors)
}

func TestWaitForATask(t *testing.T) {
	t.Parallel()
	task := func(state workloadv1.TaskState, failed bool) *workloadv1.Task {
		return &workloadv1.Task{TaskGuid: "t", State: state, Failed: failed, FailureReason: "exit 3"}
	}
	const runs, completed = workloadv1.TaskState_TASK_STATE_RUNNING, workloadv1.TaskState_TASK_STATE_COMPLETED
	moved := func(after *workloadv1.Task) *bbsv1.Event {
		return &bbsv1.Event{Event: &bbsv1.Event_TaskChanged{TaskChanged: &bbsv1.TaskChanged{Before: task(runs, false), After: after}}}
	}
	for name, test := range map[string]struct {
		first *workloadv1.Task
		then  *bbsv1.Event
		exit  int
	}{
		"it succeeds":    {task(runs, false), moved(task(completed, false)), ExitOK},
		"it fails":       {task(runs, false), moved(task(completed, true)), ExitOther},
		"it is deleted":  {task(runs, false), &bbsv1.Event{Event: &bbsv1.Event_TaskRemoved{TaskRemoved: &bbsv1.TaskRemoved{Task: task(completed, false)}}}, ExitNotFound},
		"it goes on":     {task(runs, false), moved(task(runs, false)), ExitUnreachable},
		"it has failed":  {task(completed, true), nil, ExitOther},
		"there is none":  {nil, nil, ExitNotFound},
		"it is resolved": {task(workloadv1.TaskState_TASK_STATE_RESOLVING, false), nil, ExitOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
				chunk := &bbsv1.WatchResponse_SnapshotChunk{}
				if test.first != nil {
					chunk.Tasks = []*workloadv1.Task{test.first}
				}
				messages := snapshotOf(chunk)
				if test.then != nil {
					messages = append(messages, changes(6, false, test.then))
				}
				if err := sendAll(stream, messages...); err != nil {
					return err
				}
				return hold(stream)
			}
			timeout := "1m"
			if test.exit == ExitUnreachable {
				timeout = "500ms"
			}
			got := p.run("wait", "task", "t", "--timeout", timeout)
			require.Equal(t, test.exit, got.exit, got.errors)
		})
	}
}

// TestHistory asks for the past, shows the same thing once, and then follows what is to come from where the past ends.
func TestHistory(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	asked := make(chan *bbsv1.WatchRequest, 10)
	now := time.Now()
	at := func(ago time.Duration, message *bbsv1.WatchResponse) *bbsv1.WatchResponse {
		message.GetChanges().CommittedAt = timestamppb.New(now.Add(-ago))
		return message
	}
	p.bbs.watch = func(q *bbsv1.WatchRequest, stream watchStream) error {
		asked <- q
		if q.GetSince() == nil {
			return stream.Send(changes(9, false, crash(1)))
		}
		return sendAll(stream, &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Bookmark_{Bookmark: &bbsv1.WatchResponse_Bookmark{Revision: 1, CompleteSince: timestamppb.New(now.Add(-10 * time.Minute))}}},
			at(5*time.Minute, changes(5, false, crash(0))), at(2*time.Minute, changes(6, false, crash(0))),
			at(time.Minute, changes(7, false, changedTo(inState(0, claimedState), inState(0, runningState)))), bookmark(8))
	}
	got := p.run("events", "p", "-o", "table", "--no-headers", "--watch")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Regexp(t, `^the log reaches back 10m\d+s only, to `, got.errors)
	lines := squeezed(got)
	require.Equal(t, []string{"2m0s 2 p/0 crashed (0 in a row)", "1m0s p/0 runs on cell-1 cell-1"}, lines[:2])
	require.Regexp(t, "p/1 crashed", lines[2])
	past, future := <-asked, <-asked
	require.Equal(t, []string{"p"}, past.GetProcessGuids())
	require.True(t, past.GetUntilNewest())
	require.WithinDuration(t, now.Add(-time.Hour), past.GetSince().AsTime(), time.Minute)
	require.Empty(t, cmp.Diff(&bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 8}, ProcessGuids: []string{"p"}}, future, protocmp.Transform()))

	require.Equal(t, "5/0 6/0 7/0", printedEvents(t, p.run("events", "p", "--since", "5m")))
	got = p.run("events", "p", "--bad", "-o", "table", "--no-headers", "--since", "5m")
	require.Len(t, got.lines(), 1)
	require.Empty(t, got.errors, "it reaches back far enough")
}

func TestUntil(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
		err := sendAll(stream, changes(5, false, crash(0)), changes(6, false, changedTo(inState(0, claimedState), inState(0, runningState))), changes(7, false, crash(1)))
		if err != nil {
			return err
		}
		return hold(stream)
	}
	for until, want := range map[string]string{"state=RUNNING": "5/0 6/0", "type=actual_lrp_crashed,.data.index=1": "5/0 6/0 7/1", "index=1": "5/0 6/0 7/1", "before.state=CLAIMED": "5/0 6/0"} {
		got := p.run("lrp-events", "--until", until)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Equal(t, want, printedEvents(t, got), until)
	}
	got := p.run("lrp-events", "--until", "state=CRASHED", "--for", "200ms")
	require.Equal(t, ExitUnreachable, got.exit)
	require.Contains(t, got.errors, `no event fulfilled "state=CRASHED" in 200ms`)
}

// TestEventsAreSentencesOnATerminal, and lines of JSON elsewhere.
func TestEventsAreSentencesOnATerminal(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error { return stream.Send(changes(5, false, crash(3))) }
	got := p.runIn(t.Context(), Environment{Terminal: true}, "lrp-events")
	require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3}  p/3  .*crashed \(0 in a row\)`, got.out)
	require.Contains(t, got.out, "\x1b[31m")
	p.env["NO_COLOR"] = "1"
	require.NotContains(t, p.runIn(t.Context(), Environment{Terminal: true}, "lrp-events").out, "\x1b")
}

// TestAListIsFollowed applies the filters on both sides of each change.
func TestAListIsFollowed(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	requests := make(chan *bbsv1.WatchRequest, 1)
	p.bbs.watch = func(q *bbsv1.WatchRequest, stream watchStream) error {
		requests <- q
		return sendAll(stream, append(snapshotOf(&bbsv1.WatchResponse_SnapshotChunk{ActualLrps: []*workloadv1.ActualLRP{inState(0, runningState), inState(1, claimedState)}}),
			changes(6, false, changedTo(inState(1, claimedState), inState(1, runningState))),
			changes(7, false, changedTo(inState(1, runningState), inState(1, runningState))),
			changes(8, false, changedTo(inState(0, runningState), inState(0, claimedState))),
			changes(9, false, changedTo(inState(0, claimedState), inState(0, claimedState))),
			changes(10, false, &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: inState(1, runningState)}}}),
		)...)
	}
	got := p.run("actual-lrps", "-w", "--state", "running", "-p", "p", "-o", "custom=CHANGE:.change,INDEX:.record.index", "--no-headers")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, []string{"listed 0", "added 1", "changed 1", "removed 0", "removed 1"}, squeezed(got))
	require.Empty(t, cmp.Diff(&bbsv1.WatchRequest{
		Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}, Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP}, ProcessGuids: []string{"p"},
	}, <-requests, protocmp.Transform()))
}

// TestFilters leaves out what the BBS cannot.
func TestFilters(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for index := range int32(4) {
		p.bbs.actual = append(p.bbs.actual, anInstance(index))
	}
	p.bbs.actual[1].AvailabilityZone = "z2"
	p.bbs.actual[2].CrashCount = 1
	p.bbs.actual[3].MetricTags = map[string]string{"app_name": "shop", "space_name": "prod"}
	p.bbs.actual[3].Since = timestamppb.Now()
	p.bbs.tasks = []*workloadv1.Task{
		{TaskGuid: "good", State: workloadv1.TaskState_TASK_STATE_COMPLETED}, {TaskGuid: "bad", State: workloadv1.TaskState_TASK_STATE_COMPLETED, Failed: true}, {TaskGuid: "runs", State: workloadv1.TaskState_TASK_STATE_RUNNING},
	}
	for line, want := range map[string]string{
		"actual-lrps --zone z2":                                "p/1",
		"actual-lrps --crashed":                                "p/2",
		"actual-lrps --selector app_name=shop":                 "p/3",
		"actual-lrps --selector app_name!=shop":                "p/0 p/1 p/2",
		"actual-lrps --older-than 1h":                          "p/0 p/1 p/2",
		"actual-lrps --limit 2":                                "p/0 p/1",
		"actual-lrps --placement-error":                        "",
		"actual-lrps --zone z1,z2 --crashed":                   "p/2",
		"tasks --failed":                                       "bad",
		"tasks --state completed":                              "good bad",
		"tasks --limit 1":                                      "good",
		"actual-lrps --resolve-names --selector app_name=shop": "p/3",
	} {
		got := p.run(append(strings.Fields(line), "-o", "name")...)
		require.Equal(t, ExitOK, got.exit, "%s: %s", line, got.errors)
		require.Equal(t, want, strings.Join(got.lines(), " "), line)
	}
	require.Contains(t, p.run("actual-lrps", "--resolve-names", "-o", "table").out, "prod/shop")
}

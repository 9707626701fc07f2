package converge

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// Each set of records that convergence looks for, with the records afterwards.
func TestConvergenceOfLRPs(t *testing.T) {
	t.Parallel()
	lost := Cells{"cell-1": Lost, "cell-2": Present}
	tests := map[string]struct {
		world func(*world)
		cells Cells // bothPresent if nil
		after []string
		plan  []LRPWork
	}{
		"all is well": {
			world: func(w *world) { w.fresh(); w.want("a", 1); w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1") },
			after: []string{"a/0 ORDINARY RUNNING on cell-1"},
		},
		"missing instances are created, fresh or not": {
			world: func(w *world) { w.want("a", 2); w.want("c", 1); w.put("b", 0, lrp.Ordinary, lrp.Running, "cell-1") },
			plan:  []LRPWork{{at("a", 0), Create}, {at("a", 1), Create}, {at("c", 0), Create}},
			after: []string{"a/0 ORDINARY UNCLAIMED", "a/1 ORDINARY UNCLAIMED", "b/0 ORDINARY RUNNING on cell-1", "c/0 ORDINARY UNCLAIMED"},
		},
		"gaps are found although the number of records is right": {
			world: func(w *world) {
				w.fresh()
				w.want("a", 2)
				w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1")
				w.put("a", 5, lrp.Ordinary, lrp.Unclaimed, "")
			},
			plan:  []LRPWork{{at("a", 1), Create}, {at("a", 5), RetireExtra}},
			after: []string{"a/0 ORDINARY RUNNING on cell-1", "a/1 ORDINARY UNCLAIMED"},
		},
		"an index that has a suspect only gets an ordinary record": {
			world: func(w *world) { w.want("a", 1); w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1") },
			cells: lost,
			plan:  []LRPWork{{at("a", 0), Create}},
			after: []string{"a/0 ORDINARY UNCLAIMED", "a/0 SUSPECT RUNNING on cell-1"},
		},
		"a suspect that is wanted stays until its substitute runs, also in a fresh domain": {
			world: func(w *world) {
				w.fresh()
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-2")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1")
			},
			cells: lost,
			after: []string{"a/0 ORDINARY CLAIMED on cell-2", "a/0 SUSPECT RUNNING on cell-1"},
		},
		"a suspect that is to stop goes with its cell": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-2")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1").StopRequested = true
			},
			cells: lost,
			plan:  []LRPWork{{at("a", 0), DropSuspect}},
			after: []string{"a/0 ORDINARY CLAIMED on cell-2"},
		},
		"a suspect that is to stop waits for a cell that is not lost": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-2")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1").StopRequested = true
			},
			after: []string{"a/0 ORDINARY CLAIMED on cell-2", "a/0 SUSPECT RUNNING on cell-1 to stop"},
		},
		"extra instances of a fresh domain are stopped": {
			world: func(w *world) { w.fresh(); w.want("a", 0); w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1") },
			plan:  []LRPWork{{at("a", 0), RetireExtra}},
			after: []string{"a/0 ORDINARY RUNNING on cell-1 to stop"},
		},
		"extra instances of a stale domain are left": {
			world: func(w *world) { w.want("a", 0); w.put("a", 0, lrp.Ordinary, lrp.Crashed, "") },
			after: []string{"a/0 ORDINARY CRASHED"},
		},
		"orphans of a fresh domain are stopped": {
			world: func(w *world) {
				w.fresh()
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-1")
				w.put("a", 1, lrp.Ordinary, lrp.Unclaimed, "")
				w.put("a", 2, lrp.Suspect, lrp.Running, "cell-1")
			},
			plan:  []LRPWork{{at("a", 0), RetireOrphan}, {at("a", 1), RetireOrphan}, {at("a", 2), DropSuspect}},
			after: []string{"a/0 ORDINARY CLAIMED on cell-1 to stop"},
		},
		"orphans of a stale domain are left": {
			world: func(w *world) {
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-1")
				w.put("a", 2, lrp.Suspect, lrp.Running, "cell-3")
			},
			after: []string{"a/0 ORDINARY CLAIMED on cell-1", "a/2 SUSPECT RUNNING on cell-3"},
		},
		"a lapsed domain is stale in the same run": {
			world: func(w *world) {
				d, _ := lrp.UpsertDomain(nil, "apps", time.Second, nil, now.Add(-time.Minute))
				w.domains["apps"] = d
				w.put("a", 0, lrp.Ordinary, lrp.Unclaimed, "")
			},
			after: []string{"a/0 ORDINARY UNCLAIMED"},
		},
		"orphans of a fresh domain on a lost cell are gone at once": {
			world: func(w *world) { w.fresh(); w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1") },
			cells: lost,
			plan:  []LRPWork{{at("a", 0), RetireOrphan}},
		},
		"instances on a lost cell become suspect": {
			world: func(w *world) {
				w.want("a", 2)
				w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1")
				w.put("a", 1, lrp.Ordinary, lrp.Claimed, "cell-1")
			},
			cells: lost,
			plan:  []LRPWork{{at("a", 0), Lose}, {at("a", 1), Lose}},
			after: []string{
				"a/0 ORDINARY UNCLAIMED", "a/0 SUSPECT RUNNING on cell-1",
				"a/1 ORDINARY UNCLAIMED", "a/1 SUSPECT CLAIMED on cell-1",
			},
		},
		"a substitute on a lost cell waits anew": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-1")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-3")
			},
			cells: lost,
			plan:  []LRPWork{{at("a", 0), Lose}},
			after: []string{"a/0 ORDINARY UNCLAIMED", "a/0 SUSPECT RUNNING on cell-3"},
		},
		"nothing is done about a cell that nothing is known of": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-3")
				w.put("a", 0, lrp.Evacuating, lrp.Running, "cell-4")
			},
			after: []string{"a/0 ORDINARY RUNNING on cell-3", "a/0 EVACUATING RUNNING on cell-4"},
		},
		"an extra instance of a stale domain on a lost cell gets no substitute": {
			world: func(w *world) { w.want("a", 0); w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1") },
			cells: lost,
			after: []string{"a/0 ORDINARY RUNNING on cell-1"},
		},
		"an instance that was to stop is gone with its cell, desired or not": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1").StopRequested = true
				w.put("b", 0, lrp.Ordinary, lrp.Running, "cell-1").StopRequested = true
				w.put("b", 0, lrp.Suspect, lrp.Running, "cell-1").StopRequested = true
			},
			cells: lost,
			plan:  []LRPWork{{at("a", 0), Lose}, {at("b", 0), DropSuspect}},
			after: []string{"a/0 ORDINARY UNCLAIMED"},
		},
		"an instance that is to stop is left to its cell": {
			world: func(w *world) { w.fresh(); w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1").StopRequested = true },
			after: []string{"a/0 ORDINARY RUNNING on cell-1 to stop"},
		},
		"evacuating records of a lost cell are gone": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Unclaimed, "")
				w.put("a", 0, lrp.Evacuating, lrp.Running, "cell-1")
				w.put("b", 0, lrp.Evacuating, lrp.Running, "cell-1")
			},
			cells: lost,
			plan:  []LRPWork{{at("a", 0), DropEvacuating}, {at("b", 0), DropEvacuating}},
			after: []string{"a/0 ORDINARY UNCLAIMED"},
		},
		"a suspect whose substitute runs is gone": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-2")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1")
			},
			plan:  []LRPWork{{at("a", 0), DropSuspect}},
			after: []string{"a/0 ORDINARY RUNNING on cell-2"},
		},
		"a suspect whose cell is back replaces its substitute": {
			world: func(w *world) {
				w.want("a", 1)
				w.put("a", 0, lrp.Ordinary, lrp.Claimed, "cell-2")
				w.put("a", 0, lrp.Suspect, lrp.Running, "cell-1")
			},
			plan:  []LRPWork{{at("a", 0), Return}},
			after: []string{"a/0 ORDINARY RUNNING on cell-1"},
		},
		"a crashed instance that is due waits for a cell": {
			world: func(w *world) {
				w.want("a", 2)
				w.put("a", 0, lrp.Ordinary, lrp.Crashed, "").CrashCount = 3
				w.actual[at("a", 0)].Ordinary.Since = now.Add(-30 * time.Second).UnixNano()
				w.put("a", 1, lrp.Ordinary, lrp.Crashed, "").CrashCount = 3
				w.actual[at("a", 1)].Ordinary.Since = now.Add(-30*time.Second + 1).UnixNano()
			},
			plan:  []LRPWork{{at("a", 0), Restart}},
			after: []string{"a/0 ORDINARY UNCLAIMED", "a/1 ORDINARY CRASHED"},
		},
		"a crashed instance is due by the policy of its domain": {
			world: func(w *world) {
				w.want("a", 1)
				never := uint32(2)
				d, _ := lrp.UpsertDomain(nil, "apps", 0, &lrp.CrashPolicy{MaxRestartAttempts: &never}, now)
				w.domains["apps"] = d
				w.put("a", 0, lrp.Ordinary, lrp.Crashed, "").CrashCount = 2
				w.actual[at("a", 0)].Ordinary.Since = 0
			},
			after: []string{"a/0 ORDINARY CRASHED"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			test.world(w)
			if test.cells == nil {
				test.cells = bothPresent
			}
			v := view(test.cells)
			plan := v.Make(w)
			if d := cmp.Diff(test.plan, plan.LRPs); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
			w.apply(v, &plan)
			if d := cmp.Diff(test.after, w.show()); d != "" {
				t.Errorf("records (-want +got):\n%s", d)
			}
			if again := v.Make(w); len(again.LRPs) > 0 {
				t.Errorf("a second run plans %v", again.LRPs)
			}
		})
	}
}

func TestPlanTellsOthers(t *testing.T) {
	t.Parallel()
	w := newWorld()
	d := w.want("a", 4)
	d.InternalHostnames = []string{"a.internal"}
	w.put("a", 0, lrp.Ordinary, lrp.Unclaimed, "").Since = now.Add(-30*time.Second - 1).UnixNano()
	w.put("a", 1, lrp.Ordinary, lrp.Unclaimed, "").Since = now.Add(-30 * time.Second).UnixNano()
	w.put("a", 2, lrp.Ordinary, lrp.Running, "cell-9")
	w.put("a", 3, lrp.Ordinary, lrp.Crashed, "").CrashCount = 3
	w.put("b", 0, lrp.Ordinary, lrp.Unclaimed, "").Since = 0
	w.tasks["t"] = &task.Task{GUID: "t", State: task.Running, CellID: "cell-9"}
	plan := view(bothPresent).Make(w)
	want := Plan{
		Unsettled: []string{"a", "b"}, Looked: 1,
		Unclaimed:   []lrp.Key{at("a", 0)},
		Drifted:     []lrp.Key{at("a", 2)},
		Restarts:    []DueRestart{{Key: at("a", 3), Due: now.Add(29 * time.Second).UnixNano()}},
		UnsureCells: []string{"cell-9"},
		Stats: Stats{
			LRPsDesired: 4, LRPsUnclaimed: 3, LRPsRunning: 1, LRPsCrashed: 1, CrashingDesiredLRPs: 1, TasksRunning: 1,
			OldestUnclaimed: now.Add(-30*time.Second - 1).UnixNano(),
		},
	}
	want.Stats.OldestUnclaimed = plan.Stats.OldestUnclaimed // of b/0, at the beginning of time
	if d := cmp.Diff(want, plan); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

// The figures of a plan are what operators see of the whole.
func TestPlanCounts(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.fresh()
	w.want("a", 9)
	w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1")
	w.put("a", 0, lrp.Evacuating, lrp.Running, "cell-2")
	w.put("a", 1, lrp.Ordinary, lrp.Claimed, "cell-1")
	w.put("a", 1, lrp.Suspect, lrp.Running, "ghost-1")
	w.put("a", 2, lrp.Ordinary, lrp.Claimed, "cell-1")
	w.put("a", 2, lrp.Suspect, lrp.Claimed, "ghost-2")
	w.put("a", 3, lrp.Ordinary, lrp.Unclaimed, "").Since = now.Add(-3 * time.Second).UnixNano()
	w.put("a", 4, lrp.Ordinary, lrp.Unclaimed, "").Since = now.Add(-5 * time.Second).UnixNano()
	w.put("a", 5, lrp.Ordinary, lrp.Unclaimed, "").Since = now.Add(-4 * time.Second).UnixNano()
	w.put("a", 6, lrp.Ordinary, lrp.Crashed, "").CrashCount = 3
	w.put("a", 7, lrp.Evacuating, lrp.Running, "ghost-3") // of which an ordinary record is missing; of a/8 every one is
	w.put("a", 9, lrp.Ordinary, lrp.Running, "cell-1")
	w.put("b", 0, lrp.Ordinary, lrp.Running, "cell-1")
	w.put("c", 0, lrp.Ordinary, lrp.Crashed, "").CrashCount = 200
	w.want("c", 1)
	for guid, state := range map[string]task.State{
		"p": task.Pending, "q": task.Pending, "r": task.Running, "s": task.Completed, "t": task.Resolving, "u": task.Resolving, "v": task.Resolving,
	} {
		w.tasks[guid] = &task.Task{GUID: guid, State: state, CreatedAt: now.UnixNano(), UpdatedAt: now.UnixNano(), FirstCompletedAt: now.UnixNano()}
	}
	w.tasks["r"].CellID = "ghost-4"
	w.tasks["s"].CellID = "ghost-5" // cancelled, and it is to be told
	w.domains["gone"] = &lrp.Domain{Name: "gone", FreshUntil: now.Add(-time.Second).UnixNano()}
	w.domains["policy"] = &lrp.Domain{Name: "policy"} // lapsed long ago

	plan := view(bothPresent).Make(w)
	want := Stats{
		LRPsDesired: 10, LRPsUnclaimed: 3, LRPsClaimed: 2, LRPsRunning: 3, LRPsCrashed: 2, CrashingDesiredLRPs: 2, LRPsMissing: 2, LRPsExtra: 2,
		SuspectClaimed: 1, SuspectRunning: 1, Evacuating: 2, OldestUnclaimed: now.Add(-5 * time.Second).UnixNano(),
		TasksPending: 2, TasksRunning: 1, TasksCompleted: 1, TasksResolving: 3,
	}
	if d := cmp.Diff(want, plan.Stats); d != "" {
		t.Errorf("figures (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"ghost-1", "ghost-2", "ghost-3", "ghost-4", "ghost-5"}, plan.UnsureCells); d != "" {
		t.Errorf("cells of which nothing is known (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"gone"}, plan.LapsedDomains); d != "" {
		t.Errorf("lapsed domains (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]DueRestart{{Key: at("a", 6), Due: now.Add(29 * time.Second).UnixNano()}}, plan.Restarts); d != "" {
		t.Errorf("restarts (-want +got):\n%s", d)
	}
}

// Actions are logged by their names.
func TestActionsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for action := range Restart + 1 {
		seen[action.String()] = true
	}
	for action := range TaskForgetCell + 1 {
		seen["task "+action.String()] = true
	}
	if len(seen) != int(Restart)+int(TaskForgetCell)+2 || seen["unknown"] || seen["task unknown"] {
		t.Errorf("names %v", seen)
	}
	if Action(99).String() != "unknown" || TaskAction(99).String() != "unknown" {
		t.Error("an action that does not exist has a name")
	}
}

func TestConvergenceOfTasks(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	tests := map[string]struct {
		task   task.Task
		cells  Cells
		action TaskAction
		after  string // state and failure reason, or gone
		kicked bool
		called bool
	}{
		"a pending task that is young":              {task: task.Task{State: task.Pending, CreatedAt: ago(time.Second), UpdatedAt: ago(time.Second)}, after: "Pending"},
		"a pending task that waits for long":        {task: task.Task{State: task.Pending, CreatedAt: ago(1800 * time.Second), UpdatedAt: ago(time.Minute)}, after: "Pending", kicked: true},
		"a pending task that waited too long":       {task: task.Task{State: task.Pending, CreatedAt: ago(1800*time.Second + 1)}, action: TaskExpirePending, after: "Completed not started within time limit"},
		"a running task on a present cell":          {task: task.Task{State: task.Running, CellID: "cell-1"}, after: "Running"},
		"a running task on a lost cell":             {task: task.Task{State: task.Running, CellID: "cell-1"}, cells: Cells{"cell-1": Lost}, action: TaskLose, after: "Completed cell disappeared before completion"},
		"a running task on a cell one is unsure of": {task: task.Task{State: task.Running, CellID: "cell-3"}, after: "Running"},
		"a resolving task that is young":            {task: task.Task{State: task.Resolving, UpdatedAt: ago(30 * time.Second), FirstCompletedAt: ago(time.Minute)}, after: "Resolving"},
		"a resolving task whose claim lapsed":       {task: task.Task{State: task.Resolving, UpdatedAt: ago(30*time.Second + 1), FirstCompletedAt: ago(time.Minute)}, action: TaskDemote, after: "Completed"},
		"a resolving task that is old": {
			task:   task.Task{State: task.Resolving, UpdatedAt: ago(31 * time.Second), FirstCompletedAt: ago(121 * time.Second)},
			action: TaskDemote, after: "gone",
		},
		"a completed task that is young":         {task: task.Task{State: task.Completed, UpdatedAt: ago(time.Second), FirstCompletedAt: ago(time.Second), HasCallback: true}, after: "Completed"},
		"a completed task whose callback is due": {task: task.Task{State: task.Completed, UpdatedAt: ago(31 * time.Second), FirstCompletedAt: ago(31 * time.Second), HasCallback: true}, after: "Completed", called: true},
		"a completed task without callback":      {task: task.Task{State: task.Completed, UpdatedAt: ago(31 * time.Second), FirstCompletedAt: ago(31 * time.Second)}, after: "Completed"},
		"a cancelled task whose lost cell was not told": {
			task: task.Task{State: task.Completed, CellID: "cell-1", InstanceGUID: "r", FirstCompletedAt: now.UnixNano()}, cells: Cells{"cell-1": Lost},
			action: TaskForgetCell, after: "Completed",
		},
		"a cancelled task whose cell was not told": {
			task: task.Task{State: task.Completed, CellID: "cell-1", FirstCompletedAt: now.UnixNano()}, cells: Cells{"cell-1": Unsure}, after: "Completed",
		},
		"a completed task that nobody took":        {task: task.Task{State: task.Completed, FirstCompletedAt: ago(120*time.Second + 1)}, action: TaskExpireCompleted, after: "gone"},
		"a completed task that is not yet expired": {task: task.Task{State: task.Completed, UpdatedAt: ago(time.Second), FirstCompletedAt: ago(120 * time.Second)}, after: "Completed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			test.task.GUID = "t"
			w.tasks["t"] = &test.task
			if test.cells == nil {
				test.cells = bothPresent
			}
			v := view(test.cells)
			plan := v.Make(w)
			var action TaskAction
			if len(plan.Tasks) > 0 {
				action = plan.Tasks[0].Action
			}
			if action != test.action {
				t.Errorf("plans %v, want %v", action, test.action)
			}
			if kicked := len(plan.PendingTasks) > 0; kicked != test.kicked {
				t.Errorf("auctioned again: %v", kicked)
			}
			if called := len(plan.Callbacks) > 0; called != test.called {
				t.Errorf("called back again: %v", called)
			}
			w.apply(v, &plan)
			after := "gone"
			if got := w.tasks["t"]; got != nil {
				after = got.State.String()
				if got.FailureReason != "" {
					after += " " + got.FailureReason
				}
			}
			if after != test.after {
				t.Errorf("the task is %q, want %q", after, test.after)
			}
			if again := v.Make(w); len(again.Tasks) > 0 {
				t.Errorf("a second run plans %v", again.Tasks)
			}
		})
	}
}

func TestMakeForCellLooksAtThatCellOnly(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.want("a", 3)
	w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1")
	w.put("a", 1, lrp.Ordinary, lrp.Running, "cell-2")
	w.put("a", 2, lrp.Evacuating, lrp.Running, "cell-1")
	w.put("b", 0, lrp.Evacuating, lrp.Running, "cell-1") // beside another record of the same cell: looked at once
	w.put("b", 0, lrp.Suspect, lrp.Claimed, "cell-1")
	w.tasks["t"] = &task.Task{GUID: "t", State: task.Running, CellID: "cell-1"}
	w.tasks["u"] = &task.Task{GUID: "u", State: task.Running, CellID: "cell-2"}
	v := view(Cells{"cell-1": Lost, "cell-2": Lost})
	plan := v.MakeForCell(w, "cell-1")
	if d := cmp.Diff([]LRPWork{{at("a", 0), Lose}, {at("a", 2), DropEvacuating}, {at("b", 0), DropEvacuating}}, plan.LRPs); d != "" {
		t.Errorf("LRPs (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]TaskWork{{"t", TaskLose}}, plan.Tasks); d != "" {
		t.Errorf("tasks (-want +got):\n%s", d)
	}
}

// Whatever the state, a plan that has been carried out leaves nothing to plan, nothing is destroyed for
// want of desire in a stale domain, and every desired index has its record.
func TestASecondRunPlansNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		cells := Cells{}
		for n := range 3 {
			cells[fmt.Sprint("cell-", n)] = rapid.SampledFrom([]CellStatus{Unsure, Present, Lost}).Draw(t, "status")
		}
		v := view(cells)
		before := len(w.actual)
		plan := v.Make(w)
		events := w.apply(v, &plan)
		if again := v.Make(w); len(again.LRPs)+len(again.Tasks)+len(again.LapsedDomains) > 0 {
			t.Fatalf("first %v, then again %v and %v", plan.LRPs, again.LRPs, again.Tasks)
		}
		if len(plan.LRPs) == 0 && (len(events) > 0 || len(w.actual) != before) {
			t.Fatalf("an empty plan changed %v", events)
		}
		for guid, d := range w.desired {
			for index := range d.Instances {
				if w.actual[lrp.Key{ProcessGUID: guid, Index: index}].Ordinary == nil {
					t.Fatalf("%s/%d has no record after %v", guid, index, plan.LRPs)
				}
			}
		}
		for _, work := range plan.LRPs {
			if d := w.domains["apps"]; (work.Action == RetireExtra || work.Action == RetireOrphan) && !d.Fresh(now) {
				t.Fatalf("%v in a stale domain", work)
			}
		}
	})
}

func draw(t *rapid.T) *world {
	w := newWorld()
	if rapid.Bool().Draw(t, "fresh") {
		w.fresh()
	}
	cell := func() string { return fmt.Sprint("cell-", rapid.IntRange(0, 3).Draw(t, "cell")) }
	for _, guid := range []string{"a", "b", "c"} {
		if rapid.Bool().Draw(t, "desired") {
			w.want(guid, rapid.Int32Range(0, 3).Draw(t, "instances"))
		}
		for index := range rapid.Int32Range(0, 4).Draw(t, "indices") {
			if rapid.Bool().Draw(t, "ordinary") {
				row := w.put(guid, index, lrp.Ordinary, rapid.SampledFrom([]lrp.State{lrp.Unclaimed, lrp.Claimed, lrp.Running, lrp.Crashed}).Draw(t, "state"), cell())
				row.StopRequested = row.Held() && rapid.Bool().Draw(t, "stop")
				row.CrashCount = rapid.Int32Range(0, 5).Draw(t, "crashes")
				row.Since = now.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "age")) * time.Second).UnixNano()
			}
			if rapid.IntRange(0, 3).Draw(t, "suspect") == 0 {
				row := w.put(guid, index, lrp.Suspect, rapid.SampledFrom([]lrp.State{lrp.Claimed, lrp.Running}).Draw(t, "state"), cell())
				row.StopRequested = rapid.Bool().Draw(t, "stop")
			}
			if rapid.IntRange(0, 3).Draw(t, "evacuating") == 0 {
				w.put(guid, index, lrp.Evacuating, lrp.Running, cell())
			}
		}
	}
	for n := range rapid.IntRange(0, 3).Draw(t, "tasks") {
		guid := fmt.Sprint("task-", n)
		age := time.Duration(rapid.IntRange(0, 4000).Draw(t, "age")) * time.Second
		w.tasks[guid] = &task.Task{
			GUID: guid, State: task.State(rapid.IntRange(1, 4).Draw(t, "state")), CellID: cell(),
			CreatedAt: now.Add(-age).UnixNano(), UpdatedAt: now.Add(-age).UnixNano(), FirstCompletedAt: now.Add(-age).UnixNano(),
		}
	}
	return w
}

// What has not changed since drift was last looked for is not compared again.
func TestPlanComparesWhatHasChanged(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		desired, actual, compared uint64
		want                      int
	}{
		"nothing was compared yet":          {desired: 3, actual: 4, want: 1},
		"both are older than the last look": {desired: 3, actual: 4, compared: 4},
		"the desired LRP is newer":          {desired: 5, actual: 4, compared: 4, want: 1},
		"the instance is newer":             {desired: 3, actual: 5, compared: 4, want: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			d := w.want("a", 1)
			d.InternalHostnames, d.Revision = []string{"a.internal"}, test.desired
			w.put("a", 0, lrp.Ordinary, lrp.Running, "cell-1").Revision = test.actual
			v := view(bothPresent)
			v.Compared = test.compared
			if plan := v.Make(w); len(plan.Drifted) != test.want {
				t.Errorf("drifted: %v", plan.Drifted)
			}
		})
	}
}

package reconcile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor/garden/simulated"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

const taskContainer = "task-container"

func TestReconcilerTask(t *testing.T) {
	t.Parallel()
	const runningTask = workloadv1.TaskState_TASK_STATE_RUNNING
	another := ourTask(runningTask)
	another.InstanceGuid = "run-2"
	for name, test := range map[string]struct {
		container state
		bbs       answers
		known     *records
		calls     string
		after     string
		fails     bool
	}{
		"a reservation that may start runs": {
			container: reserved, bbs: answers{startTask: letStart}, calls: "start-task", after: "running",
		},
		"a reservation for a task that is gone is deleted": {
			container: reserved, bbs: answers{startTask: refuse[*bbsv1.StartTaskRequest, bbsv1.StartTaskResponse](errNotFound)},
			calls: "start-task", after: "deleted",
		},
		"a reservation for a task that runs elsewhere is deleted": {
			container: reserved, bbs: answers{startTask: refuse[*bbsv1.StartTaskRequest, bbsv1.StartTaskResponse](errNoTransition)},
			calls: "start-task", after: "deleted",
		},
		"a reservation waits for a bbs that is away": {
			container: reserved, bbs: answers{startTask: refuse[*bbsv1.StartTaskRequest, bbsv1.StartTaskResponse](errUnavailable)},
			calls: "start-task", after: "reserved", fails: true,
		},
		"a start whose permission was lost gives the task back": {
			container: reserved, calls: "start-task reject-task", after: "deleted",
		},
		"a start whose permission was lost waits for a bbs that is away": {
			container: reserved, bbs: answers{rejectTask: refuse[*bbsv1.RejectTaskRequest, bbsv1.RejectTaskResponse](errUnavailable)},
			calls: "start-task reject-task", after: "reserved", fails: true,
		},
		"a task that this cell cannot run fails": {
			container: reserved, bbs: answers{startTask: func(*bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error) {
				return &bbsv1.StartTaskResponse{ShouldStart: true, Task: &workloadv1.Task{TaskGuid: testTask, InstanceGuid: testRun}}, nil
			}},
			calls: "start-task complete-task", after: "deleted",
		},
		"a running task is left alone when an event comes": {container: running, calls: "", after: "running"},
		"a running task whose record agrees is left alone": {
			container: running, known: knownTask(ourTask(runningTask)), calls: "", after: "running",
		},
		"a running task that a list leaves out is asked about": {container: running, known: known(), calls: "start-task", after: "running"},
		"a running task that is not wanted any more is deleted": {
			container: running, known: known(), bbs: answers{startTask: refuse[*bbsv1.StartTaskRequest, bbsv1.StartTaskResponse](errNoTransition)},
			calls: "start-task", after: "deleted",
		},
		"a running task survives a bbs that is away": {
			container: running, known: known(), bbs: answers{startTask: refuse[*bbsv1.StartTaskRequest, bbsv1.StartTaskResponse](errUnavailable)},
			calls: "start-task", after: "running", fails: true,
		},
		"a running task does not pass for another run of the same name": {
			container: running, known: knownTask(another), bbs: answers{startTask: letStart},
			calls: "start-task reject-task", after: "deleted",
		},
		"an end is reported":       {container: crashed, calls: "complete-task", after: "deleted"},
		"a good end is reported":   {container: exited, calls: "complete-task", after: "deleted"},
		"an end by a stop is told": {container: stopped, calls: "complete-task", after: "deleted"},
		"an end of what is not ours is forgotten": {
			container: crashed, bbs: answers{completeTask: refuse[*bbsv1.CompleteTaskRequest, bbsv1.CompleteTaskResponse](errOtherCell)},
			calls: "complete-task", after: "deleted",
		},
		"an end waits for a bbs that is away": {
			container: exited, bbs: answers{completeTask: refuse[*bbsv1.CompleteTaskRequest, bbsv1.CompleteTaskResponse](errUnavailable)},
			calls: "complete-task", after: "completed", fails: true,
		},
		"a task that the cell could not build is given back": {container: undone, calls: "reject-task", after: "deleted"},
		"a task that never began is given back":              {container: unbuilt, calls: "reject-task", after: "deleted"},
		"a task that never began waits for a bbs that is away": {
			container: unbuilt, bbs: answers{rejectTask: refuse[*bbsv1.RejectTaskRequest, bbsv1.RejectTaskResponse](errUnavailable)},
			calls: "reject-task", after: "completed", fails: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveTask()
				b.bring(taskContainer, test.container)
				b.bbs.answers = test.bbs
				after, err := b.settle(taskContainer, test.known)
				require.Equal(t, test.fails, err != nil, "error: %v", err)
				require.Equal(t, test.calls, b.bbs.took())
				require.Equal(t, test.after, after)
			})
		})
	}
}

func TestReconcilerReportsOutcomesOfTasks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file   string
		code   int
		failed bool
		reason string
		result string
	}{
		"a result":               {file: "42\n", result: "42\n"},
		"an empty result":        {file: ""},
		"a result that is cut":   {file: strings.Repeat("é", 6000), result: strings.Repeat("é", 5120)},
		"a file that is too big": {file: strings.Repeat("x", 51201), failed: true, reason: "failed to fetch result"},
		"a failure keeps its reason and sends no result": {file: "42", code: 3, failed: true, reason: "APP/PROC/WEB: Exited with status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveTask()
				b.bring(taskContainer, reserved)
				b.fate = simulated.Fate{Code: test.code, Files: map[string]string{"/result": test.file}}
				b.bring(taskContainer, asScripted)
				_, err := b.settle(taskContainer, nil)
				require.NoError(t, err)
				told := last[*bbsv1.CompleteTaskRequest](b.bbs)
				require.Equal(t, test.failed, told.GetFailed())
				require.Equal(t, test.reason, told.GetFailureReason())
				require.Equal(t, test.result, told.GetResult())
				require.Equal(t, testTask, told.GetTaskGuid())
				require.Equal(t, testCell, told.GetCellId())
				require.Equal(t, testRun, told.GetInstanceGuid())
			})
		})
	}
}

func TestReconcilerFailsATaskWhoseResultIsMissing(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveTask()
		b.fate = simulated.Fate{}
		b.bring(taskContainer, asScripted)
		_, err := b.settle(taskContainer, nil)
		require.NoError(t, err)
		told := last[*bbsv1.CompleteTaskRequest](b.bbs)
		require.True(t, told.GetFailed())
		require.Equal(t, "failed to fetch result", told.GetFailureReason())
	})
}

// A result that is too large is not sent in part: whoever reads it could not tell.
func TestReconcilerFailsATaskWhoseResultIsTooLarge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size   int
		failed bool
	}{"as large as may be": {size: maxResultFile}, "one byte more": {size: maxResultFile + 1, failed: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveTask()
				b.fate = simulated.Fate{Files: map[string]string{"/result": strings.Repeat("a", test.size)}}
				b.bring(taskContainer, asScripted)
				_, err := b.r.readResult(t.Context(), taskContainer, "/result")
				if test.failed {
					require.EqualError(t, err, "result file is too large (over 51200 bytes)")
				} else {
					require.NoError(t, err)
				}
				_, err = b.settle(taskContainer, nil)
				require.NoError(t, err)
				told := last[*bbsv1.CompleteTaskRequest](b.bbs)
				require.Equal(t, test.failed, told.GetFailed())
				require.Equal(t, test.failed, told.GetFailureReason() == "failed to fetch result")
			})
		})
	}
}

func TestReconcilerSaysThatATaskCouldNotRun(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveTask()
		b.bbs.startTask = func(*bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error) {
			return &bbsv1.StartTaskResponse{ShouldStart: true, Task: &workloadv1.Task{TaskGuid: testTask, InstanceGuid: testRun}}, nil
		}
		_, err := b.settle(taskContainer, nil)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(last[*bbsv1.CompleteTaskRequest](b.bbs).GetFailureReason(), "failed to run container: "))
	})
}

func TestReconcilerStartsATaskWithItsTags(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveTask()
		b.bbs.startTask = letStart
		_, err := b.settle(taskContainer, nil)
		require.NoError(t, err)
		c := b.container(taskContainer)
		require.Equal(t, testRun, c.Tags["instance-guid"])
		require.Equal(t, "/result", c.Tags["result-file"])
		require.Equal(t, "tasks", c.Tags["domain"], "tags of the reservation stay")
		require.Equal(t, testCell, last[*bbsv1.StartTaskRequest](b.bbs).GetCellId())
	})
}

// TestResultIsValid cuts any bytes to what the BBS takes: valid text of at most 10,240 bytes.
func TestResultIsValid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 3*maxResult).Draw(t, "content")
		got := resultText(content)
		if len(got) > maxResult {
			t.Fatalf("%d bytes are too many", len(got))
		}
		if !strings.HasPrefix(strings.ToValidUTF8(string(content), "\uFFFD"), got) {
			t.Fatalf("%q does not begin %q", got, content)
		}
	})
}

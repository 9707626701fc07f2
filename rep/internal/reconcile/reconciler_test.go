package reconcile

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// TestReconcilerSettlesRecordsWithoutContainer does one round on a cell that holds nothing.
func TestReconcilerSettlesRecordsWithoutContainer(t *testing.T) {
	t.Parallel()
	completed := ourTask(workloadv1.TaskState_TASK_STATE_COMPLETED)
	for name, test := range map[string]struct {
		lrps  []*workloadv1.ActualLRP
		tasks []*workloadv1.Task
		bbs   answers
		calls string
	}{
		"an ordinary record is removed": {lrps: []*workloadv1.ActualLRP{record(runningState, ordinary)}, calls: "remove"},
		"a claimed record is removed":   {lrps: []*workloadv1.ActualLRP{record(claimedState, ordinary)}, calls: "remove"},
		"an evacuating record is removed as such": {
			lrps: []*workloadv1.ActualLRP{record(runningState, evacuating)}, calls: "remove-evacuating",
		},
		"an evacuating record that is gone already is fine": {
			lrps:  []*workloadv1.ActualLRP{record(runningState, evacuating)},
			bbs:   answers{removeEvacuating: refuse[*bbsv1.RemoveEvacuatingActualLRPRequest, bbsv1.RemoveEvacuatingActualLRPResponse](errCannotRemove)},
			calls: "remove-evacuating",
		},
		"a suspect record ends by a crash": {lrps: []*workloadv1.ActualLRP{record(runningState, suspect)}, calls: "crash"},
		"a running task has failed":        {tasks: []*workloadv1.Task{ourTask(workloadv1.TaskState_TASK_STATE_RUNNING)}, calls: "complete-task"},
		"a completed task is the bbs's":    {tasks: []*workloadv1.Task{completed}, calls: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.bbs.answers = test.bbs
				b.bbs.set(test.lrps, test.tasks, nil)
				stop := b.run()
				defer stop()
				require.Equal(t, test.calls, b.bbs.took())
				if told := last[*bbsv1.CompleteTaskRequest](b.bbs); told != nil {
					require.Equal(t, "task container does not exist", told.GetFailureReason())
				}
				require.True(t, isClosed(b.r.Synced()))
			})
		})
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestReconcilerRechecksBeforeItSettlesARecord lets a container appear between the list of records and the removal.
func TestReconcilerRechecksBeforeItSettlesARecord(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		residual := known(record(runningState, ordinary))
		b.reserveLRP()
		for _, over := range b.r.submitResidual(t.Context(), residual, map[string]bool{}) {
			<-over
		}
		require.Empty(t, b.bbs.took())
	})
}

// TestReconcilerWaitsForTheBBS starts a cell while the BBS is away: nothing is deleted, nothing is offered, and the first
// round comes within seconds of the BBS.
func TestReconcilerWaitsForTheBBS(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		b.bring(testInstance, running)
		b.bbs.set([]*workloadv1.ActualLRP{record(runningState, ordinary), {
			Key: testKey(), InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: "lost", CellId: testCell}, State: runningState, Presence: ordinary,
		}}, nil, errUnavailable)
		stop := b.run()
		defer stop()
		elapse(10 * time.Second)
		require.Empty(t, b.bbs.took(), "half a list is no list")
		require.False(t, isClosed(b.r.Synced()))
		_, problem := b.r.LastRound()
		require.Contains(t, problem, "the bbs is away")

		b.bbs.set([]*workloadv1.ActualLRP{record(runningState, ordinary)}, nil, nil)
		elapse(maxFirstRoundPause)
		require.True(t, isClosed(b.r.Synced()))
		require.Equal(t, "start", b.bbs.took())
		at, problem := b.r.LastRound()
		require.Empty(t, problem)
		require.WithinDuration(t, time.Now(), at, maxFirstRoundPause)
		require.Equal(t, 1, b.observed)
	})
}

// TestReconcilerOffersItselfOnlyWhenAllIsTold holds the answer to the report of a container that was found at start.
func TestReconcilerOffersItselfOnlyWhenAllIsTold(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		b.bring(testInstance, running)
		answer := make(chan struct{})
		b.bbs.start = func(*bbsv1.StartActualLRPRequest) (*bbsv1.StartActualLRPResponse, error) {
			<-answer
			return &bbsv1.StartActualLRPResponse{}, nil
		}
		stop := b.run()
		defer stop()
		require.False(t, isClosed(b.r.Synced()))
		close(answer)
		synctest.Wait()
		require.True(t, isClosed(b.r.Synced()))
	})
}

// TestReconcilerFollowsAContainer takes an instance from its reservation to its crash by events alone.
func TestReconcilerFollowsAContainer(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.bbs.fetch = sendDefinition
		stop := b.run()
		defer stop()
		b.reserveLRP()
		synctest.Wait()
		require.Equal(t, "claim fetch start", b.bbs.took())

		require.NoError(t, b.exec.UpdateContainer(t.Context(), executor.UpdateRequest{GUID: testInstance, InternalRoutes: []executor.InternalRoute{{Hostname: "a.internal"}}}))
		synctest.Wait()
		require.Equal(t, []string{"a.internal"}, last[*bbsv1.StartActualLRPRequest](b.bbs).GetInternalRoutes())
		require.Equal(t, "start", b.bbs.took())

		b.engine.Vanish(testInstance)
		synctest.Wait()
		require.Equal(t, "crash", b.bbs.took())
		require.Equal(t, "deleted", b.stateOf(testInstance))
	})
}

// TestReconcilerTriesAgain loses the BBS while a container crashes; the first round after its return brings the report.
func TestReconcilerTriesAgain(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		var away atomic.Bool
		away.Store(true)
		b.bbs.crash = func(*bbsv1.CrashActualLRPRequest) (*bbsv1.CrashActualLRPResponse, error) {
			if away.Load() {
				return nil, errUnavailable
			}
			return &bbsv1.CrashActualLRPResponse{}, nil
		}
		b.bbs.claim = refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errUnavailable)
		stop := b.run()
		defer stop()
		b.reserveLRP()
		b.bring(testInstance, crashed)
		require.Contains(t, b.bbs.took(), "crash")
		away.Store(false)
		elapse(30 * time.Second)
		require.Equal(t, "crash", b.bbs.took())
		require.Equal(t, "deleted", b.stateOf(testInstance))
	})
}

// TestReconcilerAdopts restarts the rep over a running and an ended container.
func TestReconcilerAdopts(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.bbs.fetch = sendDefinition
		stop := b.run()
		b.reserveLRP()
		synctest.Wait()
		before := last[*bbsv1.StartActualLRPRequest](b.bbs)
		require.Equal(t, "claim fetch start", b.bbs.took())
		stop()
		b.exec.Close()
		b.engine.Detach()
		require.Empty(t, b.bbs.took(), "the end of the rep is no news to the bbs")

		b.open()
		require.Equal(t, "running", b.stateOf(testInstance))
		stop = b.run()
		require.Equal(t, "start", b.bbs.took(), "the emptied bbs is told what runs")
		stop()
		b.exec.Close()

		// While nobody looks the container is killed.
		b.engine.Vanish(testInstance)
		b.open()
		found := record(runningState, ordinary)
		found.NetInfo = before.GetNetInfo()
		b.bbs.set([]*workloadv1.ActualLRP{found}, nil, nil)
		stop = b.run()
		defer stop()
		require.Equal(t, "crash", b.bbs.took())
		require.Equal(t, "missing garden container", firstCrash(b).GetCrashReason())
		require.Equal(t, "deleted", b.stateOf(testInstance))
	})
}

func firstCrash(b *testbed) *bbsv1.CrashActualLRPRequest {
	b.bbs.mu.Lock()
	defer b.bbs.mu.Unlock()
	return b.bbs.crashes[0]
}

func TestReconcilerEvacuatesAtOnceAndOften(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.bbs.fetch = sendDefinition
		var replaced atomic.Bool
		b.bbs.evacuateRunning = func(*bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
			return &bbsv1.EvacuateRunningActualLRPResponse{KeepContainer: !replaced.Load()}, nil
		}
		stop := b.run()
		defer stop()
		b.reserveLRP()
		synctest.Wait()
		b.bbs.took()

		b.evacuate()
		synctest.Wait()
		require.Equal(t, "evacuate-running", b.bbs.took())
		elapse(10 * time.Second)
		require.Equal(t, "evacuate-running", b.bbs.took(), "asked again every ten seconds")
		replaced.Store(true)
		elapse(10 * time.Second)
		require.Equal(t, "deleted", b.stateOf(testInstance))
	})
}

func TestReconcilerDeleteSoonIsNotOvertaken(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveTask()
		b.bring(taskContainer, running)
		c := b.container(taskContainer)
		entered, leave := make(chan struct{}), make(chan struct{})
		b.r.queue.submit(t.Context(), taskContainer, func(context.Context) {
			close(entered)
			<-leave
		})
		<-entered
		b.r.DeleteSoon(t.Context(), c)
		over := b.r.submitContainer(t.Context(), taskContainer, nil)
		close(leave)
		<-over
		synctest.Wait()
		require.Equal(t, "deleted", b.stateOf(taskContainer))
	})
}

func TestReconcilerEndsWithItsExecutor(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		stop := b.run()
		b.exec.Close()
		synctest.Wait()
		stop()
	})
}

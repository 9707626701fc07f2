package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/executor/logs"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

const (
	claimedState = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	runningState = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	ordinary     = workloadv1.Presence_PRESENCE_ORDINARY
	evacuating   = workloadv1.Presence_PRESENCE_EVACUATING
	suspect      = workloadv1.Presence_PRESENCE_SUSPECT
)

// TestReconcilerLRP goes through every state of a container and every decision of the BBS about it.
func TestReconcilerLRP(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		container state
		bbs       answers
		known     *records
		calls     string
		after     string
		fails     bool
	}{
		"a reservation that is claimed runs": {
			container: reserved, bbs: answers{claim: letClaim}, calls: "claim", after: "running",
		},
		"a reservation that is claimed from a bbs that does not send definitions runs": {
			container: reserved, bbs: answers{fetch: sendDefinition}, calls: "claim fetch", after: "running",
		},
		"a reservation for what nobody wants is deleted": {
			container: reserved, bbs: answers{claim: refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errNotFound)},
			calls: "claim", after: "deleted",
		},
		"a reservation that another cell was faster with is deleted": {
			container: reserved, bbs: answers{claim: refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errNoClaim)},
			calls: "claim", after: "deleted",
		},
		"a reservation waits for a bbs that is away": {
			container: reserved, bbs: answers{claim: refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errUnavailable)},
			calls: "claim", after: "reserved", fails: true,
		},
		"a claim whose definition cannot be read now waits": {
			container: reserved, bbs: answers{fetch: refuse[*bbsv1.FetchLRPDefinitionRequest, bbsv1.FetchLRPDefinitionResponse](errUnavailable)},
			calls: "claim fetch", after: "reserved", fails: true,
		},
		"a claim of what was deleted meanwhile is given back": {
			container: reserved, bbs: answers{fetch: refuse[*bbsv1.FetchLRPDefinitionRequest, bbsv1.FetchLRPDefinitionResponse](errNotFound)},
			calls: "claim fetch remove", after: "deleted",
		},
		"a claim that was lost meanwhile is given back": {
			container: reserved, bbs: answers{
				fetch:  refuse[*bbsv1.FetchLRPDefinitionRequest, bbsv1.FetchLRPDefinitionResponse](errNotPermitted),
				remove: refuse[*bbsv1.RemoveActualLRPRequest, bbsv1.RemoveActualLRPResponse](errNotFound),
			},
			calls: "claim fetch remove", after: "deleted",
		},
		"a cell that may do nothing at all deletes nothing": {
			container: reserved, bbs: answers{
				fetch:  refuse[*bbsv1.FetchLRPDefinitionRequest, bbsv1.FetchLRPDefinitionResponse](errNotPermitted),
				remove: refuse[*bbsv1.RemoveActualLRPRequest, bbsv1.RemoveActualLRPResponse](errNotPermitted),
			},
			calls: "claim fetch remove", after: "reserved", fails: true,
		},
		"what this cell cannot run is a crash with the reason": {
			container: reserved, bbs: answers{fetch: func(*bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error) {
				return &bbsv1.FetchLRPDefinitionResponse{DesiredLrp: &workloadv1.DesiredLRP{Definition: &workloadv1.LRPDefinition{}}}, nil
			}},
			calls: "claim fetch crash", after: "deleted",
		},
		"a container being made is claimed when an event comes": {
			container: initializing, calls: "claim", after: "initializing",
		},
		"a container being made whose record says claimed is left alone": {
			container: initializing, known: known(record(claimedState, ordinary)), calls: "", after: "initializing",
		},
		"a container being made without a record is claimed again": {
			container: created, known: known(), calls: "claim", after: "created",
		},
		"a container being made that another cell has is deleted": {
			container: created, known: known(), bbs: answers{claim: refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errNoClaim)},
			calls: "claim", after: "deleted",
		},
		"a container being made survives a bbs that is away": {
			container: created, known: known(), bbs: answers{claim: refuse[*bbsv1.ClaimActualLRPRequest, bbsv1.ClaimActualLRPResponse](errUnavailable)},
			calls: "claim", after: "created", fails: true,
		},
		"a running container is reported when an event comes": {
			container: running, calls: "start", after: "running",
		},
		"a running container without a record is registered": {
			container: running, known: known(), calls: "start", after: "running",
		},
		"a running container whose record is behind is reported": {
			container: running, known: known(record(claimedState, ordinary)), calls: "start", after: "running",
		},
		"a running container that runs elsewhere is stopped": {
			container: running, bbs: answers{start: refuse[*bbsv1.StartActualLRPRequest, bbsv1.StartActualLRPResponse](errNoStart)},
			calls: "start", after: "completed, stopped",
		},
		"a running container survives a bbs that is away": {
			container: running, bbs: answers{start: refuse[*bbsv1.StartActualLRPRequest, bbsv1.StartActualLRPResponse](errUnavailable)},
			calls: "start", after: "running", fails: true,
		},
		"a running container survives a bbs that is slow": {
			container: running, bbs: answers{start: refuse[*bbsv1.StartActualLRPRequest, bbsv1.StartActualLRPResponse](errDeadlinePass)},
			calls: "start", after: "running", fails: true,
		},
		"a container that was stopped gives its record back": {
			container: stopped, calls: "remove", after: "deleted",
		},
		"a container that was stopped and has no record is deleted": {
			container: stopped, bbs: answers{remove: refuse[*bbsv1.RemoveActualLRPRequest, bbsv1.RemoveActualLRPResponse](errNotFound)},
			calls: "remove", after: "deleted",
		},
		"a container that was stopped waits for a bbs that is away": {
			container: stopped, bbs: answers{remove: refuse[*bbsv1.RemoveActualLRPRequest, bbsv1.RemoveActualLRPResponse](errUnavailable)},
			calls: "remove", after: "completed, stopped", fails: true,
		},
		"a crash is reported": {
			container: crashed, calls: "crash", after: "deleted",
		},
		"a crash that the bbs does not care about is forgotten": {
			container: crashed, bbs: answers{crash: refuse[*bbsv1.CrashActualLRPRequest, bbsv1.CrashActualLRPResponse](errNoCrash)},
			calls: "crash", after: "deleted",
		},
		"the reason of a crash waits for a bbs that is away": {
			container: crashed, bbs: answers{crash: refuse[*bbsv1.CrashActualLRPRequest, bbsv1.CrashActualLRPResponse](errUnavailable)},
			calls: "crash", after: "completed", fails: true,
		},
		"an action that ends well is a crash all the same": {
			container: exited, calls: "crash", after: "deleted",
		},
		"a container that could not be built is a crash": {
			container: unbuilt, calls: "crash", after: "deleted",
		},
		"a container that the cell could not build is handed back": {
			container: undone, calls: "evacuate-claimed", after: "deleted",
		},
		"what is handed back waits for a bbs that is away": {
			container: undone, bbs: answers{evacuateClaimed: refuse[*bbsv1.EvacuateClaimedActualLRPRequest, bbsv1.EvacuateClaimedActualLRPResponse](errUnavailable)},
			calls: "evacuate-claimed", after: "completed", fails: true,
		},
		"what is handed back and is another's by now is forgotten": {
			container: undone, bbs: answers{evacuateClaimed: refuse[*bbsv1.EvacuateClaimedActualLRPRequest, bbsv1.EvacuateClaimedActualLRPResponse](errNotFound)},
			calls: "evacuate-claimed", after: "deleted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveLRP()
				b.bring(testInstance, test.container)
				b.bbs.answers = test.bbs
				after, err := b.settle(testInstance, test.known)
				require.Equal(t, test.fails, err != nil, "error: %v", err)
				require.Equal(t, test.calls, b.bbs.took())
				require.Equal(t, test.after, after)
				require.Equal(t, after == "deleted", b.wasTold(testInstance), "its log is found later")
			})
		})
	}
}

func TestReconcilerWordsCrashReasons(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		container state
		want      string
	}{
		"a failure":                {crashed, "APP/PROC/WEB: Exited with status 2"},
		"an end without failure":   {exited, "APP/PROC/WEB: Exited with status 0"},
		"an image that is missing": {unbuilt, "failed to create container"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveLRP()
				b.bring(testInstance, test.container)
				b.bbs.crash = refuse[*bbsv1.CrashActualLRPRequest, bbsv1.CrashActualLRPResponse](errUnavailable)
				_, err := b.settle(testInstance, nil)
				require.Error(t, err)
				got := last[*bbsv1.CrashActualLRPRequest](b.bbs)
				require.True(t, strings.HasPrefix(got.GetCrashReason(), test.want), got.GetCrashReason())
				require.Equal(t, testProcess, got.GetKey().GetProcessGuid())
				require.Equal(t, int32(2), got.GetKey().GetIndex())
				require.Equal(t, "apps", got.GetKey().GetDomain())
				require.Equal(t, testInstance, got.GetInstanceKey().GetInstanceGuid())
				require.Equal(t, testCell, got.GetInstanceKey().GetCellId())

				// While the cell is being emptied the reason is the same.
				b.evacuate()
				_, err = b.settle(testInstance, nil)
				require.NoError(t, err)
				require.Equal(t, got.GetCrashReason(), last[*bbsv1.EvacuateCrashedActualLRPRequest](b.bbs).GetCrashReason())
			})
		})
	}
}

func TestReconcilerReportsARunningInstanceOnce(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		b.bring(testInstance, running)
		_, err := b.settle(testInstance, nil)
		require.NoError(t, err)
		sent := last[*bbsv1.StartActualLRPRequest](b.bbs)
		require.Equal(t, "start", b.bbs.took())
		require.True(t, sent.GetRoutable())
		require.Equal(t, testZone, sent.GetAvailabilityZone())
		require.Equal(t, "definition-1", sent.GetDefinitionId())
		require.NotEmpty(t, sent.GetNetInfo().GetInstanceAddress())

		recorded := record(runningState, ordinary)
		recorded.NetInfo, recorded.MetricTags, recorded.Routable, recorded.AvailabilityZone = sent.GetNetInfo(), sent.GetMetricTags(), true, testZone
		_, err = b.settle(testInstance, known(recorded))
		require.NoError(t, err)
		require.Empty(t, b.bbs.took(), "the record says all that there is to say")

		recorded.Presence = suspect
		_, err = b.settle(testInstance, known(recorded))
		require.NoError(t, err)
		require.Empty(t, b.bbs.took(), "a suspect record is the bbs's to settle")

		recorded.Presence = evacuating
		_, err = b.settle(testInstance, known(recorded))
		require.NoError(t, err)
		require.Equal(t, "start", b.bbs.took(), "a cell that is not being emptied wants its instance back")

		recorded.Presence = ordinary
		recorded.InternalRoutes = []string{"old.apps.internal"}
		_, err = b.settle(testInstance, known(recorded))
		require.NoError(t, err)
		require.Equal(t, "start", b.bbs.took(), "a route that is no longer wanted is taken back")
	})
}

// TestReconcilerGivesBackWhatChangedMeanwhile stops a reservation while the BBS is asked for what to run in it.
func TestReconcilerGivesBackWhatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		b.bbs.fetch = func(q *bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error) {
			require.NoError(t, b.exec.StopContainer(t.Context(), testInstance))
			return sendDefinition(q)
		}
		after, err := b.settle(testInstance, nil)
		require.NoError(t, err)
		require.Equal(t, "deleted", after)
		require.Equal(t, "claim fetch remove", b.bbs.took(), "a stop is no crash, and the claim must not outlive the container")
	})
}

// TestReconcilerDropsWhatExpired lets a reservation run out before its turn comes. The BBS has nothing to be told: its record
// waits for a cell.
func TestReconcilerDropsWhatExpired(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.exec.Run(ctx) }()
		time.Sleep(2 * time.Minute) //nolint:forbidigo // the clock of the bubble
		c, err := b.exec.GetContainer(testInstance)
		require.NoError(t, err)
		require.Equal(t, executor.StateCompleted, c.State)
		after, err := b.settle(testInstance, nil)
		require.NoError(t, err)
		require.Equal(t, "deleted", after)
		require.Empty(t, b.bbs.took())
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestReconcilerEvacuatesLRPs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		container state
		bbs       answers
		calls     string
		after     string
		fails     bool
	}{
		"a reservation is given back":          {container: reserved, calls: "evacuate-claimed", after: "deleted"},
		"a container being made is given back": {container: initializing, calls: "evacuate-claimed", after: "deleted"},
		"a created container is given back":    {container: created, calls: "evacuate-claimed", after: "deleted"},
		"a claimed container that is nobody's is deleted": {
			container: created, bbs: answers{evacuateClaimed: refuse[*bbsv1.EvacuateClaimedActualLRPRequest, bbsv1.EvacuateClaimedActualLRPResponse](errNotFound)},
			calls: "evacuate-claimed", after: "deleted",
		},
		"a claimed container stays while the bbs is away": {
			container: created, bbs: answers{evacuateClaimed: refuse[*bbsv1.EvacuateClaimedActualLRPRequest, bbsv1.EvacuateClaimedActualLRPResponse](errUnavailable)},
			calls: "evacuate-claimed", after: "created", fails: true,
		},
		"a running container serves until its replacement runs": {
			container: running, bbs: answers{evacuateRunning: letServe}, calls: "evacuate-running", after: "running",
		},
		"a running container goes when it was replaced": {container: running, calls: "evacuate-running", after: "deleted"},
		"a running container stays while the bbs is away": {
			container: running, bbs: answers{evacuateRunning: refuse[*bbsv1.EvacuateRunningActualLRPRequest, bbsv1.EvacuateRunningActualLRPResponse](errUnavailable)},
			calls: "evacuate-running", after: "running", fails: true,
		},
		"a container that the cell could not build is handed back": {container: undone, calls: "evacuate-claimed", after: "deleted"},
		"a stopped container is reported as stopped":               {container: stopped, calls: "evacuate-stopped", after: "deleted"},
		"a stopped container waits for a bbs that is away": {
			container: stopped, bbs: answers{evacuateStopped: refuse[*bbsv1.EvacuateStoppedActualLRPRequest, bbsv1.EvacuateStoppedActualLRPResponse](errUnavailable)},
			calls: "evacuate-stopped", after: "completed, stopped", fails: true,
		},
		"a crashed container is reported as crashed": {container: crashed, calls: "evacuate-crashed", after: "deleted"},
		"a crash that is another's is forgotten": {
			container: crashed, bbs: answers{evacuateCrashed: refuse[*bbsv1.EvacuateCrashedActualLRPRequest, bbsv1.EvacuateCrashedActualLRPResponse](errNoCrash)},
			calls: "evacuate-crashed", after: "deleted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inCell(t, func(b *testbed) {
				t := b.t
				b.reserveLRP()
				b.bring(testInstance, test.container)
				b.bbs.answers = test.bbs
				b.evacuate()
				after, err := b.settle(testInstance, nil)
				require.Equal(t, test.fails, err != nil, "error: %v", err)
				require.Equal(t, test.calls, b.bbs.took())
				require.Equal(t, test.after, after)
			})
		})
	}
}

// A round comes every 10 seconds at most; the BBS's word comes at once.
func TestReconcilerLetsGoWhenTheReplacementServes(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.bbs.events = make(chan *bbsv1.WatchResponse)
		b.serve()
		b.bbs.set([]*workloadv1.ActualLRP{{Key: testKey(), InstanceKey: testInstanceKey(), State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING}}, nil, nil)
		stop := b.run()
		defer stop()
		require.Equal(t, 1, b.r.Untold(), "nobody was asked yet")
		b.evacuate()
		synctest.Wait()
		require.Equal(t, "running", b.stateOf(testInstance))
		require.Zero(t, b.r.Untold())
		b.bbs.events <- &bbsv1.WatchResponse{} // the watch begins, and with it a round
		synctest.Wait()

		b.bbs.evacuateRunning = nil // not to be kept
		removed := func(presence workloadv1.Presence, cell string) *bbsv1.WatchResponse {
			return &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Changes_{Changes: &bbsv1.WatchResponse_Changes{Events: []*bbsv1.Event{{
				Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: &workloadv1.ActualLRP{
					Key: testKey(), InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: testInstance, CellId: cell}, Presence: presence,
				}}},
			}}}}}
		}
		b.bbs.events <- removed(evacuating, "cell-2")
		b.bbs.events <- removed(workloadv1.Presence_PRESENCE_ORDINARY, testCell)
		synctest.Wait()
		require.Equal(t, "running", b.stateOf(testInstance), "that was not about this instance")
		b.bbs.events <- removed(evacuating, testCell)
		synctest.Wait()
		require.Equal(t, "deleted", b.stateOf(testInstance))
	})
}

func TestReconcilerAbandonsWhatWasNotEvacuated(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveLRP()
		b.bring(testInstance, running)
		b.reserveTask()
		b.bring("task-container", running)
		b.bbs.completeTask = refuse[*bbsv1.CompleteTaskRequest, bbsv1.CompleteTaskResponse](errUnavailable)
		lines := b.linesUntilGone(testInstance)
		stranded, err := b.r.Abandon(t.Context())
		require.ErrorIs(t, err, errUnavailable)
		require.Equal(t, 1, stranded)
		told := last[*bbsv1.CompleteTaskRequest](b.bbs)
		require.True(t, told.GetFailed())
		require.Equal(t, "timed out during cell evacuation", told.GetFailureReason())
		require.Equal(t, testRun, told.GetInstanceGuid())
		require.Empty(t, b.exec.ListContainers(), "the containers go whether or not the bbs could be told")
		require.Contains(t, lines(), "Cell cell-1 reached evacuation timeout for instance instance-1")
	})
}

// The user of an instance is told once that it moves.
func TestReconcilerTellsTheInstanceThatItMoves(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.serve()
		lines := b.linesUntilGone(testInstance)
		b.evacuate()
		for range 3 {
			_, err := b.settle(testInstance, nil)
			require.NoError(t, err)
		}
		require.NoError(t, b.exec.DeleteContainer(t.Context(), testInstance))
		const told = "Cell cell-1 requesting replacement for instance instance-1"
		require.Len(t, slices.DeleteFunc(lines(), func(line string) bool { return line != told }), 1)
	})
}

// What the BBS has heard, and its record says, is not told again at each round; a record that says something else is put right.
func TestReconcilerTellsOnceThatAnInstanceMoves(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.serve()
		b.evacuate()
		report := translate.RunningOf(b.container(testInstance), b.r.Zone)
		evacuating := record(runningState, workloadv1.Presence_PRESENCE_EVACUATING)
		evacuating.NetInfo, evacuating.InternalRoutes, evacuating.MetricTags = report.NetInfo, report.InternalRoutes, report.MetricTags
		evacuating.Routable, evacuating.AvailabilityZone = report.Routable, report.Zone
		for _, round := range []struct {
			says  string
			known *records
			calls string
		}{
			{"another run of this cell told it", known(evacuating), "evacuate-running"},
			{"it is known to be told", known(evacuating), ""},
			{"the bbs has lost it", known(record(runningState, ordinary)), "evacuate-running"},
			{"the record is gone", known(), "evacuate-running"},
			{"the record is not known", nil, "evacuate-running"},
		} {
			_, err := b.settle(testInstance, round.known)
			require.NoError(t, err)
			require.Equal(t, round.calls, b.bbs.took(), round.says)
		}
	})
}

// linesUntilGone collects what is logged for a container until it is gone; the function returns it then.
func (b *testbed) linesUntilGone(guid string) func() []string {
	var lines []string
	over := make(chan struct{})
	go func() {
		defer close(over)
		for line, err := range b.exec.Logs(context.Background(), guid, logs.Request{Follow: true}) {
			if err != nil {
				return
			}
			lines = append(lines, line.Message)
		}
	}()
	synctest.Wait()
	return func() []string {
		<-over
		return lines
	}
}

func TestReconcilerRefusesContainersThatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		for guid, tags := range map[string]map[string]string{
			"no-lifecycle": {},
			"no-index":     {translate.TagLifecycle: translate.LifecycleLRP, translate.TagProcessIndex: "first"},
		} {
			require.Empty(t, b.exec.AllocateContainers(t.Context(), []executor.AllocationRequest{{GUID: guid, Tags: tags}}))
			after, err := b.settle(guid, nil)
			require.Error(t, err)
			require.Equal(t, "reserved", after)
		}
		require.Empty(t, b.bbs.took())
	})
}

func TestDefinitive(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errNotFound, errNoClaim, errNoStart, errNoCrash, errNoTransition, errOtherCell, errCannotRemove} {
		require.True(t, definitive(err), err)
	}
	for _, err := range append(transientRefusal, errNotPermitted, errors.New("anything")) {
		require.False(t, definitive(err), err)
	}
}

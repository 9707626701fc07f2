package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

const (
	testCell     = "cell-1"
	testZone     = "z1"
	testProcess  = "process"
	testInstance = "instance-1"
	testTask     = "task"
	testRun      = "run-1"
	testRootFS   = "preloaded:cflinuxfs4"
)

// testbed is one cell with the real executor on a simulated engine, and a fake BBS. It lives in a synctest bubble.
type testbed struct {
	t      *testing.T
	engine *simulated.Engine
	state  string
	exec   *executor.Client
	bbs    *fakeBBS
	r      *Reconciler

	mu         sync.Mutex
	fate       simulated.Fate // guarded by mu; of the next processes
	build      time.Duration  // guarded by mu; how long a creation takes
	buildErr   error          // guarded by mu; what becomes of a creation
	evacuating bool           // guarded by mu
	deleted    []string       // guarded by mu; guids that were told of before their deletion
	observed   int            // guarded by mu; complete rounds
	started    chan struct{}
}

// inCell runs a test in a bubble with a cell that is open.
func inCell(t *testing.T, test func(b *testbed)) {
	t.Helper()
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &testbed{t: t, state: state, bbs: &fakeBBS{}, started: make(chan struct{}), fate: simulated.Fate{UntilSignalled: true}}
		b.engine = simulated.New(simulated.Config{
			OnCreate: func(garden.ContainerSpec) (time.Duration, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.build, b.buildErr
			},
			OnRun: func(garden.ContainerSpec, garden.ProcessSpec) simulated.Fate {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.fate
			},
		})
		b.open()
		t.Cleanup(func() { b.exec.Close() })
		test(b)
	})
}

// open makes an executor and a reconciler on what is there, as a started rep does.
func (b *testbed) open() {
	b.t.Helper()
	var err error
	b.exec, err = executor.Open(b.t.Context(), executor.Config{
		CellID: testCell, Engine: b.engine, StateDir: b.state,
		// Nothing in a simulated container listens, so what has a check stays created.
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") },
	})
	require.NoError(b.t, err)
	b.r = New(Config{
		CellID: testCell, Zone: testZone, BBS: b.bbs.clients(), Executor: b.exec,
		Interval: 30 * time.Second, EvacuationInterval: 10 * time.Second, Width: 4,
		Evacuating: func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.evacuating
		},
		EvacuationStarted: b.started,
		Log:               slog.New(slog.DiscardHandler),
		Deleted: func(c executor.Container) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.deleted = append(b.deleted, c.GUID)
		},
		Observe: func(time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.observed++
		},
	})
}

// run starts the loop of the reconciler; the returned function ends it.
func (b *testbed) run() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.r.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		require.NoError(b.t, <-ended)
	}
}

func (b *testbed) evacuate() {
	b.mu.Lock()
	b.evacuating = true
	b.mu.Unlock()
	close(b.started)
}

// reserveLRP makes a reservation as Perform does.
func (b *testbed) reserveLRP() {
	b.t.Helper()
	tags := translate.LRPTags(testKey(), testInstance, "definition-1", nil)
	require.Empty(b.t, b.exec.AllocateContainers(b.t.Context(), []executor.AllocationRequest{{GUID: testInstance, Tags: tags, Resources: executor.ContainerResources{MemoryMB: 64}}}))
}

func (b *testbed) reserveTask() {
	b.t.Helper()
	tags := translate.TaskTags(testTask, "tasks", nil)
	require.Empty(b.t, b.exec.AllocateContainers(b.t.Context(), []executor.AllocationRequest{{GUID: "task-container", Tags: tags}}))
}

// bring brings a reserved container into a state.
func (b *testbed) bring(guid string, to state) {
	b.t.Helper()
	if to == reserved {
		return
	}
	info := executor.RunInfo{
		RootFS: testRootFS, LogConfig: executor.LogConfig{SourceName: "APP", Tags: map[string]string{"source_id": "app"}},
		Action: &executor.Action{Run: &executor.RunAction{Path: "/bin/app", User: "vcap", LogSource: "APP/PROC/WEB"}},
	}
	b.mu.Lock()
	switch to {
	case initializing:
		b.build = time.Hour
	case created:
		info.CheckDefinition = &executor.CheckDefinition{Checks: []executor.Check{{TCP: &executor.TCPCheck{Port: 8080}}}}
	case crashed:
		b.fate = simulated.Fate{Code: 2}
	case exited:
		b.fate = simulated.Fate{Code: 0, Files: map[string]string{"/result": "42"}}
	case unbuilt:
		b.buildErr = errors.New("no such image")
	case reserved, running, stopped, undone, asScripted:
	}
	b.mu.Unlock()
	if to == undone {
		b.engine.SetDown(errors.New("no engine"))
	}
	tags := map[string]string{translate.TagDefinitionID: "definition-1"}
	if guid != testInstance {
		tags = map[string]string{translate.TagInstanceGUID: testRun, translate.TagResultFile: "/result"}
	}
	require.NoError(b.t, b.exec.RunContainer(b.t.Context(), executor.RunRequest{GUID: guid, Info: info, Tags: tags}))
	synctest.Wait()
	if to == stopped {
		require.NoError(b.t, b.exec.StopContainer(b.t.Context(), guid))
		synctest.Wait()
	}
	if to == undone {
		b.engine.SetDown(nil)
	}
	require.Equal(b.t, to.of(), b.container(guid).State, "state that the test begins in")
}

// state of a container in a row of a table.
type state int

const (
	reserved state = iota
	initializing
	created
	running
	crashed    // ended with status 2
	exited     // ended with status 0
	stopped    // ended because somebody asked
	unbuilt    // the workload cannot be built
	undone     // the engine failed
	asScripted // ended as the test's fate says
)

func (s state) of() executor.State {
	return []executor.State{
		executor.StateReserved, executor.StateInitializing, executor.StateCreated, executor.StateRunning,
		executor.StateCompleted, executor.StateCompleted, executor.StateCompleted, executor.StateCompleted, executor.StateCompleted, executor.StateCompleted,
	}[s]
}

func (b *testbed) container(guid string) executor.Container {
	b.t.Helper()
	c, err := b.exec.GetContainer(guid)
	require.NoError(b.t, err)
	return c
}

// settle deals with one container as an event or a round does, and says what became of it.
func (b *testbed) settle(guid string, known *records) (after string, err error) {
	b.t.Helper()
	err = b.r.container(b.t.Context(), b.container(guid), known)
	synctest.Wait()
	return b.stateOf(guid), err
}

func (b *testbed) stateOf(guid string) string {
	c, err := b.exec.GetContainer(guid)
	if errors.Is(err, executor.ErrContainerNotFound) {
		return "deleted"
	}
	require.NoError(b.t, err)
	text := string(c.State)
	if c.Result.Stopped {
		text += ", stopped"
	}
	return text
}

// wasTold says that the log of a container that is gone can still be found.
func (b *testbed) wasTold(guid string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(strings.Join(b.deleted, " "), guid)
}

func testKey() *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: testProcess, Index: 2, Domain: "apps"}
}

func testInstanceKey() *workloadv1.ActualLRPInstanceKey {
	return &workloadv1.ActualLRPInstanceKey{InstanceGuid: testInstance, CellId: testCell}
}

// record of the instance on this cell.
func record(s workloadv1.ActualLRPState, p workloadv1.Presence) *workloadv1.ActualLRP {
	return &workloadv1.ActualLRP{Key: testKey(), InstanceKey: testInstanceKey(), State: s, Presence: p}
}

func known(lrps ...*workloadv1.ActualLRP) *records {
	out := &records{lrps: map[string]*workloadv1.ActualLRP{}, tasks: map[string]*workloadv1.Task{}}
	for _, l := range lrps {
		out.lrps[l.GetInstanceKey().GetInstanceGuid()] = l
	}
	return out
}

func knownTask(task *workloadv1.Task) *records {
	out := known()
	out.tasks[task.GetTaskGuid()] = task
	return out
}

// sendDefinition answers with an LRP that this cell can run.
func sendDefinition(q *bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error) {
	return &bbsv1.FetchLRPDefinitionResponse{DesiredLrp: &workloadv1.DesiredLRP{
		ProcessGuid: q.GetProcessGuid(), Definition: &workloadv1.LRPDefinition{
			DefinitionId: "definition-1", Container: &workloadv1.ContainerSpec{RootFs: testRootFS}, Action: runAction(),
		},
	}}, nil
}

// letClaim sends the definition with the claim, if it is asked for.
func letClaim(q *bbsv1.ClaimActualLRPRequest) (*bbsv1.ClaimActualLRPResponse, error) {
	out := &bbsv1.ClaimActualLRPResponse{DefinitionId: "definition-1"}
	if q.GetWithDefinition() {
		fetched, err := sendDefinition(&bbsv1.FetchLRPDefinitionRequest{ProcessGuid: q.GetProcessGuid()})
		if err != nil {
			return nil, err
		}
		out.DesiredLrp = fetched.GetDesiredLrp()
	}
	return out, nil
}

func runAction() *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "/bin/app", User: "vcap"}}}
}

func ourTask(s workloadv1.TaskState) *workloadv1.Task {
	return &workloadv1.Task{
		TaskGuid: testTask, Domain: "tasks", CellId: testCell, InstanceGuid: testRun, State: s,
		Definition: &workloadv1.TaskDefinition{Container: &workloadv1.ContainerSpec{RootFs: testRootFS}, Action: runAction(), ResultFile: "/result"},
	}
}

// serve makes an instance that runs, and that the BBS will let serve until its replacement does.
func (b *testbed) serve() {
	b.reserveLRP()
	b.bring(testInstance, running)
	b.bbs.evacuateRunning = letServe
}

// letServe answers that an instance serves until its replacement does.
func letServe(*bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
	return &bbsv1.EvacuateRunningActualLRPResponse{KeepContainer: true}, nil
}

// letStart permits the start of the task.
func letStart(*bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error) {
	return &bbsv1.StartTaskResponse{ShouldStart: true, Task: ourTask(workloadv1.TaskState_TASK_STATE_RUNNING)}, nil
}

// elapse lets time pass in the bubble, and then everything that it brings about.
func elapse(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the clock of the bubble
	synctest.Wait()
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/executor"
	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/applog"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/holdings"
	"diego.internal/rep/internal/translate"
	"diego.internal/rep/internal/work"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// patience bounds every wait of a test.
const patience = 10 * time.Second

// cell is a served cell with the real executor on a simulated engine, and clients of it.
type cell struct {
	t         *testing.T
	engine    *simulated.Engine
	exec      *executor.Client
	holdings  *holdings.Holdings
	evacuator *evacuation.Evacuator
	finder    *applog.Finder
	stop      func()

	auction   repv1.AuctionClient
	instances repv1.InstancesClient
	operation repv1.OperationClient
	logs      repv1.LogsClient

	mu       sync.Mutex
	fate     simulated.Fate // guarded by mu; of the next processes
	deletion sync.WaitGroup
}

// newCell serves a cell over mutual TLS until the end of the test.
func newCell(t *testing.T, change ...func(*simulated.Config, *executor.Config)) *cell {
	t.Helper()
	c := &cell{t: t, fate: simulated.Fate{UntilSignalled: true}}
	engine := simulated.Config{
		OnRun: func(garden.ContainerSpec, garden.ProcessSpec) simulated.Fate {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.fate
		},
		OnMetrics: func(garden.ContainerSpec) garden.Metrics {
			return garden.Metrics{MemoryInBytes: 7, CPUUsage: time.Millisecond}
		},
	}
	cfg := executor.Config{CellID: "cell-1", StateDir: t.TempDir(), MemoryMB: 1000, DiskMB: 2000}
	for _, f := range change {
		f(&engine, &cfg)
	}
	c.engine = simulated.New(engine)
	cfg.Engine = c.engine
	var err error
	c.exec, err = executor.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(c.exec.Close)
	c.finder = &applog.Finder{List: c.exec.ListContainers, Keep: time.Minute, Most: 100}
	c.holdings = holdings.New(c.exec)
	c.evacuator = evacuation.New(evacuation.Config{
		Timeout: time.Hour, Poll: time.Millisecond, Containers: c.holdings.All, Log: slog.New(slog.DiscardHandler),
		Abandon: func(context.Context) (int, error) { return 0, nil },
	})
	c.serve()
	return c
}

func (c *cell) serve() {
	c.t.Helper()
	authority := mtlstest.NewAuthority(c.t)
	operators := []string{mtls.RoleOperator}
	server, err := grpcserver.New(grpcserver.Options{
		Source: authority.Source(mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"}), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{"/rep.v1.Auction/": operators, "/rep.v1.Instances/": operators, "/rep.v1.Operation/": operators, "/rep.v1.Logs/": operators},
	})
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	c.register(ctx, server.GRPC())
	var group sync.WaitGroup
	group.Go(func() {
		if err := server.Run(ctx); err != nil {
			c.t.Errorf("serving: %v", err)
		}
	})
	group.Go(func() { _ = c.evacuator.Run(ctx) })
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{server.Addr()}}, grpcclient.Options{
		Source: authority.Source(mtls.Identity{Role: mtls.RoleOperator, Name: "olive"}), Server: mtls.Peer{Role: mtls.RoleCell, Name: "cell-1"},
	})
	require.NoError(c.t, err)
	c.stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	c.t.Cleanup(func() {
		_ = conn.Close()
		c.stop()
		c.deletion.Wait()
	})
	c.auction, c.instances = repv1.NewAuctionClient(conn), repv1.NewInstancesClient(conn)
	c.operation, c.logs = repv1.NewOperationClient(conn), repv1.NewLogsClient(conn)
}

func (c *cell) register(ctx context.Context, server grpc.ServiceRegistrar) {
	log := slog.New(slog.DiscardHandler)
	providers := work.Providers([]string{"cflinuxfs4"}, nil)
	named := 0
	performer := &work.Performer{
		CellID: "cell-1", Executor: c.exec, Holds: c.holdings.Holds, Evacuating: c.evacuator.Evacuating, Log: log,
		RootFS: func(uri string) bool { return work.Supports(providers, uri) },
		NewGUID: func() string {
			named++
			return fmt.Sprintf("container-%d", named)
		},
	}
	description := Cell{
		ID: "cell-1", Zone: "z1", Index: 3, Address: "10.0.0.1:1801", Providers: providers, PlacementTags: []string{"a"}, OptionalTags: []string{"b"}, StartingContainerCap: 9,
	}
	repv1.RegisterAuctionServer(server, &Auction{Cell: description, Executor: c.exec, Holdings: c.holdings, Performer: performer, Evacuator: c.evacuator})
	repv1.RegisterInstancesServer(server, &Instances{Executor: c.exec, Log: log, Delete: func(e executor.Container) {
		c.deletion.Go(func() { _ = c.exec.DeleteContainer(context.Background(), e.GUID) })
	}})
	repv1.RegisterOperationServer(server, &Operation{Executor: c.exec, Evacuator: c.evacuator, Report: time.Millisecond, Stopping: ctx.Done()})
	repv1.RegisterLogsServer(server, &Logs{Executor: c.exec, Finder: c.finder, Stopping: ctx.Done()})
}

// ctx ends with the test or its patience.
func (c *cell) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// place has the cell accept an instance and a task: container-1 and container-2.
func (c *cell) place() {
	c.t.Helper()
	placement := &workloadv1.PlacementConstraint{RootFs: "preloaded:cflinuxfs4", PlacementTags: []string{"a"}}
	answer, err := c.auction.Perform(c.ctx(), &repv1.PerformRequest{
		CellId: "cell-1",
		Lrps:   []*repv1.PerformRequest_LRPWork{{Key: lrpKey(), Resources: &workloadv1.Resources{MemoryMb: 100, DiskMb: 200, MaxPids: 3}, Placement: placement}},
		Tasks:  []*repv1.PerformRequest_TaskWork{{TaskGuid: "t", Domain: "tasks", Resources: &workloadv1.Resources{MemoryMb: 10}, Placement: placement}},
	})
	require.NoError(c.t, err)
	require.True(c.t, answer.GetLrps()[0].GetAccepted(), answer)
	require.True(c.t, answer.GetTasks()[0].GetAccepted(), answer)
	require.Equal(c.t, int32(890), answer.GetAvailableResources().GetMemoryMb())
}

func lrpKey() *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 2, Domain: "apps"}
}

// run runs a container and waits until it runs.
func (c *cell) run(guid string) {
	c.t.Helper()
	require.NoError(c.t, c.exec.RunContainer(c.t.Context(), executor.RunRequest{GUID: guid, Info: executor.RunInfo{
		RootFS: "preloaded:cflinuxfs4", LogRateLimit: -1, LogConfig: executor.LogConfig{GUID: "source", SourceName: "APP", Tags: map[string]string{"source_id": "source"}},
		Action: &executor.Action{Run: &executor.RunAction{Path: "/app", User: "vcap"}},
	}}))
	c.await(guid, func(e executor.Container) bool { return e.State == executor.StateRunning })
}

// await waits until a container is as it should be.
func (c *cell) await(guid string, done func(executor.Container) bool) {
	c.t.Helper()
	events := c.exec.SubscribeToEvents()
	defer events.Close()
	for ctx := c.ctx(); ; {
		e, err := c.exec.GetContainer(guid)
		require.NoError(c.t, err)
		if done(e) {
			return
		}
		_, err = events.Next(ctx)
		require.NoError(c.t, err, "container %q is %q", guid, e.State)
	}
}

func (c *cell) state(known uint64) *repv1.StateResponse {
	c.t.Helper()
	out, err := c.auction.State(c.ctx(), &repv1.StateRequest{KnownVersion: known})
	require.NoError(c.t, err)
	return out
}

func TestStateTellsWhatTheCellHas(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	c.run("container-1")
	got := c.state(0)
	placement := &workloadv1.PlacementConstraint{RootFs: "preloaded:cflinuxfs4", PlacementTags: []string{"a"}}
	want := &repv1.StateResponse{
		CellId: "cell-1", Zone: "z1", CellIndex: 3, RepAddress: "10.0.0.1:1801", Healthy: true, StartingContainerLimit: 9, StartingContainerCount: 1,
		RootfsProviders:    []*workloadv1.RootFSProvider{{Scheme: "preloaded", FixedSet: true, Names: []string{"cflinuxfs4"}}},
		TotalResources:     &workloadv1.CellCapacity{MemoryMb: 1000, DiskMb: 2000, Containers: 249},
		AvailableResources: &workloadv1.CellCapacity{MemoryMb: 890, DiskMb: 1800, Containers: 247},
		PlacementTags:      []string{"a"}, OptionalPlacementTags: []string{"b"}, Version: got.GetVersion(), ContainersVersion: got.GetContainersVersion(),
		Lrps: []*repv1.LRP{{
			InstanceGuid: "container-1", Key: lrpKey(), Resources: &workloadv1.Resources{MemoryMb: 100, DiskMb: 200, MaxPids: 3}, Placement: placement,
			State: repv1.ContainerState_CONTAINER_STATE_RUNNING,
		}},
		Tasks: []*repv1.Task{{
			TaskGuid: "t", Domain: "tasks", Resources: &workloadv1.Resources{MemoryMb: 10}, Placement: placement, State: repv1.ContainerState_CONTAINER_STATE_RESERVED,
			ContainerGuid: "container-2",
		}},
	}
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
}

// TestStateTellsDifferences asks each time for what is new of the containers.
func TestStateTellsDifferences(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	known := c.state(0).GetContainersVersion()
	require.NotZero(t, known)
	news := func() *repv1.StateResponse {
		t.Helper()
		out, err := c.auction.State(c.ctx(), &repv1.StateRequest{KnownContainers: known})
		require.NoError(t, err)
		require.True(t, out.GetPartial())
		require.GreaterOrEqual(t, out.GetContainersVersion(), known)
		known = out.GetContainersVersion()
		return out
	}
	got := news()
	require.Empty(t, got.GetLrps())
	require.Empty(t, got.GetTasks())
	c.run("container-1")
	got = news()
	require.Len(t, got.GetLrps(), 1)
	require.Equal(t, repv1.ContainerState_CONTAINER_STATE_RUNNING, got.GetLrps()[0].GetState())
	require.Empty(t, got.GetTasks())
	require.NoError(t, c.exec.DeleteContainer(t.Context(), "container-2"))
	got = news()
	require.Empty(t, got.GetLrps())
	require.Equal(t, []string{"container-2"}, got.GetGone())

	whole, err := c.auction.State(c.ctx(), &repv1.StateRequest{KnownContainers: 1})
	require.NoError(t, err)
	require.False(t, whole.GetPartial(), "a version that this process never had")
	require.Len(t, whole.GetLrps(), 1)
	require.Empty(t, whole.GetGone())
}

// TestStateChangesItsVersion changes the cell in every way that matters and asks each time for what is new.
func TestStateChangesItsVersion(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	last := c.state(0).GetVersion()
	require.NotZero(t, last)
	unchanged := func() {
		t.Helper()
		again := c.state(last)
		require.True(t, again.GetUnchanged())
		require.Equal(t, last, again.GetVersion())
		require.Empty(t, again.GetLrps())
		require.NotNil(t, again.GetAvailableResources(), "only the lists are left out")
	}
	unchanged()
	for _, step := range []struct {
		name   string
		change func()
	}{
		{"a reservation", c.place},
		{"a container that runs", func() { c.run("container-1") }},
		{"a container that ends", func() {
			require.NoError(t, c.exec.StopContainer(t.Context(), "container-1"))
			c.await("container-1", func(e executor.Container) bool { return e.State == executor.StateCompleted })
		}},
		{"a container that is gone", func() { require.NoError(t, c.exec.DeleteContainer(t.Context(), "container-1")) }},
		{"an engine that is broken", func() { c.exec.SetHealthy(errors.New("no answer")) }},
		{"an engine that is well again", func() { c.exec.SetHealthy(nil) }},
		{"an evacuation", c.evacuator.Begin},
	} {
		step.change()
		got := c.state(last)
		require.False(t, got.GetUnchanged(), step.name)
		require.NotEqual(t, last, got.GetVersion(), step.name)
		last = got.GetVersion()
		unchanged()
	}
	require.Equal(t, work.ReasonEvacuating, c.state(0).GetReason())
	require.True(t, c.state(0).GetEvacuating())
}

// Drivers that come and go, and what a cell cannot do, are news like any other.
func TestVersionCoversWhatNoContainerTells(t *testing.T) {
	t.Parallel()
	seen := map[uint64]int{}
	for i, state := range []*repv1.StateResponse{
		{},
		{Reason: "a"},
		{Restrictions: []string{"a"}},
		{VolumeDrivers: []string{"a"}},
		{Restrictions: []string{"b", "a"}},
		{Evacuation: &repv1.EvacuationProgress{UntoldLrps: 1}},
		{Evacuation: &repv1.EvacuationProgress{ReplacingLrps: 1}},
	} {
		of := version(state, 1)
		require.Equal(t, of, version(state, 1))
		other, known := seen[of]
		require.False(t, known, "states %d and %d look alike", i, other)
		seen[of] = i
	}
}

func TestStateOfABrokenCell(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.exec.SetHealthy(errors.New("no answer"))
	got := c.state(0)
	require.False(t, got.GetHealthy())
	require.Equal(t, "container engine is unhealthy: no answer", got.GetReason())
	require.NotNil(t, got.GetTotalResources(), "it says what it has all the same")
}

func TestStateTellsWhyACellIsRestricted(t *testing.T) {
	t.Parallel()
	c := newCell(t, func(engine *simulated.Config, cfg *executor.Config) {
		engine.Capacity.Restrictions = []string{"limits of disk are not enforced: no quota"}
		folder := t.TempDir()
		cfg.Volumes.DriverFolders = []string{folder}
		require.NoError(t, os.WriteFile(filepath.Join(folder, "nfs.spec"), []byte("unix:///nowhere/nfs.sock"), 0o600))
	})
	c.place()
	c.exec.SetHealthy(errors.New("no answer"))
	c.evacuator.Begin()
	got := c.state(0)
	require.Equal(t, "cell is evacuating; container engine is unhealthy: no answer", got.GetReason())
	require.Len(t, got.GetRestrictions(), 2)
	require.Equal(t, "limits of disk are not enforced: no quota", got.GetRestrictions()[0])
	require.Contains(t, got.GetRestrictions()[1], `volume driver "nfs" does not work`)
	require.Empty(t, got.GetVolumeDrivers(), "only drivers that answer are offered")
	require.Equal(t, int32(1), got.GetEvacuation().GetUntoldLrps())
	require.Equal(t, int32(1), got.GetEvacuation().GetTasks())
	require.Equal(t, c.evacuator.Progress().Deadline.UnixNano(), got.GetEvacuation().GetDeadline().AsTime().UnixNano())
}

func TestPerformForAnotherCellIsRefused(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	_, err := c.auction.Perform(c.ctx(), &repv1.PerformRequest{CellId: "cell-2"})
	require.Equal(t, codes.FailedPrecondition, fault.Code(err))
	require.Equal(t, "WrongCell", fault.Reason(err))
	_, err = c.auction.Perform(c.ctx(), &repv1.PerformRequest{CellId: "cell-1", Tasks: []*repv1.PerformRequest_TaskWork{{}}})
	require.Equal(t, codes.InvalidArgument, fault.Code(err))
	require.Equal(t, "tasks[0].task_guid", fault.Violations(err)[0].Field)
}

func TestStopLRPInstance(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	c.run("container-1")
	for name, test := range map[string]struct {
		process, instance string
		found             bool
	}{
		"an instance that is not here":    {"p", "container-9", false},
		"an instance of another process":  {"q", "container-1", false},
		"a container that is no instance": {"t", "container-2", false},
		"an instance":                     {"p", "container-1", true},
		"an instance that is stopping":    {"p", "container-1", true},
	} {
		got, err := c.instances.StopLRPInstance(c.ctx(), &repv1.StopLRPInstanceRequest{ProcessGuid: test.process, InstanceGuid: test.instance})
		require.NoError(t, err, name)
		require.Equal(t, test.found, got.GetFound(), name)
	}
	c.await("container-1", func(e executor.Container) bool { return e.State == executor.StateCompleted && e.Result.Stopped })
	c.await("container-2", func(e executor.Container) bool { return e.State == executor.StateReserved })
}

func TestUpdateLRPInstance(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	c.run("container-1")
	update := func(q *repv1.UpdateLRPInstanceRequest) bool {
		t.Helper()
		got, err := c.instances.UpdateLRPInstance(c.ctx(), q)
		require.NoError(t, err)
		return got.GetFound()
	}
	running := func() translate.Running {
		e, err := c.exec.GetContainer("container-1")
		require.NoError(t, err)
		return translate.RunningOf(e, "")
	}
	require.False(t, update(&repv1.UpdateLRPInstanceRequest{ProcessGuid: "p", InstanceGuid: "container-9"}))
	require.False(t, update(&repv1.UpdateLRPInstanceRequest{ProcessGuid: "q", InstanceGuid: "container-1"}))
	require.True(t, update(&repv1.UpdateLRPInstanceRequest{
		ProcessGuid: "p", InstanceGuid: "container-1", InternalRoutes: &repv1.UpdateLRPInstanceRequest_InternalRoutes{Hostnames: []string{"a.internal"}},
	}))
	require.Equal(t, []string{"a.internal"}, running().InternalRoutes)
	require.Equal(t, map[string]string{"source_id": "source"}, running().MetricTags, "what is absent stays")
	require.True(t, update(&repv1.UpdateLRPInstanceRequest{
		ProcessGuid: "p", InstanceGuid: "container-1", MetricTags: &repv1.UpdateLRPInstanceRequest_MetricTags{MetricTags: map[string]string{"x": "y"}},
	}))
	require.Equal(t, []string{"a.internal"}, running().InternalRoutes)
	require.Equal(t, map[string]string{"x": "y"}, running().MetricTags)
	require.True(t, update(&repv1.UpdateLRPInstanceRequest{
		ProcessGuid: "p", InstanceGuid: "container-1", InternalRoutes: &repv1.UpdateLRPInstanceRequest_InternalRoutes{}, MetricTags: &repv1.UpdateLRPInstanceRequest_MetricTags{},
	}))
	require.Empty(t, running().InternalRoutes, "what is present and empty clears")
	require.Empty(t, running().MetricTags)
}

func TestCancelTask(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	require.NoError(t, c.exec.RunContainer(t.Context(), executor.RunRequest{
		GUID: "container-2", Tags: map[string]string{translate.TagInstanceGUID: "run-1"},
		Info: executor.RunInfo{RootFS: "preloaded:cflinuxfs4", Action: &executor.Action{Run: &executor.RunAction{Path: "/task", User: "vcap"}}},
	}))
	cancel := func(task, run string) bool {
		t.Helper()
		got, err := c.instances.CancelTask(c.ctx(), &repv1.CancelTaskRequest{TaskGuid: task, InstanceGuid: run})
		require.NoError(t, err)
		return got.GetFound()
	}
	require.False(t, cancel("other", ""))
	require.False(t, cancel("t", "run-2"), "another run of the task is not meant")
	require.True(t, cancel("t", "run-1"))
	c.deletion.Wait()
	require.False(t, cancel("t", "run-1"), "it is gone")
	_, err := c.exec.GetContainer("container-2")
	require.ErrorIs(t, err, executor.ErrContainerNotFound)
	_, err = c.exec.GetContainer("container-1")
	require.NoError(t, err)
}

func TestEvacuateReportsProgress(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	stream, err := c.operation.Evacuate(c.ctx(), &repv1.EvacuateRequest{WithContainers: true})
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, int32(1), first.GetRemainingLrps())
	require.Equal(t, int32(1), first.GetRemainingTasks())
	require.False(t, first.GetDone())
	require.Empty(t, cmp.Diff([]*repv1.EvacuatingContainer{
		{ContainerGuid: "container-1", Key: lrpKey(), Step: repv1.EvacuationStep_EVACUATION_STEP_UNTOLD},
		{ContainerGuid: "container-2", TaskGuid: "t", Step: repv1.EvacuationStep_EVACUATION_STEP_TASK},
	}, first.GetContainers(), protocmp.Transform()))
	require.WithinDuration(t, time.Now().Add(time.Hour), first.GetDeadline().AsTime(), time.Minute)
	for _, guid := range []string{"container-1", "container-2"} {
		require.NoError(t, c.exec.DeleteContainer(t.Context(), guid))
	}
	last := first
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		last = message
	}
	require.True(t, last.GetDone())
	require.Zero(t, last.GetRemainingLrps()+last.GetRemainingTasks())
}

// TestEvacuateTellsTheEndBeforeTheProcessEnds ends the process together with the evacuation, as run does.
func TestEvacuateTellsTheEndBeforeTheProcessEnds(t *testing.T) {
	t.Parallel()
	evacuator := evacuation.New(evacuation.Config{Timeout: time.Hour, Poll: time.Hour, Containers: func() iter.Seq[*holdings.Entry] { return slices.Values([]*holdings.Entry(nil)) }, Log: slog.New(slog.DiscardHandler)})
	evacuator.Begin()
	stopping := make(chan struct{})
	close(stopping)
	stream := &progress{ctx: t.Context(), sent: func() { _ = evacuator.Run(t.Context()) }}
	require.NoError(t, (&Operation{Evacuator: evacuator, Report: time.Hour, Stopping: stopping}).Evacuate(&repv1.EvacuateRequest{}, stream))
	require.Len(t, stream.messages, 2)
	require.True(t, stream.messages[1].GetDone())
	require.Empty(t, stream.messages[0].GetContainers(), "nobody asked for them")
}

// progress is the server's end of a stream. Sent is called after its first message.
type progress struct {
	grpc.ServerStream

	ctx      context.Context
	sent     func()
	messages []*repv1.EvacuateResponse
}

func (p *progress) Context() context.Context { return p.ctx }

func (p *progress) Send(message *repv1.EvacuateResponse) error {
	p.messages = append(p.messages, message)
	if len(p.messages) == 1 {
		p.sent()
	}
	return nil
}

func TestReset(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	_, err := c.operation.Reset(c.ctx(), &repv1.ResetRequest{})
	require.Equal(t, "not-a-simulation-rep", fault.Reason(err))
	require.Equal(t, codes.FailedPrecondition, fault.Code(err))
}

func TestContainerMetrics(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.place()
	c.run("container-1")
	got, err := c.operation.ContainerMetrics(c.ctx(), &repv1.ContainerMetricsRequest{})
	require.NoError(t, err)
	require.Len(t, got.GetContainers(), 1, "a reservation uses nothing")
	sample := got.GetContainers()[0]
	require.Equal(t, "container-1", sample.GetContainerGuid())
	require.Empty(t, cmp.Diff(lrpKey(), sample.GetKey(), protocmp.Transform()))
	require.Equal(t, uint64(7), sample.GetMemoryBytes())
	require.Equal(t, time.Millisecond, sample.GetCpuUsage().AsDuration())
	require.Equal(t, int64(-1), sample.GetLogRateLimitBytesPerSecond())
	require.Nil(t, sample.GetSpikeStart(), "it never had a spike")
	require.Zero(t, sample.GetCpuPercent(), "there are no two samples yet")
}

// follow reads the lines of the application to the end of the stream.
func (c *cell) follow(q *repv1.FollowRequest) ([]string, error) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	stream, err := c.logs.Follow(ctx, q)
	require.NoError(c.t, err)
	var out []string
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		for _, line := range message.GetLines() {
			if line.GetSource() == "APP" {
				out = append(out, line.GetText())
			}
		}
	}
}

func ofProcess(q *repv1.FollowRequest) *repv1.FollowRequest {
	q.Container = &repv1.FollowRequest_ProcessGuid{ProcessGuid: "p"}
	return q
}

func TestLogsKept(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	_, err := c.follow(ofProcess(&repv1.FollowRequest{}))
	require.Equal(t, codes.NotFound, fault.Code(err))
	require.Equal(t, "ResourceNotFound", fault.Reason(err))

	c.fate = simulated.Fate{UntilSignalled: true, Stdout: "one\ntwo\nthree\n"}
	c.place()
	c.run("container-1")
	got, err := c.follow(ofProcess(&repv1.FollowRequest{}))
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two", "three"}, got)
	got, err = c.follow(ofProcess(&repv1.FollowRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}))
	require.NoError(t, err)
	require.Empty(t, got)
	tail, err := c.logs.Follow(c.ctx(), ofProcess(&repv1.FollowRequest{Tail: 1}))
	require.NoError(t, err)
	message, err := tail.Recv()
	require.NoError(t, err)
	require.Len(t, message.GetLines(), 1)

	byInstance := &repv1.FollowRequest{Container: &repv1.FollowRequest_InstanceGuid{InstanceGuid: "container-1"}}
	got, err = c.follow(byInstance)
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two", "three"}, got)
	got, err = c.follow(&repv1.FollowRequest{Container: &repv1.FollowRequest_TaskGuid{TaskGuid: "t"}})
	require.NoError(t, err, "a reservation has no lines yet")
	require.Empty(t, got)

	// The log of a container that is gone is still there.
	e, err := c.exec.GetContainer("container-1")
	require.NoError(t, err)
	c.finder.Retire(e)
	require.NoError(t, c.exec.DeleteContainer(t.Context(), "container-1"))
	got, err = c.follow(byInstance)
	require.NoError(t, err)
	require.Contains(t, strings.Join(got, " "), "one two three")
}

// TestLogsFollowed follows a process from before its first instance to after its second.
func TestLogsFollowed(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	stream, err := c.logs.Follow(c.ctx(), ofProcess(&repv1.FollowRequest{Follow: true}))
	require.NoError(t, err)
	next := func(want string) {
		t.Helper()
		for {
			message, err := stream.Recv()
			require.NoError(t, err)
			for _, line := range message.GetLines() {
				if line.GetSource() == "APP" && line.GetText() == want {
					require.Equal(t, "2", line.GetIndex())
					require.Equal(t, "source", line.GetSourceId())
					return
				}
			}
		}
	}
	c.fate = simulated.Fate{UntilSignalled: true, Stdout: "first\n"}
	c.place()
	c.run("container-1")
	next("first")
	c.mu.Lock()
	c.fate.Stdout = "second\n"
	c.mu.Unlock()
	require.NoError(t, c.exec.DeleteContainer(t.Context(), "container-1"))
	tags := translate.LRPTags(lrpKey(), "again", "", nil)
	require.Empty(t, c.exec.AllocateContainers(t.Context(), []executor.AllocationRequest{{GUID: "again", Tags: tags}}))
	c.run("again")
	next("second")

	// The end of the process ends the stream.
	c.stop()
	for err == nil {
		_, err = stream.Recv()
	}
	require.ErrorIs(t, err, io.EOF)
}

// TestLogsOfOneContainerEndWithIt follows a single instance until it is deleted.
func TestLogsOfOneContainerEndWithIt(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	byInstance := &repv1.FollowRequest{Container: &repv1.FollowRequest_InstanceGuid{InstanceGuid: "container-1"}, Follow: true}
	_, err := c.follow(byInstance)
	require.Equal(t, codes.NotFound, fault.Code(err), "it will never come")
	c.fate = simulated.Fate{UntilSignalled: true, Stdout: "hello\n"}
	c.place()
	c.run("container-1")
	stream, err := c.logs.Follow(c.ctx(), byInstance)
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	require.NoError(t, c.exec.DeleteContainer(t.Context(), "container-1"))
	for err == nil {
		_, err = stream.Recv()
	}
	require.ErrorIs(t, err, io.EOF)
}

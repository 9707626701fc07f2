package cells_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/cells"
	"diego.internal/auctioneer/internal/simulationtest"
	"diego.internal/auctioneer/internal/work"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/telemetry"
)

const soft = 200 * time.Millisecond

func newFleet(t *testing.T, world *simulationtest.World) *cells.Fleet {
	t.Helper()
	f := cells.New(cells.Config{
		Lister: bbsv1.NewCellsClient(world.DialBBS()), Connect: world.Connect,
		StateTimeout: 2 * time.Second, PerformTimeout: 2 * time.Second, SoftDeadline: soft,
		StaleLimit: time.Minute, Workers: 10, Log: telemetry.Discard().Log, Registry: prometheus.NewRegistry(),
	})
	t.Cleanup(f.Close)
	return f
}

// snapshot waits longer than the soft deadline for the first handshakes.
func snapshot(t *testing.T, f *cells.Fleet, since time.Time) map[string]auction.Cell {
	t.Helper()
	s, err := f.Snapshot(t.Context(), since)
	require.NoError(t, err)
	out := map[string]auction.Cell{}
	for _, c := range s.Cells {
		out[c.ID] = c
	}
	return out
}

// warm returns the snapshot in which all cells are open.
func warm(t *testing.T, f *cells.Fleet, n int) map[string]auction.Cell {
	t.Helper()
	var got map[string]auction.Cell
	require.Eventually(t, func() bool {
		s, err := f.Snapshot(t.Context(), time.Now().Add(-time.Minute))
		require.NoError(t, err)
		got = map[string]auction.Cell{}
		for _, c := range s.Cells {
			got[c.ID] = c
		}
		return s.Open == n
	}, 10*time.Second, 5*time.Millisecond)
	return got
}

func works(t *testing.T, memory int32, n int32) []*work.Work {
	t.Helper()
	var list []int32
	for i := range n {
		list = append(list, i)
	}
	out, err := work.Instances(&auctioneerv1.LRPStart{
		ProcessGuid: "app", Domain: "test", Indices: list,
		Resources: &workloadv1.Resources{MemoryMb: memory, DiskMb: 1},
		Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
	}, time.Now())
	require.NoError(t, err)
	return out
}

func task(t *testing.T, guid string) *work.Work {
	t.Helper()
	w, err := work.Task(&auctioneerv1.TaskStart{
		TaskGuid: guid, Resources: &workloadv1.Resources{MemoryMb: 7}, Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
	}, time.Now())
	require.NoError(t, err)
	return w
}

// perform hands work to cell-000 and waits for the outcome.
func perform(t *testing.T, f *cells.Fleet, w []*work.Work) cells.Outcome {
	t.Helper()
	done := make(chan cells.Outcome, 1)
	f.Perform("cell-000", w, func(o cells.Outcome) { done <- o })
	select {
	case o := <-done:
		return o
	case <-time.After(10 * time.Second):
		t.Fatal("no outcome of Perform")
		return cells.Outcome{}
	}
}

func TestSnapshotConvertsStates(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	all[0].Change(func(s *repv1.StateResponse) {
		s.ProxyMemoryAllocationMb, s.StartingContainerCount, s.StartingContainerLimit = 32, 2, 5
		s.RootfsProviders = append(s.RootfsProviders, &workloadv1.RootFSProvider{Scheme: "docker"})
		s.PlacementTags, s.OptionalPlacementTags, s.VolumeDrivers = []string{"r"}, []string{"o"}, []string{"nfs"}
		state := repv1.ContainerState_CONTAINER_STATE_RUNNING
		key := func(i int32) *workloadv1.ActualLRPKey {
			return &workloadv1.ActualLRPKey{ProcessGuid: "app", Index: i}
		}
		s.Lrps = []*repv1.LRP{
			{Key: key(0), State: state},
			{Key: key(1), State: repv1.ContainerState_CONTAINER_STATE_RESERVED},
			{Key: key(2), State: repv1.ContainerState_CONTAINER_STATE_CRASHED},
			{Key: key(3), State: repv1.ContainerState_CONTAINER_STATE_SHUTDOWN},
		}
		s.Tasks = []*repv1.Task{{TaskGuid: "t", State: state}, {TaskGuid: "u", State: repv1.ContainerState_CONTAINER_STATE_SHUTDOWN}}
		s.TotalResources.MemoryMb = 200
	})
	f := newFleet(t, world)
	want := auction.Cell{
		ID: "cell-000", Zone: "z0",
		Profile: &auction.Profile{
			ArbitraryRootFS: []string{"docker"}, FixedRootFS: map[string][]string{"preloaded": {"stack"}},
			VolumeDrivers: []string{"nfs"}, RequiredTags: []string{"r"}, OptionalTags: []string{"o"},
		},
		Total:         auction.Resources{MemoryMB: 200, DiskMB: 100, Containers: 100},
		Available:     auction.Resources{MemoryMB: 100, DiskMB: 100, Containers: 100},
		ProxyMemoryMB: 32, Starting: 2, StartSlots: 3, Tasks: 1, Instances: map[string]int{"app": 2},
	}
	if diff := cmp.Diff(want, warm(t, f, 1)["cell-000"]); diff != "" {
		t.Errorf("cell (-want +got):\n%s", diff)
	}
}

func TestSnapshotConditions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		edit func(*repv1.StateResponse)
		want auction.Condition
	}{
		"evacuating":                {edit: func(s *repv1.StateResponse) { s.Evacuating = true }, want: auction.Evacuating},
		"unhealthy":                 {edit: func(s *repv1.StateResponse) { s.Healthy = false }, want: auction.Unhealthy},
		"takes no work":             {edit: func(s *repv1.StateResponse) { s.Reason = "disk full" }, want: auction.Unhealthy},
		"another cell answers":      {edit: func(s *repv1.StateResponse) { s.CellId = "cell-999" }, want: auction.Unreachable},
		"an empty cell id is fine":  {edit: func(s *repv1.StateResponse) { s.CellId = "" }, want: auction.Open},
		"a cell as it should be is": {edit: func(*repv1.StateResponse) {}, want: auction.Open},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := simulationtest.New(t)
			all := world.AddCells(1)
			f := newFleet(t, world)
			warm(t, f, 1)
			all[0].Change(tt.edit)
			got := snapshot(t, f, time.Now())
			require.Equal(t, tt.want, got["cell-000"].Condition)
		})
	}
}

func TestSnapshotUsesWarmStates(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	f := newFleet(t, world)
	warm(t, f, 1)
	before, _ := all[0].Calls()
	snapshot(t, f, time.Now().Add(-time.Minute))
	after, _ := all[0].Calls()
	require.Equal(t, before, after, "a state that is young enough is not asked for again")
	snapshot(t, f, time.Now())
	after, _ = all[0].Calls()
	require.Equal(t, before+1, after)
}

func TestSnapshotForgetsCellsThatAreGone(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	world.AddCells(2)
	f := newFleet(t, world)
	warm(t, f, 2)
	world.RemoveCell("cell-000")
	got := snapshot(t, f, time.Now())
	require.Len(t, got, 1)
	o := perform(t, f, works(t, 1, 2))
	require.Len(t, o.Refused, 2, "work for a cell that is gone goes elsewhere")
}

func TestPerformCorrectsTheState(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	all[0].Change(func(s *repv1.StateResponse) { s.ProxyMemoryAllocationMb, s.StartingContainerLimit = 5, 10 })
	f := newFleet(t, world)
	warm(t, f, 1)
	o := perform(t, f, append(works(t, 22, 4), task(t, "task")))
	require.NoError(t, o.Err)
	require.Len(t, o.Accepted, 4, "three instances of 27 MB and the task")
	require.Len(t, o.Refused, 1)
	require.Equal(t, "insufficient resources: memory", o.Refused[0].Reason)

	// The warm state, before it is asked for again, is what the cell now is. The
	// refusal makes it due, so the cell must not answer.
	all[0].OnState(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	got := snapshot(t, f, time.Now().Add(-time.Minute))["cell-000"]
	require.Equal(t, auction.Resources{MemoryMB: 12, DiskMB: 97, Containers: 96}, got.Available)
	require.Equal(t, map[string]int{"app": 3}, got.Instances)
	require.Equal(t, []int{1, 4, 6}, []int{got.Tasks, got.Starting, got.StartSlots})
}

func TestUnchangedStateUndoesWhatNeverHappened(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	f := newFleet(t, world)
	warm(t, f, 1)
	all[0].OnPerform(func(context.Context, func()) error { return status.Error(codes.Internal, "broken") })
	o := perform(t, f, works(t, 20, 4))
	require.Error(t, o.Err)
	require.Len(t, o.Refused, 4)
	got := snapshot(t, f, time.Now())["cell-000"]
	require.Equal(t, int64(100), got.Available.MemoryMB)
	require.Empty(t, got.Instances)
	require.Zero(t, got.Starting)
}

func TestPerformThatFailed(t *testing.T) {
	t.Parallel()
	broken := status.Error(codes.Internal, "broken")
	tests := map[string]struct {
		performed, stateFails      bool
		accepted, refused, unknown int
	}{
		"done after all":     {performed: true, accepted: 3},
		"not done":           {refused: 3},
		"no way to find out": {performed: true, stateFails: true, unknown: 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := simulationtest.New(t)
			all := world.AddCells(1)
			f := newFleet(t, world)
			warm(t, f, 1)
			all[0].OnPerform(func(_ context.Context, perform func()) error {
				if tt.performed {
					perform()
				}
				return broken
			})
			if tt.stateFails {
				all[0].OnState(func(context.Context) error { return broken })
			}
			o := perform(t, f, append(works(t, 1, 2), task(t, "task")))
			require.Error(t, o.Err)
			require.Equal(t, []int{tt.accepted, tt.refused, tt.unknown}, []int{len(o.Accepted), len(o.Refused), len(o.Unknown)})
		})
	}
}

// TestPerformOfMuchWork needs several calls: none may be larger than a cell takes, and what an earlier one settled stays
// settled when a later one fails.
func TestPerformOfMuchWork(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	all[0].Change(func(s *repv1.StateResponse) {
		s.TotalResources = &workloadv1.CellCapacity{MemoryMb: 100_000, DiskMb: 100_000, Containers: 20_000}
		s.AvailableResources = &workloadv1.CellCapacity{MemoryMb: 100_000, DiskMb: 100_000, Containers: 2_000}
	})
	f := newFleet(t, world)
	warm(t, f, 1)
	o := perform(t, f, append(works(t, 1, 1_500), task(t, "task")))
	require.NoError(t, o.Err)
	require.Len(t, o.Accepted, 1_501)
	_, performs := all[0].Calls()
	require.Equal(t, 2, performs)
	require.Equal(t, int64(499), snapshot(t, f, time.Now().Add(-time.Minute))["cell-000"].Available.Containers)

	calls := 0
	all[0].Clear()
	warm(t, f, 1)
	snapshot(t, f, time.Now())
	all[0].OnPerform(func(_ context.Context, perform func()) error {
		if calls++; calls == 2 {
			return status.Error(codes.Internal, "broken")
		}
		perform()
		return nil
	})
	o = perform(t, f, works(t, 1, 3_500))
	require.Error(t, o.Err)
	require.Equal(t, []int{1_000, 2_500, 0}, []int{len(o.Accepted), len(o.Refused), len(o.Unknown)})
	got := snapshot(t, f, time.Now())["cell-000"]
	require.Equal(t, map[string]int{"app": 1_000}, got.Instances)
	require.Equal(t, int64(99_000), got.Available.MemoryMB)
}

func TestCellUnderPerformGetsNothingElse(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	f := newFleet(t, world)
	warm(t, f, 2)
	entered, release := make(chan struct{}), make(chan struct{})
	all[0].OnPerform(func(_ context.Context, perform func()) error {
		close(entered)
		<-release
		perform()
		return nil
	})
	done := make(chan cells.Outcome, 1)
	f.Perform("cell-000", works(t, 1, 1), func(o cells.Outcome) { done <- o })
	<-entered
	require.Equal(t, auction.Busy, snapshot(t, f, time.Now().Add(-time.Minute))["cell-000"].Condition)
	close(release)
	require.Len(t, (<-done).Accepted, 1)
	require.Equal(t, auction.Open, snapshot(t, f, time.Now().Add(-time.Minute))["cell-000"].Condition)
}

func TestSlowCellIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(3)
	f := newFleet(t, world)
	warm(t, f, 3)
	hang := make(chan struct{})
	all[0].OnState(func(ctx context.Context) error {
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return nil
	})
	snapshot(t, f, time.Now()) // waits for the soft deadline
	begun := time.Now()
	for range 3 {
		got := snapshot(t, f, time.Now())
		require.Equal(t, auction.Open, got["cell-000"].Condition, "its last state is young enough")
	}
	require.Less(t, time.Since(begun), soft, "nobody waits for it again")
	require.Equal(t, []string{"cell-000"}, f.Summary().Slow)
	close(hang)
	require.Eventually(t, func() bool {
		snapshot(t, f, time.Now())
		return len(f.Summary().Slow) == 0
	}, 10*time.Second, 5*time.Millisecond, "it is waited for again once it answers in time")
}

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	f := newFleet(t, world)
	warm(t, f, 1)
	all[0].OnState(func(context.Context) error { return status.Error(codes.Internal, "broken") })
	require.Equal(t, auction.Unreachable, snapshot(t, f, time.Now())["cell-000"].Condition)
	before, _ := all[0].Calls()
	for range 5 {
		snapshot(t, f, time.Now())
	}
	after, _ := all[0].Calls()
	require.LessOrEqual(t, after-before, 1, "a failing cell is left alone for a while")
	require.Equal(t, []string{"cell-000"}, f.Summary().Failing)
	all[0].OnState(nil)
	warm(t, f, 1)
	require.Empty(t, f.Summary().Failing)
}

func TestDeadCellFailsAtOnce(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	all[0].Address = "127.0.0.1:1" // nobody listens there
	f := newFleet(t, world)
	require.Eventually(t, func() bool {
		got := snapshot(t, f, time.Now().Add(-time.Minute))
		return got["cell-001"].Condition == auction.Open && len(f.Summary().Failing) == 1
	}, 10*time.Second, 5*time.Millisecond)
	begun := time.Now()
	o := perform(t, f, works(t, 1, 1))
	require.Len(t, o.Unknown, 1)
	require.Less(t, time.Since(begun), time.Second, "the end of its deadline is not waited for")
}

func TestImpostorIsNotTrusted(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	all[0].Address = all[1].Address // its certificate names cell-001
	f := newFleet(t, world)
	require.Eventually(t, func() bool {
		snapshot(t, f, time.Now()) // a cell that was slow at first is asked again
		return fmt.Sprint(f.Summary().Failing) == "[cell-000]" && f.Summary().Open == 1
	}, 10*time.Second, 5*time.Millisecond)
	o := perform(t, f, works(t, 1, 1))
	require.Empty(t, o.Accepted)
	_, performs := all[1].Calls()
	require.Zero(t, performs)
}

// TestStatesTellDifferences lets what a cell holds come, change and go: whatever the cell leaves out of its answers, the fleet
// knows all of it.
func TestStatesTellDifferences(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	cell := world.AddCells(1)[0]
	f := newFleet(t, world)
	require.Empty(t, warm(t, f, 1)["cell-000"].Instances)
	holds := func(instances, tasks int) {
		t.Helper()
		c := snapshot(t, f, time.Now())["cell-000"]
		require.Equal(t, instances, c.Instances["app"])
		require.Equal(t, tasks, c.Tasks)
	}
	perform(t, f, append(works(t, 1, 3), task(t, "t")))
	holds(3, 1)
	require.Equal(t, cells.StillReserved, f.Reservation(task(t, "t").Key(), time.Now().Add(-time.Minute)))
	cell.RunAll()
	holds(3, 1)
	require.Equal(t, cells.NotReserved, f.Reservation(task(t, "t").Key(), time.Now().Add(-time.Minute)))
	perform(t, f, works(t, 1, 5)[3:])
	holds(5, 1)
	cell.Clear()
	holds(0, 0)
	perform(t, f, works(t, 1, 2))
	holds(2, 0)
}

package batch

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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

// rig is a loop with real cells' connections in a simulated world.
type rig struct {
	t      *testing.T
	world  *simulationtest.World
	queue  *Queue
	loop   *Loop
	active atomic.Bool
}

// startRig runs a loop until the end of the test.
func startRig(t *testing.T, world *simulationtest.World, options auction.Options) *rig {
	t.Helper()
	r := &rig{t: t, world: world, queue: NewQueue(100_000)}
	r.active.Store(true)
	tel := telemetry.Discard()
	bbs := world.DialBBS()
	fleet := cells.New(cells.Config{
		Lister: bbsv1.NewCellsClient(bbs), Connect: world.Connect,
		StateTimeout: 3 * time.Second, PerformTimeout: 3 * time.Second, SoftDeadline: 300 * time.Millisecond,
		StaleLimit: 10 * time.Second, Workers: 100, Log: tel.Log, Registry: prometheus.NewRegistry(),
	})
	placement := bbsv1.NewPlacementClient(bbs)
	reports := NewReports(placement, tel.Log)
	r.loop = NewLoop(Config{
		Fleet: fleet, Queue: r.queue, Reports: reports, History: NewHistory(), Options: options,
		StateMaxAge: time.Second, StaleLimit: 10 * time.Second, CommitDeadline: 300 * time.Millisecond,
		Active: r.active.Load, Log: tel.Log, Registry: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- r.loop.Run(ctx) }()
	go func() { ended <- reports.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		fleet.Close()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("running: %v", err)
			}
		}
	})
	return r
}

// eventually fails the test unless the condition comes true.
func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	require.Eventually(r.t, condition, 15*time.Second, 5*time.Millisecond, what)
}

func lrp(guid string, memory int32, indices ...int32) *auctioneerv1.LRPStart {
	return &auctioneerv1.LRPStart{
		ProcessGuid: guid, Domain: "test", Indices: indices, DefinitionId: "d1",
		Resources: &workloadv1.Resources{MemoryMb: memory, DiskMb: 1},
		Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
	}
}

func (r *rig) addLRP(start *auctioneerv1.LRPStart) {
	r.t.Helper()
	works, err := work.Instances(start, time.Now())
	require.NoError(r.t, err)
	require.NoError(r.t, r.queue.Add(works))
}

func (r *rig) addTask(memory int32) {
	r.t.Helper()
	w, err := work.Task(&auctioneerv1.TaskStart{
		TaskGuid: "task", Domain: "test", Resources: &workloadv1.Resources{MemoryMb: memory, DiskMb: 1},
		Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
	}, time.Now())
	require.NoError(r.t, err)
	require.NoError(r.t, r.queue.Add([]*work.Work{w}))
}

func indices(n int32) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

func lrpsOn(all []*simulationtest.Cell) map[string]int {
	out := map[string]int{}
	for _, c := range all {
		if n, _ := c.Holds(); n > 0 {
			out[c.ID] = n
		}
	}
	return out
}

func total(counts map[string]int) int {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

func (r *rig) idle() bool {
	waiting, held, taken := r.queue.Lengths()
	return waiting+held+taken == 0
}

// TestLoopLeavesReservedWorkWhereItIs asks again for what a cell is about to begin with, as the BBS does after a while, and for
// what had begun and ended before it was asked for again.
func TestLoopLeavesReservedWorkWhereItIs(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	r := startRig(t, world, weight)

	r.addLRP(lrp("app", 1, 0))
	r.eventually("placed", func() bool { return total(lrpsOn(all)) == 1 && r.idle() })
	placed := lrpsOn(all)
	for range 3 {
		r.addLRP(lrp("app", 1, 0))
		r.eventually("settled", r.idle)
		require.Equal(t, placed, lrpsOn(all), "the other cell, which is emptier, must not get it too")
	}
	require.InDelta(t, 3, testutil.ToFloat64(r.loop.metrics.reserved), 0)

	holder := all[0]
	if placed[holder.ID] == 0 {
		holder = all[1]
	}
	holder.Clear() // it began and crashed, and the auctioneer has not asked since
	r.addLRP(lrp("app", 1, 0))
	r.eventually("placed anew, at once", func() bool { return total(lrpsOn(all)) == 1 && r.idle() })
	require.InDelta(t, 3, testutil.ToFloat64(r.loop.metrics.reserved), 0)

	all[0].RunAll()
	all[1].RunAll()
	r.addLRP(lrp("app", 1, 0))
	r.eventually("a place beside an instance that runs", func() bool { return total(lrpsOn(all)) == 2 && r.idle() })
}

var weight = auction.Options{StartingWeight: 0.25}

func TestLoopPlacesInstancesAndTasks(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(4)
	r := startRig(t, world, weight)
	r.addLRP(lrp("app", 1, indices(40)...))
	r.addTask(5)
	r.eventually("all is placed", func() bool { return total(lrpsOn(all)) == 40 && r.idle() })
	want := map[string]int{"cell-000": 10, "cell-001": 10, "cell-002": 10, "cell-003": 10}
	if diff := cmp.Diff(want, lrpsOn(all)); diff != "" {
		t.Errorf("instances by cell (-want +got):\n%s", diff)
	}
	tasks := 0
	for _, c := range all {
		_, n := c.Holds()
		tasks += n
	}
	require.Equal(t, 1, tasks)
	require.InEpsilon(t, 40, testutil.ToFloat64(r.loop.metrics.lrpStarted), 1e-9)
	require.InEpsilon(t, 1, testutil.ToFloat64(r.loop.metrics.taskStarted), 1e-9)
}

func TestLoopPlacesDuplicatesOnce(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(3)
	release := make(chan struct{})
	for _, c := range all {
		c.OnState(func(context.Context) error { <-release; return nil })
	}
	r := startRig(t, world, weight)
	r.addLRP(lrp("app", 1, 0))
	r.addLRP(lrp("app", 2, 0))
	r.addLRP(lrp("app", 3, 0))
	close(release)
	r.eventually("one is placed", r.idle)
	require.Equal(t, 1, total(lrpsOn(all)))
}

func TestLoopReportsRefusals(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	world.AddCells(2)
	r := startRig(t, world, weight)
	r.addLRP(lrp("big", 101, 0))
	other := lrp("odd", 1, 0)
	other.Placement = &workloadv1.PlacementConstraint{RootFs: "preloaded:other"}
	r.addLRP(other)
	r.addTask(200)
	r.eventually("the refusals are told", func() bool {
		return world.BBS.Failure("big", 0) != "" && world.BBS.Failure("odd", 0) != "" && world.BBS.Reports() >= 2
	})
	require.Equal(t, "insufficient resources: memory", world.BBS.Failure("big", 0))
	require.Equal(t, "found no compatible cell for required rootfs", world.BBS.Failure("odd", 0))
	world.BBS.Locked(func(b *simulationtest.BBS) {
		require.Equal(t, []string{"insufficient resources: memory"}, b.Rejections["task"])
	})
	require.True(t, r.idle())
}

func TestLoopWithoutCells(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	var states atomic.Int32
	all[0].OnState(func(context.Context) error {
		states.Add(1)
		return status.Error(codes.Internal, "broken")
	})
	r := startRig(t, world, weight)
	r.addLRP(lrp("app", 1, 0))
	r.eventually("the refusal is told", func() bool { return world.BBS.Failure("app", 0) != "" })
	require.Equal(t, "unable to communicate to compatible cells", world.BBS.Failure("app", 0))
	require.Greater(t, states.Load(), int32(1), "it looks again before it gives up")

	// The instance is kept, so that it need not be asked for again; a task is not.
	r.addTask(1)
	r.eventually("the task is rejected", func() bool {
		var n int
		world.BBS.Locked(func(b *simulationtest.BBS) { n = len(b.Rejections["task"]) })
		return n == 1
	})
	all[0].OnState(nil)
	r.eventually("the instance is placed when the cell answers", r.idle)
	require.Equal(t, 1, total(lrpsOn(all)))
}

func TestLoopPlacesRefusedWorkElsewhereAtOnce(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	r := startRig(t, world, weight)
	r.addLRP(lrp("first", 1, 0))
	r.eventually("the states are warm", r.idle)

	// Cell 0 fills up behind the auctioneer's back.
	all[0].Change(func(s *repv1.StateResponse) { s.AvailableResources.MemoryMb = 0 })
	for i := range 6 {
		r.addLRP(lrp(fmt.Sprintf("app-%d", i), 10, 0))
	}
	r.eventually("all is placed", r.idle)
	require.Equal(t, 7, total(lrpsOn(all)))
	require.Equal(t, 0, world.BBS.Reports(), "nobody was told of a refusal")
}

func TestLoopTellsWhatTheCellSaid(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	r := startRig(t, world, weight)
	r.addLRP(lrp("first", 1, 0))
	r.eventually("the states are warm", r.idle)
	// The cell says that it takes work, and refuses it.
	all[0].OnPerform(func(_ context.Context, perform func()) error {
		all[0].Change(func(s *repv1.StateResponse) { s.Evacuating = true })
		perform()
		all[0].Change(func(s *repv1.StateResponse) { s.Evacuating = false })
		return nil
	})
	r.addLRP(lrp("app", 1, 0))
	r.eventually("the refusal is told", func() bool { return world.BBS.Failure("app", 0) != "" })
	require.Equal(t, "the cell is evacuating", world.BBS.Failure("app", 0))
}

// TestLoopTellsFailuresFromRefusals: the only cell fails each Perform, so there is no lack of resources to tell of.
func TestLoopTellsFailuresFromRefusals(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	all[0].OnPerform(func(context.Context, func()) error { return status.Error(codes.Internal, "broken") })
	r := startRig(t, world, weight)
	r.addLRP(lrp("app", 1, 0))
	r.eventually("the refusal is told", func() bool { return world.BBS.Failure("app", 0) != "" })
	require.Equal(t, "unable to communicate to compatible cells", world.BBS.Failure("app", 0))
	require.InDelta(t, 0, testutil.ToFloat64(r.loop.metrics.lrpStarted), 0)
}

func TestLoopNoticesRoomThatCameFree(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	r := startRig(t, world, weight)
	r.addLRP(lrp("first", 100, 0))
	r.eventually("the cell is full", r.idle)
	all[0].Clear()
	r.addLRP(lrp("second", 100, 0)) // the warm state says that there is no room
	r.eventually("it is placed", r.idle)
	require.Equal(t, 1, total(lrpsOn(all)))
	require.Empty(t, world.BBS.Failure("second", 0))
}

func TestLoopPerformThatFailed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		hook func(ctx context.Context, perform func()) error
		// dead: the cell does not answer State any more either.
		dead             bool
		onFirst          int // instances that the failing cell has in the end
		started, unknown float64
	}{
		"it was not done: placed elsewhere": {
			hook: func(context.Context, func()) error { return status.Error(codes.Internal, "broken") },
		},
		"it was done, as the cell can tell": {
			hook: func(_ context.Context, perform func()) error {
				perform()
				return status.Error(codes.Internal, "broken after the fact")
			},
			onFirst: 1,
		},
		"the cell is gone: unknown, and placed elsewhere": {
			hook: func(context.Context, func()) error { return status.Error(codes.Internal, "broken") },
			dead: true, unknown: 1,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := simulationtest.New(t)
			all := world.AddCells(2)
			// The second cell is the worse one, so that the first is tried first.
			all[1].Change(func(s *repv1.StateResponse) { s.StartingContainerCount = 4 })
			all[0].OnPerform(func(ctx context.Context, perform func()) error {
				if tt.dead {
					all[0].OnState(func(context.Context) error { return status.Error(codes.Internal, "broken") })
				}
				return tt.hook(ctx, perform)
			})
			r := startRig(t, world, weight)
			r.addLRP(lrp("app", 1, 0))
			r.eventually("it is placed", r.idle)
			first, _ := all[0].Holds()
			second, _ := all[1].Holds()
			require.Equal(t, [2]int{tt.onFirst, 1 - tt.onFirst}, [2]int{first, second})
			require.InDelta(t, 1, testutil.ToFloat64(r.loop.metrics.lrpStarted), 0)
			require.InDelta(t, tt.unknown, testutil.ToFloat64(r.loop.metrics.lrpUnknown), 0)
		})
	}
}

func TestLoopSlowCellDelaysNobody(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(3)
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	r := startRig(t, world, weight)
	r.addLRP(lrp("warm", 1, 0))
	r.eventually("the states are warm", r.idle)

	all[0].OnState(hang)
	all[0].OnPerform(func(ctx context.Context, _ func()) error { return hang(ctx) })
	r.addLRP(lrp("first", 1, indices(6)...))
	// The cell's share is without an answer until the Perform ends; other work goes on.
	r.eventually("the others took theirs", func() bool { return total(lrpsOn(all)) >= 4 })
	begun := time.Now()
	for i := range 5 {
		r.addLRP(lrp(fmt.Sprintf("next-%d", i), 1, 0))
		r.eventually("it is placed meanwhile", func() bool {
			waiting, _, _ := r.queue.Lengths()
			return waiting == 0 && total(lrpsOn(all[1:])) >= i+1+3
		})
	}
	require.Less(t, time.Since(begun), 2*time.Second, "nobody waited for the hanging cell")
	r.eventually("its share is placed elsewhere in the end", r.idle)
	require.GreaterOrEqual(t, total(lrpsOn(all)), 12)
}

func TestLoopHoldsWorkAtTheStartLimit(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options auction.Options
		perCell int32
	}{
		"over all cells":    {options: auction.Options{StartingWeight: 0.25, InFlightLimit: 4}},
		"of the cells each": {options: weight, perCell: 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := simulationtest.New(t)
			all := world.AddCells(2)
			for _, c := range all {
				c.Change(func(s *repv1.StateResponse) { s.StartingContainerLimit = tt.perCell })
			}
			r := startRig(t, world, tt.options)
			r.addLRP(lrp("app", 1, indices(6)...))
			r.addTask(1)
			r.eventually("three are held back", func() bool { _, held, taken := r.queue.Lengths(); return held == 3 && taken == 0 })
			r.eventually("the wait is told", func() bool { return world.BBS.Reports() > 0 })
			require.Equal(t, "waiting to start instance: reached in-flight start limit", world.BBS.Failure("app", 5))
			world.BBS.Locked(func(b *simulationtest.BBS) { require.Empty(t, b.Rejections, "a waiting task is not rejected") })
			for _, c := range all {
				c.RunAll()
			}
			r.eventually("the rest is placed as starts finish", r.idle)
			require.Equal(t, 6, total(lrpsOn(all)))
		})
	}
}

func TestLoopWithoutTheLockPlacesNothing(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(1)
	r := startRig(t, world, weight)
	r.active.Store(false)
	r.addLRP(lrp("app", 1, 0))
	require.ErrorIs(t, r.loop.batch(t.Context(), true), errNotActive)
	require.Empty(t, lrpsOn(all))
	r.active.Store(true)
	r.eventually("it is placed when the lock is back", r.idle)
	require.Equal(t, 1, total(lrpsOn(all)))
}

func TestLoopOutlivesTheBBS(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Fail = status.Error(codes.Internal, "broken") })
	r := startRig(t, world, weight)
	r.addLRP(lrp("app", 1, 0))
	r.addLRP(lrp("big", 500, 0))
	r.eventually("the work is kept", func() bool { waiting, _, _ := r.queue.Lengths(); return waiting == 2 })
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Fail = nil })
	r.eventually("it is placed", r.idle)
	require.Equal(t, 1, total(lrpsOn(all)))

	// Known cells serve on without the list; reports are kept.
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Fail = status.Error(codes.Internal, "broken again") })
	r.addLRP(lrp("app", 1, 1))
	r.addLRP(lrp("late", 500, 0))
	r.eventually("it is placed on known cells", r.idle)
	require.Equal(t, 2, total(lrpsOn(all)))
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Fail = nil })
	r.eventually("the report arrives", func() bool { return world.BBS.Failure("late", 0) != "" })
}

func TestRecover(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	all := world.AddCells(2)
	world.BBS.Locked(func(b *simulationtest.BBS) {
		start := lrp("app", 1, 0, 1, 2)
		b.Unplaced = &bbsv1.ListUnplacedResponse{
			Lrps: []*bbsv1.ListUnplacedResponse_UnplacedLRP{
				{ProcessGuid: "app", Domain: "test", Indices: start.GetIndices(), Resources: start.GetResources(), Placement: start.GetPlacement()},
				{ProcessGuid: "bad"},
			},
			Tasks: []*bbsv1.ListUnplacedResponse_UnplacedTask{{TaskGuid: "task", Placement: start.GetPlacement()}},
		}
		b.Fail = status.Error(codes.Internal, "broken")
	})
	r := startRig(t, world, weight)
	recovered := make(chan error, 1)
	go func() {
		recovered <- Recover(t.Context(), bbsv1.NewPlacementClient(world.DialBBS()), r.queue, telemetry.Discard().Log)
	}()
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Fail = nil })
	require.NoError(t, <-recovered)
	r.eventually("all is placed", r.idle)
	require.Equal(t, 3, total(lrpsOn(all)))
}

// slowFleet has two cells, takes its time to ask some of them, and notes how old their states may be.
type slowFleet struct {
	Fleet

	takes   time.Duration
	asked   int
	allowed time.Duration
}

func (f *slowFleet) Snapshot(_ context.Context, since time.Time) (cells.Snapshot, error) {
	f.allowed = time.Since(since)
	time.Sleep(f.takes) //nolint:forbidigo // the clock of the bubble
	return cells.Snapshot{Cells: make([]auction.Cell, 2), Open: 2, Asked: f.asked}, nil
}

func TestStatesMayBeOlderWhereAskingTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fleet := &slowFleet{}
		loop := &Loop{cfg: Config{Fleet: fleet, StateMaxAge: time.Second, StaleLimit: 10 * time.Second}}
		for _, batch := range []struct {
			takes   time.Duration
			asked   int
			allowed time.Duration
		}{
			{takes: 100 * time.Millisecond, asked: 2, allowed: time.Second},
			{takes: time.Second, asked: 2, allowed: time.Second},
			{takes: time.Minute, asked: 1, allowed: 3 * time.Second}, // says nothing of all of them
			{takes: 4 * time.Second, asked: 2, allowed: 3 * time.Second},
			{takes: 0, asked: 2, allowed: 5 * time.Second},
			{takes: 0, asked: 0, allowed: time.Second},
		} {
			fleet.takes, fleet.asked = batch.takes, batch.asked
			_, err := loop.cellsFor(t.Context(), time.Now())
			require.NoError(t, err)
			require.Equal(t, batch.allowed, fleet.allowed)
		}
	})
}

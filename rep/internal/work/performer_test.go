package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor"
	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/holdings"
	"diego.internal/rep/internal/translate"
)

const stack = "preloaded:cflinuxfs4"

// newPerformer has the real executor on a cell of 1,000 MiB of memory, 1,000 MiB of disk and 9 containers.
func newPerformer(t *testing.T) (*Performer, *executor.Client) {
	t.Helper()
	exec, err := executor.Open(t.Context(), executor.Config{
		CellID: "cell-1", StateDir: t.TempDir(), MemoryMB: 1000, DiskMB: 1000,
		Engine: simulated.New(simulated.Config{Capacity: garden.Capacity{MaxContainers: 10}}),
	})
	require.NoError(t, err)
	t.Cleanup(exec.Close)
	named := 0
	providers := Providers([]string{"cflinuxfs4"}, nil)
	return &Performer{
		CellID: "cell-1", Executor: exec, Holds: holdings.New(exec).Holds, Evacuating: func() bool { return false }, Log: slog.New(slog.DiscardHandler),
		RootFS: func(uri string) bool { return Supports(providers, uri) },
		NewGUID: func() string {
			named++
			return fmt.Sprintf("container-%d", named)
		},
	}, exec
}

func lrpWork(process string, index, memory, disk int32) *repv1.PerformRequest_LRPWork {
	return &repv1.PerformRequest_LRPWork{
		Key:          &workloadv1.ActualLRPKey{ProcessGuid: process, Index: index, Domain: "apps"},
		Resources:    &workloadv1.Resources{MemoryMb: memory, DiskMb: disk},
		Placement:    &workloadv1.PlacementConstraint{RootFs: stack, PlacementTags: []string{"tag"}},
		DefinitionId: "definition", TraceId: "trace",
	}
}

func taskWork(guid string, memory int32) *repv1.PerformRequest_TaskWork {
	return &repv1.PerformRequest_TaskWork{
		TaskGuid: guid, Domain: "tasks", Resources: &workloadv1.Resources{MemoryMb: memory}, Placement: &workloadv1.PlacementConstraint{RootFs: stack}, TraceId: "trace",
	}
}

// perform asks and returns the answers as texts: empty for what is accepted.
func perform(t *testing.T, p *Performer, req *repv1.PerformRequest) (lrps, tasks []string) {
	t.Helper()
	req.CellId = "cell-1"
	gotLRPs, gotTasks, err := p.Perform(t.Context(), req)
	require.NoError(t, err)
	texts := func(results []*repv1.WorkResult) []string {
		var out []string
		for _, result := range results {
			require.Equal(t, result.GetAccepted(), result.GetReason() == "", "either accepted or a reason: %v", result)
			out = append(out, result.GetReason())
		}
		return out
	}
	return texts(gotLRPs), texts(gotTasks)
}

func TestPerformReserves(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	lrps, tasks := perform(t, p, &repv1.PerformRequest{
		Lrps: []*repv1.PerformRequest_LRPWork{lrpWork("a", 3, 100, 50)}, Tasks: []*repv1.PerformRequest_TaskWork{taskWork("t", 10)},
	})
	require.Equal(t, []string{""}, lrps)
	require.Equal(t, []string{""}, tasks)
	require.Equal(t, executor.Resources{MemoryMB: 890, DiskMB: 950, Containers: 7}, exec.RemainingResources())
	lrp, err := exec.GetContainer("container-1")
	require.NoError(t, err)
	key, instance, err := translate.LRPOf(lrp, "cell-1")
	require.NoError(t, err)
	require.Equal(t, "a", key.GetProcessGuid())
	require.Equal(t, int32(3), key.GetIndex())
	require.Equal(t, "apps", key.GetDomain())
	require.Equal(t, "container-1", instance.GetInstanceGuid(), "a container of an instance has its guid")
	require.Equal(t, []string{"tag"}, translate.Placement(lrp).GetPlacementTags())
	require.Equal(t, "definition", lrp.Tags[translate.TagDefinitionID])
	task, err := exec.GetContainer("container-2")
	require.NoError(t, err)
	require.Equal(t, "t", task.Tags[translate.TagTaskGUID], "the container of a task has a guid of its own")
	for _, c := range []executor.Container{lrp, task} {
		require.Equal(t, executor.StateReserved, c.State)
		require.Equal(t, "trace", c.Tags[translate.TagTraceID])
	}
}

func TestPerformAsksForTheLargestFirst(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	lrps, tasks := perform(t, p, &repv1.PerformRequest{
		Lrps:  []*repv1.PerformRequest_LRPWork{lrpWork("small", 0, 100, 0), lrpWork("large", 0, 800, 0), lrpWork("middle", 0, 300, 0)},
		Tasks: []*repv1.PerformRequest_TaskWork{taskWork("t", 200)},
	})
	require.Equal(t, []string{"insufficient resources: memory", "", "insufficient resources: memory"}, lrps, "answers are in the order of the request")
	require.Equal(t, []string{""}, tasks)
	require.Len(t, exec.ListContainers(), 2)
}

func TestPerformRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Performer, *executor.Client, *repv1.PerformRequest_LRPWork)
		want   string
	}{
		"memory": {func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) { w.Resources.MemoryMb = 1001 }, "insufficient resources: memory"},
		"disk":   {func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) { w.Resources.DiskMb = 1001 }, "insufficient resources: disk"},
		"several": {
			func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) {
				w.Resources = &workloadv1.Resources{MemoryMb: 1001, DiskMb: 1001}
			}, "insufficient resources: memory, disk",
		},
		"less than nothing": {
			func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) { w.Resources.MemoryMb = -1 }, "insufficient resources",
		},
		"slots": {
			func(_ *Performer, exec *executor.Client, _ *repv1.PerformRequest_LRPWork) {
				for i := range 9 {
					exec.AllocateContainers(context.Background(), []executor.AllocationRequest{{GUID: fmt.Sprintf("taken-%d", i)}})
				}
			}, "insufficient resources: containers",
		},
		"evacuation": {func(p *Performer, _ *executor.Client, _ *repv1.PerformRequest_LRPWork) {
			p.Evacuating = func() bool { return true }
		}, "cell is evacuating"},
		"health": {
			func(_ *Performer, exec *executor.Client, _ *repv1.PerformRequest_LRPWork) {
				exec.SetHealthy(errors.New("no answer"))
			}, "container engine is unhealthy",
		},
		"another stack": {func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) {
			w.Placement.RootFs = "preloaded:other"
		}, "preloaded rootfs path not found"},
		"another scheme": {func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) {
			w.Placement.RootFs = "docker:///a"
		}, "preloaded rootfs path not found"},
		"no stack": {func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) { w.Placement = nil }, "preloaded rootfs path not found"},
		"volumes": {
			func(_ *Performer, _ *executor.Client, w *repv1.PerformRequest_LRPWork) {
				w.Placement.VolumeDrivers = []string{"nfs"}
			},
			"found no compatible cell with required volume drivers",
		},
		"a guid that is taken": {
			func(p *Performer, exec *executor.Client, _ *repv1.PerformRequest_LRPWork) {
				exec.AllocateContainers(context.Background(), []executor.AllocationRequest{{GUID: "same"}})
				p.NewGUID = func() string { return "same" }
			}, "container guid not available",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, exec := newPerformer(t)
			work := lrpWork("a", 0, 10, 10)
			test.change(p, exec, work)
			before := exec.RemainingResources()
			lrps, _ := perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{work}})
			require.Equal(t, []string{test.want}, lrps)
			require.Equal(t, before, exec.RemainingResources(), "what is refused takes nothing")
		})
	}
}

func TestPerformForAnotherCell(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	_, _, err := p.Perform(t.Context(), &repv1.PerformRequest{CellId: "cell-2", Tasks: []*repv1.PerformRequest_TaskWork{taskWork("t", 1)}})
	require.ErrorIs(t, err, ErrWrongCell)
	require.ErrorContains(t, err, "workload cell ID does not match this cell")
	require.Empty(t, exec.ListContainers())
}

// TestPerformMayBeRepeated offers the same work again, by itself and twice in one request.
func TestPerformMayBeRepeated(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	request := &repv1.PerformRequest{
		Lrps:  []*repv1.PerformRequest_LRPWork{lrpWork("a", 0, 600, 0), lrpWork("a", 0, 600, 0)},
		Tasks: []*repv1.PerformRequest_TaskWork{taskWork("t", 100), taskWork("t", 100)},
	}
	for range 2 {
		lrps, tasks := perform(t, p, request)
		require.Equal(t, []string{"", ""}, lrps)
		require.Equal(t, []string{"", ""}, tasks)
		require.Len(t, exec.ListContainers(), 2)
	}
	// What the cell holds stays accepted when it takes nothing more.
	p.Evacuating = func() bool { return true }
	request.Lrps = append(request.Lrps, lrpWork("b", 0, 1, 0))
	lrps, tasks := perform(t, p, request)
	require.Equal(t, []string{"", "", "cell is evacuating"}, lrps)
	require.Equal(t, []string{"", ""}, tasks)

	// An ended container is no instance: the next one of its index is another.
	p.Evacuating = func() bool { return false }
	for _, c := range exec.ListContainers() {
		require.NoError(t, exec.StopContainer(t.Context(), c.GUID))
	}
	lrps, _ = perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{lrpWork("a", 0, 10, 0)}})
	require.Equal(t, []string{""}, lrps)
	require.Len(t, exec.ListContainers(), 3)
}

// TestPerformReportsARefusedTwinAsRefused offers one instance twice, neither of which fits.
func TestPerformReportsARefusedTwinAsRefused(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	lrps, _ := perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{lrpWork("a", 0, 2000, 0), lrpWork("a", 0, 2000, 0)}})
	require.Equal(t, []string{"insufficient resources: memory", "insufficient resources: memory"}, lrps)
	require.Empty(t, exec.ListContainers())
}

// TestPerformConcurrently offers the same instances from many sides at once: none is reserved twice.
func TestPerformConcurrently(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{lrpWork("a", 0, 1, 0), lrpWork("a", 1, 1, 0), lrpWork("b", 0, 1, 0)}})
		})
	}
	group.Wait()
	require.Len(t, exec.ListContainers(), 3)
}

// TestPerformProperties offers anything: each item is answered once, in order, and what is accepted is what is held.
func TestPerformProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		fake := &ledger{memory: 1000}
		p := &Performer{
			CellID: "cell-1", Executor: fake, Holds: fake.holds, Evacuating: func() bool { return false }, Log: slog.New(slog.DiscardHandler), NewGUID: fake.name,
			RootFS: func(uri string) bool { return uri == stack },
		}
		for range rapid.IntRange(1, 3).Draw(rt, "requests") {
			request := &repv1.PerformRequest{CellId: "cell-1"}
			for range rapid.IntRange(0, 6).Draw(rt, "lrps") {
				request.Lrps = append(request.Lrps, lrpWork("p", rapid.Int32Range(0, 4).Draw(rt, "index"), rapid.Int32Range(0, 600).Draw(rt, "memory"), 0))
			}
			for range rapid.IntRange(0, 3).Draw(rt, "tasks") {
				request.Tasks = append(request.Tasks, taskWork(fmt.Sprint(rapid.IntRange(0, 3).Draw(rt, "task")), rapid.Int32Range(0, 600).Draw(rt, "memory")))
			}
			lrps, tasks, err := p.Perform(t.Context(), request)
			if err != nil || len(lrps) != len(request.GetLrps()) || len(tasks) != len(request.GetTasks()) {
				rt.Fatalf("%d and %d answers to %v: %v", len(lrps), len(tasks), request, err)
			}
			for i, result := range lrps {
				held := fake.holds(translate.Identity(translate.LRPTags(request.GetLrps()[i].GetKey(), "", "", nil)))
				if result.GetAccepted() != held {
					rt.Fatalf("%v is answered by %v, but held is %v", request.GetLrps()[i], result, held)
				}
			}
		}
		if fake.memory < 0 {
			rt.Fatalf("%d MiB too much are reserved", -fake.memory)
		}
	})
}

// ledger is an executor that only counts memory.
type ledger struct {
	named  int
	memory int
	held   []executor.Container
}

func (l *ledger) name() string {
	l.named++
	return fmt.Sprint(l.named)
}

func (l *ledger) Healthy() (bool, error) { return true, nil }

func (l *ledger) VolumeDrivers() []string { return []string{"local", "nfs"} }

func (l *ledger) AllocateContainers(_ context.Context, requests []executor.AllocationRequest) (failures []executor.AllocationFailure) {
	for _, r := range requests {
		if r.Resources.MemoryMB > l.memory {
			failures = append(failures, executor.AllocationFailure{Request: r, Err: executor.ErrInsufficientResources})
			continue
		}
		l.memory -= r.Resources.MemoryMB
		l.held = append(l.held, executor.Container{GUID: r.GUID, State: executor.StateReserved, Tags: r.Tags})
	}
	return failures
}

func (l *ledger) holds(id string) bool {
	return slices.ContainsFunc(l.held, func(c executor.Container) bool { return translate.Identity(c.Tags) == id })
}

func TestPerformTakesWorkForItsVolumeDrivers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		drivers []string
		refused string
	}{
		"a driver of the cell":          {drivers: []string{"nfs"}},
		"all drivers of the cell":       {drivers: []string{"nfs", "local", "nfs"}},
		"a driver that is not here":     {drivers: []string{"smb"}, refused: ReasonVolume},
		"one of two that is not here":   {drivers: []string{"nfs", "smb"}, refused: ReasonVolume},
		"no driver needs none":          {},
		"names are compared as a whole": {drivers: []string{"nf"}, refused: ReasonVolume},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := &ledger{memory: 1000}
			p := &Performer{CellID: "cell-1", Executor: fake, Holds: fake.holds, NewGUID: fake.name, Evacuating: func() bool { return false }, RootFS: func(string) bool { return true }}
			work := lrpWork("p", 0, 10, 0)
			work.Placement.VolumeDrivers = test.drivers
			task := taskWork("t", 10)
			task.Placement.VolumeDrivers = test.drivers
			lrps, tasks := perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{work}, Tasks: []*repv1.PerformRequest_TaskWork{task}})
			require.Equal(t, []string{test.refused}, lrps)
			require.Equal(t, []string{test.refused}, tasks)
		})
	}
}

func TestSupports(t *testing.T) {
	t.Parallel()
	providers := Providers([]string{"b", "a"}, []string{"docker"})
	require.Equal(t, []string{"a", "b"}, providers[0].GetNames())
	for uri, want := range map[string]bool{
		"preloaded:a": true, "preloaded:c": false, "docker:///library/busybox": true, "a": false, "": false, "preloaded": false, "other:a": false,
	} {
		require.Equal(t, want, Supports(providers, uri), uri)
	}
}

// asked remembers what the executor was asked for.
type asked struct {
	*executor.Client

	requests []executor.AllocationRequest
}

func (a *asked) AllocateContainers(ctx context.Context, requests []executor.AllocationRequest) []executor.AllocationFailure {
	a.requests = append(a.requests, requests...)
	return a.Client.AllocateContainers(ctx, requests)
}

func TestInstancesMayHaveProxies(t *testing.T) {
	t.Parallel()
	p, exec := newPerformer(t)
	spy := &asked{Client: exec}
	p.Executor = spy
	perform(t, p, &repv1.PerformRequest{Lrps: []*repv1.PerformRequest_LRPWork{lrpWork("a", 0, 100, 50)}, Tasks: []*repv1.PerformRequest_TaskWork{taskWork("t", 10)}})
	proxied := map[string]bool{}
	for _, request := range spy.requests {
		proxied[request.Tags[translate.TagLifecycle]] = request.Proxied
	}
	require.Equal(t, map[string]bool{translate.LifecycleLRP: true, translate.LifecycleTask: false}, proxied)
}

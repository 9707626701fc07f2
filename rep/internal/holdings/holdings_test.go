package holdings

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// cell is an executor that only remembers. It has no differences to tell when it is forgetful.
type cell struct {
	containers map[string]executor.Container
	changed    []string // guids in the order of their changes
	forgetful  bool
}

func (c *cell) put(e executor.Container) {
	c.containers[e.GUID] = e
	c.changed = append(c.changed, e.GUID)
}

func (c *cell) drop(guid string) {
	delete(c.containers, guid)
	c.changed = append(c.changed, guid)
}

func (c *cell) Changes(since uint64) (guids []string, number uint64, partial bool) {
	number = uint64(len(c.changed)) + 1
	if c.forgetful || since == 0 {
		return slices.Collect(maps.Keys(c.containers)), number, false
	}
	return slices.Compact(slices.Sorted(slices.Values(c.changed[since-1:]))), number, true
}

func (c *cell) GetContainer(guid string) (executor.Container, error) {
	e, found := c.containers[guid]
	if !found {
		return executor.Container{}, executor.ErrContainerNotFound
	}
	return e, nil
}

func lrp(guid string, index int32, state executor.State) executor.Container {
	key := &workloadv1.ActualLRPKey{ProcessGuid: "app", Index: index, Domain: "apps"}
	return executor.Container{
		GUID: guid, State: state, Tags: translate.LRPTags(key, guid, "definition", &workloadv1.PlacementConstraint{RootFs: "preloaded:a"}),
		Resources: executor.ContainerResources{MemoryMB: 64},
	}
}

func task(guid, name string, state executor.State) executor.Container {
	return executor.Container{GUID: guid, State: state, Tags: translate.TaskTags(name, "tasks", nil)}
}

func TestHoldingsTellOfEachContainer(t *testing.T) {
	t.Parallel()
	c := &cell{containers: map[string]executor.Container{}}
	h := New(c)
	stopping := lrp("b", 2, executor.StateRunning)
	stopping.Result.Stopped = true
	unread := lrp("d", 3, executor.StateRunning)
	unread.Tags[translate.TagProcessIndex] = "three"
	for _, e := range []executor.Container{lrp("a", 1, executor.StateReserved), stopping, task("c", "t", executor.StateCompleted), unread} {
		c.put(e)
	}
	placement, megabytes := &workloadv1.PlacementConstraint{RootFs: "preloaded:a"}, &workloadv1.Resources{MemoryMb: 64}
	want := []*Entry{
		{GUID: "a", Identity: "lrp/app/1", State: executor.StateReserved, LRP: &repv1.LRP{
			InstanceGuid: "a", Key: &workloadv1.ActualLRPKey{ProcessGuid: "app", Index: 1, Domain: "apps"}, Resources: megabytes, Placement: placement,
			State: repv1.ContainerState_CONTAINER_STATE_RESERVED,
		}},
		{GUID: "b", Identity: "lrp/app/2", State: executor.StateRunning, Ending: true, LRP: &repv1.LRP{
			InstanceGuid: "b", Key: &workloadv1.ActualLRPKey{ProcessGuid: "app", Index: 2, Domain: "apps"}, Resources: megabytes, Placement: placement,
			State: repv1.ContainerState_CONTAINER_STATE_RUNNING,
		}},
		{GUID: "c", Identity: "task/t", State: executor.StateCompleted, Ending: true, Task: &repv1.Task{
			TaskGuid: "t", ContainerGuid: "c", Domain: "tasks", Resources: &workloadv1.Resources{}, State: repv1.ContainerState_CONTAINER_STATE_SHUTDOWN,
		}},
		{GUID: "d", Identity: "lrp/app/three", State: executor.StateRunning, LRP: &repv1.LRP{
			InstanceGuid: "d", Resources: megabytes, Placement: placement, State: repv1.ContainerState_CONTAINER_STATE_RUNNING,
		}},
	}
	got := slices.SortedFunc(h.All(), func(a, b *Entry) int { return strings.Compare(a.GUID, b.GUID) })
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	_, starting := h.Look()
	require.Equal(t, 1, starting)
	require.True(t, h.Holds("lrp/app/1"))
	require.False(t, h.Holds("task/t"), "it has ended")
	require.False(t, h.Holds("lrp/app/7"))
}

// TestHoldingsFollowTheCell holds what is kept, and what somebody knows who is told only differences, against the containers.
func TestHoldingsFollowTheCell(t *testing.T) {
	t.Parallel()
	states := []executor.State{executor.StateReserved, executor.StateInitializing, executor.StateCreated, executor.StateRunning, executor.StateCompleted}
	rapid.Check(t, func(t *rapid.T) {
		c := &cell{containers: map[string]executor.Container{}}
		h := New(c)
		told, number := map[string]*Entry{}, uint64(0)
		check := func() {
			kept := map[string]executor.State{}
			for e := range h.All() {
				kept[e.GUID] = e.State
			}
			truth, starting, live := map[string]executor.State{}, 0, map[string]bool{}
			for guid, e := range c.containers {
				truth[guid] = e.State
				if e.State != executor.StateRunning && e.State != executor.StateCompleted {
					starting++
				}
				if e.State != executor.StateCompleted {
					live[translate.Identity(e.Tags)] = true
				}
			}
			require.Equal(t, truth, kept)
			_, counted := h.Look()
			require.Equal(t, starting, counted)
			for i := range 3 {
				for _, identity := range []string{fmt.Sprint("lrp/app/", i), fmt.Sprint("task/", i)} {
					require.Equal(t, live[identity], h.Holds(identity), identity)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"put": func(t *rapid.T) {
				guid, i, state := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "guid")), rapid.Int32Range(0, 2).Draw(t, "index"), rapid.SampledFrom(states).Draw(t, "state")
				if rapid.Bool().Draw(t, "task") {
					c.put(task(guid, fmt.Sprint(i), state))
				} else {
					c.put(lrp(guid, i, state))
				}
			},
			"drop":   func(t *rapid.T) { c.drop(fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "guid"))) },
			"forget": func(*rapid.T) { c.forgetful = !c.forgetful },
			"tell": func(*rapid.T) {
				news := h.Since(number)
				if !news.Partial {
					clear(told)
				}
				for _, e := range news.Changed {
					told[e.GUID] = e
				}
				for _, guid := range news.Gone {
					delete(told, guid)
				}
				number = news.Number
				require.Len(t, told, len(c.containers))
				for guid, e := range c.containers {
					require.Equal(t, e.State, told[guid].State)
				}
			},
		})
	})
}

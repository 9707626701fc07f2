package evacuation

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/rep/internal/translate"
)

// cell is what an evacuator sees of one.
type cell struct {
	mu         sync.Mutex
	containers []executor.Container // guarded by mu
	abandoned  bool                 // guarded by mu
	abandonErr error                // guarded by mu
	untold     int                  // guarded by mu
}

func (c *cell) unknown() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.untold
}

func (c *cell) know(untold int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untold = untold
}

func (c *cell) list() []executor.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.containers
}

// hold makes the cell hold so many LRPs and tasks.
func (c *cell) hold(lrps, tasks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers = nil
	for range lrps {
		c.containers = append(c.containers, executor.Container{Tags: map[string]string{translate.TagLifecycle: translate.LifecycleLRP}})
	}
	for range tasks {
		c.containers = append(c.containers, executor.Container{Tags: map[string]string{translate.TagLifecycle: translate.LifecycleTask}})
	}
}

func (c *cell) abandon(context.Context) (int, error) {
	stranded := len(c.list()) - 1 // one of them is a task
	c.hold(0, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandoned = true
	return stranded, c.abandonErr
}

func (c *cell) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandonErr = err
}

func (c *cell) wasAbandoned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.abandoned
}

// inBubble runs a test with an evacuator that runs; stop ends it and returns what Run did.
func inBubble(t *testing.T, test func(t *testing.T, c *cell, e *Evacuator, stop func() error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cell{}
		e := New(Config{Timeout: 10 * time.Minute, Poll: time.Second, Containers: func() iter.Seq[executor.Container] { return slices.Values(c.list()) }, Untold: c.unknown, Abandon: c.abandon, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		synctest.Wait()
		test(t, c, e, func() error {
			cancel()
			return <-ended
		})
	})
}

// elapse lets time pass in the bubble.
func elapse(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the clock of the bubble
	synctest.Wait()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestEvacuatorWaitsForItsOrder(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *cell, e *Evacuator, stop func() error) {
		t.Helper()
		elapse(time.Hour)
		require.False(t, e.Evacuating())
		require.False(t, isClosed(e.Started()))
		require.False(t, isClosed(e.Done()))
		require.NoError(t, stop())
		require.False(t, isClosed(e.Done()), "the end of the process is no evacuation")
	})
}

func TestEvacuatorEndsWhenTheCellIsEmpty(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *cell, e *Evacuator, stop func() error) {
		t.Helper()
		c.hold(2, 1)
		e.Begin()
		synctest.Wait()
		require.True(t, e.Evacuating())
		began := time.Now()
		require.Equal(t, Progress{LRPs: 2, Tasks: 1, Untold: 2, Deadline: began.Add(10 * time.Minute)}, e.Progress())
		elapse(time.Minute)
		e.Begin()
		require.Equal(t, began.Add(10*time.Minute), e.Progress().Deadline, "a second order gives no more time")
		c.hold(0, 1)
		elapse(time.Minute)
		require.False(t, isClosed(e.Done()), "a task holds it up")
		c.hold(0, 0)
		elapse(time.Second)
		require.True(t, isClosed(e.Done()))
		require.Equal(t, Progress{Deadline: began.Add(10 * time.Minute), Done: true}, e.Progress())
		require.False(t, c.wasAbandoned())
		require.NoError(t, stop())
	})
}

func TestEvacuatorTellsOfEachContainer(t *testing.T) {
	t.Parallel()
	lrp := func(guid string, state executor.State, stopped bool) executor.Container {
		return executor.Container{GUID: guid, State: state, Result: executor.Result{Stopped: stopped}, Tags: map[string]string{translate.TagLifecycle: translate.LifecycleLRP}}
	}
	e := New(Config{
		Told: func(guid string) bool { return guid == "told" || guid == "stopping" || guid == "ended" },
		Containers: func() iter.Seq[executor.Container] {
			return slices.Values([]executor.Container{
				lrp("new", executor.StateReserved, false), lrp("untold", executor.StateRunning, false), lrp("told", executor.StateRunning, false),
				lrp("stopping", executor.StateRunning, true), lrp("ended", executor.StateCompleted, false),
				{GUID: "task", State: executor.StateRunning, Tags: map[string]string{translate.TagLifecycle: translate.LifecycleTask}},
			})
		},
	})
	steps := map[string]Step{}
	for _, c := range e.Left() {
		steps[c.GUID] = c.Step
	}
	require.Equal(t, map[string]Step{
		"new": StepUntold, "untold": StepUntold, "told": StepReplacing, "stopping": StepStopping, "ended": StepStopping, "task": StepTask,
	}, steps)
	require.Equal(t, Progress{LRPs: 5, Tasks: 1, Untold: 2, Replacing: 1, Stopping: 2}, e.Progress())
}

func TestEvacuatorOfAnEmptyCellEndsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *cell, e *Evacuator, stop func() error) {
		t.Helper()
		e.Begin()
		synctest.Wait()
		require.True(t, isClosed(e.Done()))
		require.NoError(t, stop())
	})
}

func TestEvacuatorGivesUp(t *testing.T) {
	t.Parallel()
	unreachable := errors.New("the bbs is away")
	for name, failure := range map[string]error{"all is told": nil, "the bbs cannot be told": unreachable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, c *cell, e *Evacuator, stop func() error) {
				t.Helper()
				c.fail(failure)
				c.hold(3, 1)
				e.Begin()
				elapse(10*time.Minute - time.Second)
				require.False(t, c.wasAbandoned())
				elapse(2 * time.Second)
				require.True(t, c.wasAbandoned())
				require.True(t, isClosed(e.Done()), "the cell ends all the same")
				p := e.Progress()
				require.True(t, p.Done)
				require.Equal(t, 3, p.Stranded)
				require.ErrorIs(t, stop(), failure)
			})
		})
	}
}

func TestEvacuatorWaitsUntilTheBBSKnows(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *cell, e *Evacuator, stop func() error) {
		t.Helper()
		c.hold(2, 1)
		c.know(2)
		e.Begin()
		elapse(time.Hour)
		require.False(t, c.wasAbandoned(), "nobody would start these instances elsewhere")
		c.know(0)
		elapse(2 * time.Second)
		require.True(t, c.wasAbandoned())
		require.True(t, e.Progress().Done)
		require.NoError(t, stop())
	})
}

func TestEvacuatorThatIsCutOffLeavesEverything(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, c *cell, e *Evacuator, stop func() error) {
		t.Helper()
		c.hold(1, 0)
		e.Begin()
		elapse(time.Minute)
		require.NoError(t, stop())
		require.False(t, c.wasAbandoned())
		require.Len(t, c.list(), 1)
		require.False(t, isClosed(e.Done()))
	})
}

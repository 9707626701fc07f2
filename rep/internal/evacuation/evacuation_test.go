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

	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/rep/internal/holdings"
)

// cell is what an evacuator sees of one.
type cell struct {
	mu         sync.Mutex
	containers []*holdings.Entry // guarded by mu
	abandoned  bool              // guarded by mu
	abandonErr error             // guarded by mu
	untold     int               // guarded by mu
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

func (c *cell) list() []*holdings.Entry {
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
		c.containers = append(c.containers, &holdings.Entry{LRP: &repv1.LRP{}})
	}
	for range tasks {
		c.containers = append(c.containers, &holdings.Entry{Task: &repv1.Task{}})
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
		e := New(Config{Timeout: 10 * time.Minute, Poll: time.Second, Containers: func() iter.Seq[*holdings.Entry] { return slices.Values(c.list()) }, Untold: c.unknown, Abandon: c.abandon, Log: slog.New(slog.DiscardHandler)})
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
	lrp := func(guid string, ending bool) *holdings.Entry {
		return &holdings.Entry{GUID: guid, Ending: ending, LRP: &repv1.LRP{}}
	}
	e := New(Config{
		Told: func(guid string) bool { return guid == "told" || guid == "stopping" || guid == "ended" },
		Containers: func() iter.Seq[*holdings.Entry] {
			return slices.Values([]*holdings.Entry{
				lrp("new", false), lrp("untold", false), lrp("told", false), lrp("stopping", true), lrp("ended", true),
				{GUID: "task", Task: &repv1.Task{}},
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

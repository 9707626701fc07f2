package reconcile

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestQueueKeepsTheNewestOfAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(4)
		leave := make(chan struct{})
		var ran []int
		note := func(n int) func(context.Context) { return func(context.Context) { ran = append(ran, n) } }
		first := q.submit(t.Context(), "a", func(context.Context) {
			<-leave
			ran = append(ran, 1)
		})
		synctest.Wait()
		second := q.submit(t.Context(), "a", note(2))
		third := q.submit(t.Context(), "a", note(3))
		require.True(t, isClosed(second), "an operation that was overtaken is over")
		require.False(t, isClosed(first))
		require.False(t, isClosed(third))
		other := q.submit(t.Context(), "b", note(10))
		<-other
		require.Equal(t, []int{10}, ran, "another key does not wait")
		close(leave)
		q.wait()
		require.Equal(t, []int{10, 1, 3}, ran)
		require.True(t, isClosed(first))
		require.True(t, isClosed(third))
		require.Empty(t, q.lines, "an idle key costs nothing")
	})
}

func TestQueueDropsWhatWaitsWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		ctx, cancel := context.WithCancel(t.Context())
		ran := false
		q.submit(ctx, "a", func(ctx context.Context) { <-ctx.Done() })
		synctest.Wait()
		same := q.submit(ctx, "a", func(context.Context) { ran = true })
		other := q.submit(ctx, "b", func(context.Context) { ran = true })
		synctest.Wait()
		require.False(t, ran)
		cancel()
		<-same
		<-other
		q.wait()
		require.False(t, ran)
	})
}

// TestQueueProperties submits anything in any order: no key runs twice at a time, never more than the width run, the
// newest of each key runs last, and everything ends.
func TestQueueProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		width := rapid.IntRange(1, 4).Draw(rt, "width")
		keys := rapid.SliceOfN(rapid.IntRange(0, 3), 1, 40).Draw(rt, "keys")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 5), len(keys), len(keys)).Draw(rt, "pauses")
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(width)
			var all atomic.Int32
			var busy [4]atomic.Int32
			var lastRun, newest [4]int
			var over []<-chan struct{}
			for i, key := range keys {
				newest[key] = i
				over = append(over, q.submit(t.Context(), string(rune('a'+key)), func(context.Context) {
					if all.Add(1) > int32(width) || busy[key].Add(1) > 1 {
						t.Errorf("operation %d runs beside too many others", i)
					}
					time.Sleep(time.Duration(pauses[i]) * time.Millisecond) //nolint:forbidigo // the clock of the bubble
					lastRun[key] = i
					busy[key].Add(-1)
					all.Add(-1)
				}))
				time.Sleep(time.Duration(pauses[len(keys)-1-i]) * time.Millisecond) //nolint:forbidigo // the clock of the bubble
			}
			q.wait()
			require.Equal(t, newest, lastRun)
			for _, done := range over {
				require.True(t, isClosed(done))
			}
		})
	})
}

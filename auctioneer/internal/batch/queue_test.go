package batch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/auctioneer/internal/work"
)

func instance(t *testing.T, memory int32, queued int64) *work.Work {
	t.Helper()
	works, err := work.Instances(lrp("app", memory, 0), time.Unix(queued, 0))
	require.NoError(t, err)
	works[0].Asked = time.Now()
	return works[0]
}

func add(t *testing.T, q *Queue, w *work.Work) *work.Work {
	t.Helper()
	require.NoError(t, q.Add([]*work.Work{w}))
	return w
}

func lengths(q *Queue) [3]int {
	waiting, held, taken := q.Lengths()
	return [3]int{waiting, held, taken}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T, *Queue){
		"the latest request counts, with the time of the first": func(t *testing.T, q *Queue) {
			t.Helper()
			add(t, q, instance(t, 1, 10))
			add(t, q, instance(t, 2, 20))
			got := q.Take(false)
			require.Len(t, got, 1)
			require.Equal(t, int64(2), got[0].Request.MemoryMB)
			require.Equal(t, int64(10), got[0].Queued.Unix())
		},
		"work beyond the limit is refused whole": func(t *testing.T, q *Queue) {
			t.Helper()
			works, err := work.Instances(lrp("app", 1, 0, 1, 2, 3, 4), time.Now())
			require.NoError(t, err)
			require.ErrorIs(t, q.Add(works), ErrQueueFull)
			require.Equal(t, [3]int{}, lengths(q))
		},
		"the same request made again is answered by the placement": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			q.Take(false)
			add(t, q, instance(t, 1, 20))
			require.Empty(t, q.Take(false), "its earlier form is being placed")
			q.Placed(w)
			require.Equal(t, [3]int{}, lengths(q))
		},
		"another request is not": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			q.Take(false)
			add(t, q, instance(t, 2, 20))
			q.Placed(w)
			require.Len(t, q.Take(false), 1)
		},
		"work that comes back gives way to a newer request": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			q.Take(false)
			newer := add(t, q, instance(t, 2, 20))
			q.Again(w)
			require.Equal(t, []*work.Work{newer}, q.Take(false))
		},
		"held work that nobody asks for again is forgotten": func(t *testing.T, q *Queue) {
			t.Helper()
			old, again := instance(t, 1, 10), instance(t, 1, 10)
			again.Index, old.Asked = 1, time.Now().Add(-heldLimit-time.Second)
			add(t, q, old)
			add(t, q, again)
			for _, w := range q.Take(false) {
				q.Hold(w)
			}
			require.Equal(t, []*work.Work{again}, q.Take(true))
			require.Equal(t, [3]int{0, 0, 1}, lengths(q))
		},
		"a recovery brings back nothing that was placed meanwhile": func(t *testing.T, q *Queue) {
			t.Helper()
			end := q.recover()
			placed, taken, fresh := instance(t, 1, 10), instance(t, 1, 10), instance(t, 1, 10)
			taken.Index, fresh.Index = 1, 2
			add(t, q, placed)
			add(t, q, taken)
			q.Take(false)
			q.Placed(placed)
			require.NoError(t, q.addRecovered([]*work.Work{instance(t, 1, 20), taken, fresh}))
			require.Equal(t, []*work.Work{fresh}, q.Take(false))
			end()
			add(t, q, instance(t, 1, 30))
			require.Len(t, q.Take(false), 1, "a request is another matter")
		},
		"work is found wherever it is": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			require.Equal(t, Waiting, q.Find(w.Key()))
			q.Take(false)
			require.Equal(t, Taken, q.Find(w.Key()))
			q.Hold(w)
			require.Equal(t, Held, q.Find(w.Key()))
			require.Len(t, q.Take(true), 1)
			q.Dropped(w)
			require.Equal(t, Unknown, q.Find(w.Key()))
		},
		"held work is taken only when asked for": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			q.Take(false)
			q.Hold(w)
			require.Empty(t, q.Take(false))
			require.Equal(t, []*work.Work{w}, q.Take(true))
		},
		"a new request takes the place of held work": func(t *testing.T, q *Queue) {
			t.Helper()
			w := add(t, q, instance(t, 1, 10))
			q.Take(false)
			w.Held = true
			q.Hold(w)
			add(t, q, instance(t, 2, 20))
			require.Equal(t, [3]int{1, 0, 0}, lengths(q))
			got := q.Take(true)
			require.Len(t, got, 1)
			require.True(t, got[0].Held)
			require.Equal(t, int64(10), got[0].Queued.Unix())
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, NewQueue(4))
		})
	}
}

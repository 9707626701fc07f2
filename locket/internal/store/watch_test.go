package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/internal/lease"
)

// next returns the next n changes of a watch.
func next(t *testing.T, w *Watch, n int) []lease.Change {
	t.Helper()
	var got []lease.Change
	eventually(t, fmt.Sprintf("%d changes", n), func() bool {
		changes, err := w.Take()
		require.NoError(t, err)
		got = append(got, changes...)
		return len(got) >= n
	})
	require.Len(t, got, n)
	return got
}

// told is what a test compares of a change.
type told struct {
	Kind         lease.Kind
	Owner, Value string
}

func tell(changes []lease.Change) []told {
	out := make([]told, len(changes))
	for i, c := range changes {
		out[i] = told{c.Kind, c.Held.Owner, c.Held.Value}
	}
	return out
}

func TestWatchTellsEveryChangeOnEveryServer(t *testing.T) {
	t.Parallel()
	stores := servers(t, 2)
	_, err := stores[0].Lock(t.Context(), presenceRequest("cell-0", 1))
	require.NoError(t, err)
	watches := make([]*Watch, 2)
	for i, s := range stores {
		watches[i], err = s.Watch(t.Context(), lease.TypePresence, "cell-")
		require.NoError(t, err)
		require.Len(t, watches[i].Held, 1, "what is held when the watch begins")
	}

	ask := func(s *Store, req lease.Request) {
		_, err := s.Lock(t.Context(), req)
		require.NoError(t, err)
	}
	first, second := presenceRequest("cell-1", 1), presenceRequest("cell-1", 2)
	ask(stores[0], first)
	ask(stores[1], first) // a renewal tells nothing
	first.Value = "new"
	ask(stores[1], first)
	ask(stores[0], second) // a take-over by the next run of the cell
	ask(stores[0], lockRequest("cell-lock", "x"))
	ask(stores[0], presenceRequest("other", 1))
	require.NoError(t, stores[1].Release(t.Context(), "cell-1", "run-2"))
	last := presenceRequest("cell-2", 1)
	last.TTL = time.Second
	ask(stores[1], last)

	want := []told{
		{lease.KindAcquired, "run-1", "{}"},
		{lease.KindUpdated, "run-1", "new"},
		{lease.KindAcquired, "run-2", "{}"},
		{lease.KindReleased, "run-2", "{}"},
		{lease.KindAcquired, "run-1", "{}"},
		{lease.KindExpired, "run-1", "{}"},
	}
	for i, w := range watches {
		if diff := cmp.Diff(want, tell(next(t, w, len(want)))); diff != "" {
			t.Errorf("server %d (-want +got):\n%s", i, diff)
		}
		w.Close()
	}
}

// Claims come and go on two servers while their connections for notifications are killed again and
// again: every watch sees every change, in one order, and ends with what the table holds.
func TestWatchLosesNothingWhenListeningBreaks(t *testing.T) {
	t.Parallel()
	stores := servers(t, 2)
	watches := make([]*Watch, len(stores))
	for i, s := range stores {
		var err error
		watches[i], err = s.Watch(t.Context(), lease.TypePresence, "")
		require.NoError(t, err)
		defer watches[i].Close()
	}

	ctx, cancel := context.WithCancel(t.Context())
	killed := make(chan int)
	go func() { // cuts the listeners as fast as they come back
		cuts := 0
		defer func() { killed <- cuts }()
		for ctx.Err() == nil {
			tag, err := stores[0].pool.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND query = 'LISTEN claim_log'`)
			if err == nil {
				cuts += int(tag.RowsAffected())
			}
		}
	}()
	var running sync.WaitGroup
	for worker := range 6 {
		running.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for round := range 60 {
				s := stores[random.IntN(2)]
				req := presenceRequest(fmt.Sprintf("cell-%d", random.IntN(8)), int64(worker*1000+round+1))
				req.Holder = "spiffe://d/operator/all" // so that higher incarnations take over
				if random.IntN(3) == 0 {
					req.Value = fmt.Sprintf("value %d", round)
				}
				if _, err := s.Lock(t.Context(), req); err != nil {
					require.ErrorIs(t, err, lease.ErrCollision)
					continue
				}
				if random.IntN(2) == 0 {
					if err := s.Release(t.Context(), req.Key, req.Owner); err != nil {
						require.ErrorIs(t, err, lease.ErrCollision)
					}
				}
			}
		})
	}
	running.Wait()
	cancel()
	if cuts := <-killed; cuts == 0 {
		t.Error("no listening connection was cut: the test tests nothing")
	}

	count := len(logged(t, stores[0]))
	first := next(t, watches[0], count)
	second := next(t, watches[1], count)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the two servers told different histories (-first +second):\n%s", diff)
	}
	held := map[string]lease.Held{}
	for i, c := range first {
		if i > 0 && c.Revision <= first[i-1].Revision {
			t.Fatalf("revision %d after %d", c.Revision, first[i-1].Revision)
		}
		before, was := held[c.Held.Key]
		switch c.Kind {
		case lease.KindAcquired:
			if was && before.Holder != c.Held.Holder {
				t.Errorf("acquired by %q while %q held it", c.Held.Owner, before.Owner)
			}
			held[c.Held.Key] = c.Held
		case lease.KindUpdated:
			require.Equal(t, before.Token, c.Held.Token, "an update by somebody who does not hold it")
			held[c.Held.Key] = c.Held
		case lease.KindReleased, lease.KindExpired:
			require.Equal(t, before.Token, c.Held.Token, "the end of a claim that was not held")
			delete(held, c.Held.Key)
		}
	}
	stored := map[string]lease.Held{}
	require.NoError(t, stores[0].FetchAll(t.Context(), lease.TypePresence, func(page []lease.Held) error {
		for _, h := range page {
			stored[h.Key] = h
		}
		return nil
	}))
	if diff := cmp.Diff(stored, held); diff != "" {
		t.Errorf("the history does not lead to what is stored (-stored +told):\n%s", diff)
	}
}

// Watches that begin while claims change see each change once: in what they begin with, or after.
func TestWatchBeginsWithoutGapOrRepetition(t *testing.T) {
	t.Parallel()
	s := servers(t, 1)[0]
	const cells = 60
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range cells {
			if _, err := s.Lock(t.Context(), presenceRequest(fmt.Sprintf("cell-%03d", i), 1)); err != nil {
				t.Errorf("claiming: %v", err)
			}
		}
	}()
	var watches []*Watch
	for range 20 {
		w, err := s.Watch(t.Context(), lease.TypePresence, "")
		require.NoError(t, err)
		defer w.Close()
		watches = append(watches, w)
	}
	<-done
	for i, w := range watches {
		changes := next(t, w, cells-len(w.Held))
		seen := map[string]int{}
		for _, h := range w.Held {
			seen[h.Key]++
		}
		for _, c := range changes {
			seen[c.Held.Key]++
		}
		if len(seen) != cells {
			t.Errorf("watch %d saw %d claims, want %d each once", i, len(seen), cells)
		}
	}
}

func TestWatchIsCutWhenTheLogDoesNotReachBack(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"the log was pruned past the feed": `UPDATE claim_clock SET pruned = 1000000`,
		"the database was restored":        `SELECT setval('claim_revision', 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := servers(t, 1)[0]
			for i := range 3 {
				_, err := s.Lock(t.Context(), lockRequest(fmt.Sprintf("lock-%d", i), "x"))
				require.NoError(t, err)
			}
			w, err := s.Watch(t.Context(), lease.TypeLock, "")
			require.NoError(t, err)
			defer w.Close()
			exec(t, s, damage)
			eventually(t, "the watch to end", func() bool {
				_, err := w.Take()
				return err != nil
			})
			_, err = w.Take()
			require.ErrorIs(t, err, ErrBehind)
			eventually(t, "a new watch to begin", func() bool {
				again, err := s.Watch(t.Context(), lease.TypeLock, "")
				if err != nil {
					return false
				}
				defer again.Close()
				return len(again.Held) == 3
			})
		})
	}
}

// A watch that nobody reads is ended instead of filling the memory, and the others go on.
func TestWatchThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	s := idle(t)
	s.feed.see(true)
	slow, err := s.Watch(t.Context(), lease.TypePresence, "slow")
	require.NoError(t, err)
	other, err := s.Watch(t.Context(), lease.TypePresence, "other")
	require.NoError(t, err)
	flood := make([]lease.Change, queueLimit+1)
	for i := range flood {
		flood[i] = lease.Change{Revision: int64(i + 1), Kind: lease.KindUpdated, Held: lease.Held{Key: "slow", Type: lease.TypePresence}}
	}
	s.feed.deliver(flood)
	s.feed.deliver([]lease.Change{{Revision: int64(queueLimit + 2), Held: lease.Held{Key: "other", Type: lease.TypePresence}}})
	_, err = slow.Take()
	require.ErrorIs(t, err, ErrBehind)
	changes, err := other.Take()
	require.NoError(t, err)
	require.Len(t, changes, 1)
	slow.Close()
	other.Close()
	require.InDelta(t, 0, value(t, s.metrics.watches), 0)
}

func TestWatchTakesAValueOfTheLargestSize(t *testing.T) {
	t.Parallel()
	s := servers(t, 1)[0]
	w, err := s.Watch(t.Context(), lease.TypePresence, "")
	require.NoError(t, err)
	defer w.Close()
	req := presenceRequest("cell-1", 1)
	req.Value = strings.Repeat("x", 64<<10)
	_, err = s.Lock(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, req.Value, next(t, w, 1)[0].Held.Value)
}

// Polls alone would take 125 ms in the middle; notifications make it a few.
func TestWatchIsToldAtOnce(t *testing.T) {
	t.Parallel()
	stores := servers(t, 2)
	w, err := stores[1].Watch(t.Context(), lease.TypeLock, "")
	require.NoError(t, err)
	defer w.Close()
	latencies := make([]time.Duration, 21)
	for i := range latencies {
		begun := time.Now()
		_, err := stores[0].Lock(t.Context(), lockRequest(fmt.Sprintf("lock-%d", i), "x"))
		require.NoError(t, err)
		select {
		case <-w.Changed():
		case <-t.Context().Done():
			t.Fatal("never told")
		}
		latencies[i] = time.Since(begun)
		next(t, w, 1)
	}
	slices.Sort(latencies)
	if median := latencies[len(latencies)/2]; median > 100*time.Millisecond {
		t.Errorf("half of the changes took longer than %v to reach the other server", median)
	}
}

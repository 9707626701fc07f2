package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgrestest"
)

// patience is how long a test waits for what should happen at once, on a machine that is busy.
const patience = 20 * time.Second

func newStore(pool *pgxpool.Pool) *Store {
	return New(Config{Pool: pool, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
}

// servers starts n stores on one new database, each with its own pool, and waits until they are
// healthy and feed watches.
func servers(t *testing.T, n int) []*Store {
	t.Helper()
	url := postgrestest.URL(postgrestest.New(t, Migrate))
	stores := make([]*Store, n)
	for i := range stores {
		pool, err := postgres.Open(t.Context(), postgres.Config{ConnectionString: url})
		require.NoError(t, err)
		stores[i] = newStore(pool)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- stores[i].Run(ctx, func(bool) {}) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("running a store: %v", err)
			}
			pool.Close()
		})
	}
	for _, s := range stores {
		eventually(t, "the store to be healthy and to feed watches", func() bool {
			w, err := s.Watch(t.Context(), lease.TypeLock, "")
			if err != nil || s.Healthy() != nil {
				return false
			}
			w.Close()
			return true
		})
	}
	return stores
}

// idle is a store without its loops: nothing happens but what the test does.
func idle(t *testing.T) *Store {
	t.Helper()
	s := newStore(postgrestest.New(t, Migrate))
	_, err := s.look(t.Context())
	require.NoError(t, err)
	return s
}

// serveOne passes one request through an idle store.
func serveOne(t *testing.T, s *Store, req lease.Request) (lease.Granted, error) {
	t.Helper()
	r := &request{Request: req, ctx: t.Context(), answer: make(chan answer, 1)}
	s.serve(t.Context(), []*request{r})
	a := <-r.answer
	return a.granted, a.err
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %v for %s", patience, what)
		case <-tick.C:
		}
	}
}

func lockRequest(key, owner string) lease.Request {
	return lease.Request{Key: key, Owner: owner, Holder: "spiffe://d/bbs", Type: lease.TypeLock, TTL: time.Minute}
}

func presenceRequest(cell string, incarnation int64) lease.Request {
	return lease.Request{
		Key: cell, Owner: fmt.Sprintf("run-%d", incarnation), Holder: "spiffe://d/cell/" + cell,
		Type: lease.TypePresence, Value: "{}", TTL: time.Minute, Incarnation: incarnation,
	}
}

func exec(t *testing.T, s *Store, sql string, args ...any) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func TestStoreLockStoresWhatWasAsked(t *testing.T) {
	t.Parallel()
	s := idle(t)
	before := time.Now()
	granted, err := serveOne(t, s, presenceRequest("cell-1", 7))
	require.NoError(t, err)
	require.True(t, granted.Acquired)

	fetched, err := s.Fetch(t.Context(), "cell-1")
	require.NoError(t, err)
	want := lease.Held{
		Key: "cell-1", Owner: "run-7", Holder: "spiffe://d/cell/cell-1", Type: lease.TypePresence, Value: "{}",
		TTL: time.Minute, Token: fetched.Token, Incarnation: 7,
	}
	if diff := cmp.Diff(want, fetched, cmpopts.IgnoreFields(lease.Held{}, "ExpiresAt", "AcquiredAt")); diff != "" {
		t.Errorf("fetched claim (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(fetched, granted.Held); diff != "" {
		t.Errorf("the answer differs from what is stored (-stored +answered):\n%s", diff)
	}
	if fetched.Token <= 0 || fetched.ExpiresAt.Sub(fetched.AcquiredAt) != time.Minute || fetched.AcquiredAt.Before(before.Add(-time.Second)) {
		t.Errorf("token %d, acquired %v, expires %v", fetched.Token, fetched.AcquiredAt, fetched.ExpiresAt)
	}
}

func TestStoreRenewalKeepsTokenAndExtends(t *testing.T) {
	t.Parallel()
	s := idle(t)
	first, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	second, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	if second.Acquired || second.Held.Token != first.Held.Token || !second.Held.AcquiredAt.Equal(first.Held.AcquiredAt) {
		t.Errorf("a renewal answered %+v after %+v", second, first)
	}
	if !second.Held.ExpiresAt.After(first.Held.ExpiresAt) {
		t.Errorf("a renewal moved the expiry from %v to %v", first.Held.ExpiresAt, second.Held.ExpiresAt)
	}
}

func TestStoreRefusesAnotherOwner(t *testing.T) {
	t.Parallel()
	s := idle(t)
	_, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	for name, req := range map[string]lease.Request{
		"a lock asked for by another owner":             lockRequest("bbs", "bbs-2"),
		"a presence under the key of a lock":            presenceRequest("bbs", 9),
		"the same owner with the other type of a claim": {Key: "bbs", Owner: "bbs-1", Type: lease.TypePresence, TTL: time.Minute},
	} {
		_, err := serveOne(t, s, req)
		require.ErrorIs(t, err, lease.ErrCollision, name)
		require.ErrorContains(t, err, `"bbs-1"`, name)
	}
	require.ErrorIs(t, s.Release(t.Context(), "bbs", "bbs-2"), lease.ErrCollision)
	held, err := s.Fetch(t.Context(), "bbs")
	require.NoError(t, err)
	require.Equal(t, "bbs-1", held.Owner)
}

// The statement that writes refuses by itself, whatever the check before it saw.
func TestStoreAcquisitionIsTheArbiter(t *testing.T) {
	t.Parallel()
	s := idle(t)
	_, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	_, err = serveOne(t, s, presenceRequest("cell-1", 5))
	require.NoError(t, err)
	tests := map[string]struct {
		req  lease.Request
		want bool
	}{
		"another owner of a lock":        {lockRequest("bbs", "bbs-2"), false},
		"an earlier run of a presence":   {presenceRequest("cell-1", 4), false},
		"a later run of another holder":  {lease.Request{Key: "cell-1", Owner: "x", Holder: "spiffe://d/cell/cell-2", Type: lease.TypePresence, TTL: time.Minute, Incarnation: 9}, false},
		"a later run of the same holder": {presenceRequest("cell-1", 6), true},
	}
	for name, tc := range tests {
		out, err := s.acquire(t.Context(), []*request{{Request: tc.req}})
		require.NoError(t, err)
		if _, taken := out.taken[tc.req.Key]; taken != tc.want {
			t.Errorf("%s: taken %v, want %v", name, taken, tc.want)
		}
	}
}

func TestStoreReleaseFreesAtOnceAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	s := idle(t)
	first, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context(), "bbs", "bbs-1"))
	require.NoError(t, s.Release(t.Context(), "bbs", "bbs-1"))
	_, err = s.Fetch(t.Context(), "bbs")
	require.ErrorIs(t, err, lease.ErrNotFound)
	second, err := serveOne(t, s, lockRequest("bbs", "bbs-2"))
	require.NoError(t, err)
	if !second.Acquired || second.Held.Token <= first.Held.Token {
		t.Errorf("the second holder got %+v after token %d", second, first.Held.Token)
	}
}

func TestStoreFetchAllListsOneTypeInKeyOrder(t *testing.T) {
	t.Parallel()
	s := idle(t)
	group := []*request{}
	for i := range pageSize + 10 { // more than one page
		group = append(group, &request{Request: presenceRequest(fmt.Sprintf("cell-%04d", 9999-i), 1)})
	}
	_, err := s.acquire(t.Context(), group)
	require.NoError(t, err)
	_, err = serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)

	var keys []string
	require.NoError(t, s.FetchAll(t.Context(), lease.TypePresence, func(page []lease.Held) error {
		for _, h := range page {
			keys = append(keys, h.Key)
		}
		return nil
	}))
	require.Len(t, keys, pageSize+10)
	require.IsIncreasing(t, keys)
}

// Requests that come at the same time share statements, also when they concern the same key.
func TestStoreLockGroupsConcurrentRequests(t *testing.T) {
	t.Parallel()
	s := servers(t, 1)[0]
	const cells = 500
	var running sync.WaitGroup
	for i := range cells {
		running.Go(func() {
			for range 4 { // one acquisition and three renewals each
				if _, err := s.Lock(t.Context(), presenceRequest(fmt.Sprintf("cell-%d", i), 1)); err != nil {
					t.Errorf("claiming: %v", err)
				}
			}
		})
	}
	for i := range 20 {
		running.Go(func() {
			_, err := s.Lock(t.Context(), lockRequest("bbs", fmt.Sprintf("bbs-%d", i)))
			if err != nil {
				require.ErrorIs(t, err, lease.ErrCollision)
			}
		})
	}
	running.Wait()

	var count int
	require.NoError(t, s.FetchAll(t.Context(), lease.TypePresence, func(page []lease.Held) error { count += len(page); return nil }))
	require.Equal(t, cells, count)
	groups := sampleCount(t, s.metrics.groupSize)
	if groups > cells {
		t.Errorf("%d requests took %d groups, want many in one", 4*cells+20, groups)
	}
}

// Contenders on two servers take a lock, hold it, and release it. Each sees a higher token than the
// holder before it, and nobody holds it while another does.
func TestStoreLockHasOneHolderAndGrowingTokens(t *testing.T) {
	t.Parallel()
	stores := servers(t, 2)
	var mu sync.Mutex
	var holder string
	var last int64
	turns := 0
	var running sync.WaitGroup
	for i := range 8 {
		owner, s := fmt.Sprintf("bbs-%d", i), stores[i%2]
		running.Go(func() {
			for had := 0; had < 5; {
				granted, err := s.Lock(t.Context(), lockRequest("bbs", owner))
				if err != nil {
					require.ErrorIs(t, err, lease.ErrCollision)
					continue
				}
				had++
				mu.Lock()
				if holder != "" || granted.Held.Token <= last {
					t.Errorf("%s got token %d while %q held it, the last token was %d", owner, granted.Held.Token, holder, last)
				}
				holder, last = owner, granted.Held.Token
				turns++
				mu.Unlock()

				mu.Lock()
				holder = ""
				mu.Unlock()
				require.NoError(t, s.Release(t.Context(), "bbs", owner))
			}
		})
	}
	running.Wait()
	require.Equal(t, 40, turns)
}

func TestStoreLockDropsARequestWhoseCallerHasGone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	gone := &request{Request: lockRequest("bbs", "bbs-1"), ctx: ctx, answer: make(chan answer, 1)}
	now, later := distinct([]*request{gone})
	require.Empty(t, now)
	require.Empty(t, later)
	require.ErrorIs(t, (<-gone.answer).err, context.Canceled)
}

func TestMigrateTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	s := idle(t)
	_, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	require.NoError(t, Migrate(t.Context(), s.pool))
	_, err = s.Fetch(t.Context(), "bbs")
	require.NoError(t, err)
}

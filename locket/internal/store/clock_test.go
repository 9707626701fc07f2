package store

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/postgrestest"
)

func sampleCount(t *testing.T, h prometheus.Histogram) uint64 {
	t.Helper()
	var m dto.Metric
	require.NoError(t, h.Write(&m))
	return m.GetHistogram().GetSampleCount()
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	require.NoError(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// remaining is how long a claim has left, by the clock of the database.
func remaining(t *testing.T, s *Store, key string) time.Duration {
	t.Helper()
	var seconds float64
	require.NoError(t, s.pool.QueryRow(t.Context(),
		`SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM claims WHERE key = $1`, key).Scan(&seconds))
	return time.Duration(seconds * float64(time.Second))
}

func isHeld(t *testing.T, s *Store, key string) bool {
	t.Helper()
	_, err := s.Fetch(t.Context(), key)
	if err != nil {
		require.ErrorIs(t, err, lease.ErrNotFound)
	}
	return err == nil
}

// runOut makes a claim look as if it had run out a moment ago.
func runOut(t *testing.T, s *Store, key string) {
	t.Helper()
	exec(t, s, `UPDATE claims SET expires_at = now() - interval '10 ms' WHERE key = $1`, key)
}

func TestStoreTreatsARowPastItsExpiryAsAbsent(t *testing.T) {
	t.Parallel()
	s := idle(t) // no sweeper
	first, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	runOut(t, s, "bbs")

	require.False(t, isHeld(t, s, "bbs"))
	require.NoError(t, s.Release(t.Context(), "bbs", "bbs-2"), "releasing what nobody holds")
	second, err := serveOne(t, s, lockRequest("bbs", "bbs-2"))
	require.NoError(t, err)
	if !second.Acquired || second.Held.Token <= first.Held.Token {
		t.Errorf("took over with %+v after token %d", second, first.Held.Token)
	}
	require.Equal(t, []lease.Kind{lease.KindAcquired, lease.KindExpired, lease.KindAcquired}, logged(t, s),
		"a watcher has to be told of the expiry before the acquisition")
}

func TestStoreSweepsOnlyWhatHasRunOut(t *testing.T) {
	t.Parallel()
	s := idle(t)
	for _, req := range []lease.Request{lockRequest("bbs", "bbs-1"), presenceRequest("cell-1", 1), presenceRequest("cell-2", 1)} {
		_, err := serveOne(t, s, req)
		require.NoError(t, err)
	}
	runOut(t, s, "bbs")
	runOut(t, s, "cell-1")
	swept, err := s.sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, swept)
	require.True(t, isHeld(t, s, "cell-2"))
	require.InDelta(t, 1, value(t, s.metrics.locksExpired), 0)
	require.InDelta(t, 1, value(t, s.metrics.presencesExpired), 0)
}

func TestStoreExpiresAtItsTime(t *testing.T) {
	t.Parallel()
	s := servers(t, 2)[0]
	req := presenceRequest("cell-1", 1)
	req.TTL = 1200 * time.Millisecond
	begun := time.Now()
	_, err := s.Lock(t.Context(), req)
	require.NoError(t, err)
	eventually(t, "the presence to expire", func() bool { return !isHeld(t, s, "cell-1") })
	if took := time.Since(begun); took < req.TTL {
		t.Errorf("expired after %v, its time to live is %v", took, req.TTL)
	}
}

// An outage, a standstill of all servers and a step of the clock look the same: the note in
// claim_clock is not fresh.
func TestStoreBridgesGaps(t *testing.T) {
	t.Parallel()
	const ttl = time.Minute
	tests := map[string]struct {
		seen, expires string // relative to now
		wantHeld      bool
		wantLeft      time.Duration
	}{
		"after an outage a holder has what it had before":        {"-30 s", "-20 s", true, 10 * time.Second},
		"an outage gives nobody more than a full time":           {"-1 h", "1 min", true, ttl},
		"what ran out before the outage stays so":                {"-30 s", "-31 s", false, 0},
		"a clock set an hour ahead is an outage of an hour":      {"-1 h", "-59 min -20 s", true, 40 * time.Second},
		"a clock set back leaves nobody more than its full time": {"1 h", "1 h 30 s", true, ttl},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := idle(t)
			req := lockRequest("bbs", "bbs-1")
			req.TTL = ttl
			_, err := serveOne(t, s, req)
			require.NoError(t, err)
			exec(t, s, `UPDATE claim_clock SET seen = clock_timestamp() + $1::text::interval`, tc.seen)
			exec(t, s, `UPDATE claims SET expires_at = clock_timestamp() + $1::text::interval`, tc.expires)

			// Nothing expires before the gap is bridged, by whatever path.
			require.True(t, isHeld(t, s, "bbs"), "before the gap is bridged")
			_, err = serveOne(t, s, lockRequest("bbs", "bbs-2"))
			require.ErrorIs(t, err, lease.ErrCollision)
			swept, err := s.sweep(t.Context())
			require.NoError(t, err)
			require.Zero(t, swept)

			_, err = s.look(t.Context())
			require.NoError(t, err)
			require.Equal(t, tc.wantHeld, isHeld(t, s, "bbs"))
			if left := remaining(t, s, "bbs"); tc.wantHeld && (left > tc.wantLeft+100*time.Millisecond || left < tc.wantLeft-5*time.Second) {
				t.Errorf("has %v left, want nearly %v", left, tc.wantLeft)
			}
		})
	}
}

func TestStoreBridgesAGapOnce(t *testing.T) {
	t.Parallel()
	s := idle(t)
	_, err := serveOne(t, s, lockRequest("bbs", "bbs-1"))
	require.NoError(t, err)
	exec(t, s, `UPDATE claims SET expires_at = clock_timestamp() + interval '10 s'`)
	exec(t, s, `UPDATE claim_clock SET seen = clock_timestamp() - interval '20 s'`)
	for range 3 {
		_, err := s.look(t.Context())
		require.NoError(t, err)
	}
	if left := remaining(t, s, "bbs"); left > 30*time.Second || left < 20*time.Second {
		t.Errorf("has %v left, want nearly 30s: extended once", left)
	}
	require.InDelta(t, 1, value(t, s.metrics.bridged), 0)
}

func TestStoreIsUnavailableWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	s := idle(t)
	s.remember(nil)
	require.NoError(t, s.Healthy())
	s.pool.Close()
	for name, call := range map[string]func() error{
		"Lock":     func() error { _, err := serveOne(t, s, lockRequest("bbs", "bbs-1")); return err },
		"Release":  func() error { return s.Release(t.Context(), "bbs", "bbs-1") },
		"Fetch":    func() error { _, err := s.Fetch(t.Context(), "bbs"); return err },
		"FetchAll": func() error { return s.FetchAll(t.Context(), lease.TypeLock, nil) },
		"snapshot": func() error { _, err := s.snapshotOf(t.Context(), lease.TypeLock, ""); return err },
	} {
		require.ErrorIs(t, call(), ErrUnavailable, name)
	}
}

func TestStoreRunTellsItsHealth(t *testing.T) {
	t.Parallel()
	s := newStore(postgrestest.New(t, Migrate))
	require.ErrorIs(t, s.Healthy(), ErrUnavailable, "before the first answer")
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan bool, 10)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(healthy bool) { told <- healthy }) }()
	require.True(t, <-told)
	require.NoError(t, s.Healthy())

	exec(t, s, `DROP TABLE claim_clock`)
	err := <-done
	require.Error(t, err, "without its tables a store cannot go on")
	require.True(t, schemaMissing(err))
	require.NotErrorIs(t, err, context.Canceled)
	cancel()
}

func TestStorePruneKeepsWhatIsYoung(t *testing.T) {
	t.Parallel()
	s := idle(t)
	for _, key := range []string{"one", "two", "three"} {
		_, err := serveOne(t, s, lockRequest(key, "owner"))
		require.NoError(t, err)
	}
	exec(t, s, `UPDATE claim_log SET logged_at = now() - interval '1 h' WHERE key <> 'three'`)
	require.NoError(t, s.prune(t.Context(), keepLog))
	require.Len(t, logged(t, s), 1)
	var pruned int64
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT pruned FROM claim_clock`).Scan(&pruned))
	two, err := s.Fetch(t.Context(), "two")
	require.NoError(t, err)
	require.Equal(t, two.Token, pruned)
	require.NoError(t, s.prune(t.Context(), keepLog))
}

// logged is the log of changes, in order.
func logged(t *testing.T, s *Store) []lease.Kind {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `SELECT kind FROM claim_log ORDER BY revision`)
	require.NoError(t, err)
	var kinds []lease.Kind
	for rows.Next() {
		var k int16
		require.NoError(t, rows.Scan(&k))
		kinds = append(kinds, lease.Kind(k))
	}
	require.NoError(t, rows.Err())
	return kinds
}

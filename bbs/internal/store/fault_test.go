package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/watch"
	"diego.internal/servicekit/postgrestest"
)

// lossy makes the connections of a pool fail where a test wants it.
type lossy struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// loseAnswer and loseRequest let the next answer or request be lost together with its connection.
	loseAnswer, loseRequest atomic.Bool
	// down refuses new connections and ends the present ones at their next use.
	down atomic.Bool
}

// lossyPool returns a pool on the same database whose connections fail on demand.
func lossyPool(t *testing.T, pool *pgxpool.Pool) (*pgxpool.Pool, *lossy) {
	t.Helper()
	cfg := pool.Config().Copy()
	l := &lossy{dial: cfg.ConnConfig.DialFunc}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if l.down.Load() {
			return nil, errors.New("connection refused by the test")
		}
		conn, err := l.dial(ctx, network, address)
		return &lossyConn{Conn: conn, of: l}, err
	}
	lossy, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(lossy.Close)
	return lossy, l
}

type lossyConn struct {
	net.Conn
	of *lossy
}

func (c *lossyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && (c.of.down.Load() || c.of.loseAnswer.CompareAndSwap(true, false)) {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *lossyConn) Write(b []byte) (int, error) {
	if c.of.down.Load() || c.of.loseRequest.CompareAndSwap(true, false) {
		_ = c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}

func upsertDomain(ctx context.Context, s *Store, name string) (uint64, error) {
	return s.Apply(ctx, func(tx *Tx) error {
		before := tx.Domain(name)
		after, event := lrp.UpsertDomain(before, name, 0, nil, time.Now())
		tx.PutDomain(before, after, event)
		return nil
	})
}

func TestUncertainCommitIsResolved(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	failing, faults := lossyPool(t, pool)
	s, _ := running(t, testConfig(t, failing))
	_, err := upsertDomain(t.Context(), s, "warm") // statements are prepared
	require.NoError(t, err)
	epoch := s.epoch

	faults.loseAnswer.Store(true)
	revision, err := upsertDomain(t.Context(), s, "answer-lost")
	require.NoError(t, err, "it was committed, and that was found out")
	require.Equal(t, uint64(2), revision)
	require.NotNil(t, s.Committed().Domain("answer-lost"))

	faults.loseRequest.Store(true)
	_, err = upsertDomain(t.Context(), s, "request-lost")
	require.ErrorIs(t, err, ErrUnavailable)
	require.Nil(t, s.Committed().Domain("request-lost"))

	revision, err = upsertDomain(t.Context(), s, "after")
	require.NoError(t, err)
	require.Equal(t, uint64(3), revision, "no revision is lost or used twice")
	require.Greater(t, s.view.Load().epoch, epoch, "a buffered batch can never be committed later")
	requireLoadsTheSame(t, pool, s)
}

func requireLoadsTheSame(t *testing.T, pool *pgxpool.Pool, s *Store) {
	t.Helper()
	loaded, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	requireSameContent(t, s.Committed(), loaded.Committed())
}

func TestTerminatedBackend(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	_, err := upsertDomain(t.Context(), s, "warm")
	require.NoError(t, err)

	// Hold the row that every batch needs, wait until the writer hangs on it, and end its backend.
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), `select from bbs_state for update`)
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := upsertDomain(context.Background(), s, "killed")
		result <- err
	}()
	var pid int
	require.Eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&pid) == nil
	}, 10*time.Second, 5*time.Millisecond)
	_, err = pool.Exec(t.Context(), `select pg_terminate_backend($1)`, pid)
	require.NoError(t, err)
	require.NoError(t, holder.Rollback(t.Context()))

	require.ErrorIs(t, <-result, ErrUnavailable)
	require.Nil(t, s.Committed().Domain("killed"))
	_, err = upsertDomain(t.Context(), s, "after")
	require.NoError(t, err)
	requireLoadsTheSame(t, pool, s)
}

func TestLostDatabaseAnswersAtOnceAndComesBack(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	failing, faults := lossyPool(t, pool)
	s, _ := running(t, testConfig(t, failing))
	_, err := upsertDomain(t.Context(), s, "before")
	require.NoError(t, err)

	faults.down.Store(true)
	first := make(chan error, 1)
	go func() {
		_, err := upsertDomain(context.Background(), s, "during")
		first <- err
	}()
	require.Eventually(t, s.Down, 10*time.Second, time.Millisecond)
	started := time.Now()
	_, err = upsertDomain(t.Context(), s, "refused")
	require.ErrorIs(t, err, ErrUnavailable)
	require.Less(t, time.Since(started), time.Second)
	view, err := s.View()
	require.NoError(t, err, "reads do not need the database")
	require.NotNil(t, view.Domain("before"))

	faults.down.Store(false)
	require.ErrorIs(t, <-first, ErrUnavailable)
	require.Eventually(t, func() bool {
		_, err := upsertDomain(t.Context(), s, "after")
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	requireLoadsTheSame(t, pool, s)
}

// TestNoAcknowledgedWriteIsLost writes while connections break at random. What was acknowledged must be
// there, what was refused must not, in memory, in the tables and in the log.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	failing, faults := lossyPool(t, pool)
	s, _ := running(t, testConfig(t, failing))

	const writers, each = 4, 40
	acknowledged := make([]map[string]bool, writers)
	var wg sync.WaitGroup
	for w := range writers {
		acknowledged[w] = map[string]bool{}
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range each {
				switch random.IntN(8) {
				case 0:
					faults.loseAnswer.Store(true)
				case 1:
					faults.loseRequest.Store(true)
				}
				name := fmt.Sprintf("domain-%d-%d", w, i)
				_, err := upsertDomain(context.Background(), s, name)
				acknowledged[w][name] = err == nil
			}
		})
	}
	wg.Wait()
	faults.loseAnswer.Store(false)
	faults.loseRequest.Store(false)

	logged := map[string]int{}
	batches, err := s.ReadLog(t.Context(), 0, 1<<30)
	require.NoError(t, err)
	for _, b := range batches {
		for _, e := range b.Events {
			logged[e.Subject]++
		}
	}
	accepted := 0
	for _, names := range acknowledged {
		for name, ok := range names {
			require.Equal(t, ok, s.Committed().Domain(name) != nil, name)
			want := 0
			if ok {
				want, accepted = 1, accepted+1
			}
			require.Equal(t, want, logged[name], name)
		}
	}
	require.Positive(t, accepted)
	require.Equal(t, uint64(len(batches)), s.Committed().Revision())
	requireLoadsTheSame(t, pool, s)
}

func TestSecondMasterFencesTheFirst(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	first, firstEnd := running(t, testConfig(t, pool))
	_, err := upsertDomain(t.Context(), first, "of-first")
	require.NoError(t, err)

	// The first one still believes in its lock, as after a long pause.
	second, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, second.Load(t.Context()))
	require.NoError(t, second.TakeOver(t.Context(), always))
	run(t, second)
	_, err = upsertDomain(t.Context(), first, "too-late")
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, <-firstEnd, ErrFenced)
	_, err = first.View()
	require.ErrorIs(t, err, ErrNotMaster)
	_, err = upsertDomain(t.Context(), first, "much-too-late")
	require.ErrorIs(t, err, ErrNotMaster)

	_, err = upsertDomain(t.Context(), second, "of-second")
	require.NoError(t, err)
	require.NotNil(t, second.Committed().Domain("of-first"))
	require.Nil(t, second.Committed().Domain("too-late"))
	requireLoadsTheSame(t, pool, second)
}

func TestLapsedLeaseStopsReadsAndWrites(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, err := New(testConfig(t, pool))
	require.NoError(t, err)
	var held atomic.Bool
	held.Store(true)
	require.NoError(t, s.TakeOver(t.Context(), held.Load))
	run(t, s)
	_, err = upsertDomain(t.Context(), s, "a")
	require.NoError(t, err)
	held.Store(false)
	_, err = s.View()
	require.ErrorIs(t, err, ErrNotMaster)
	_, err = upsertDomain(t.Context(), s, "b")
	require.ErrorIs(t, err, ErrNotMaster)
}

func TestWarmTakeOverAppliesTheRest(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	first, _ := running(t, testConfig(t, pool))
	standby, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, standby.Load(t.Context()))
	fill(t, first)
	warm, err := standby.catchUp(t.Context(), first.Committed().Revision())
	require.NoError(t, err)
	require.True(t, warm)
	requireSameContent(t, first.Committed(), standby.Committed())

	// A watcher that was at the first one goes on at the second and misses nothing.
	require.NoError(t, standby.TakeOver(t.Context(), always))
	run(t, standby)
	cursor, err := standby.Watch().Cursor(1, watch.All())
	require.NoError(t, err)
	defer cursor.Close()
	_, err = upsertDomain(t.Context(), standby, "new")
	require.NoError(t, err)
	last := uint64(1)
	for last < standby.Committed().Revision() {
		batch, err := cursor.Next(t.Context(), time.Minute)
		require.NoError(t, err)
		require.Greater(t, batch.Revision, last)
		last = batch.Revision
	}
}

func TestStandbyThatFellBehindReloads(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	first, _ := running(t, testConfig(t, pool))
	standby, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, standby.followOnce(t.Context()))
	fill(t, first)
	_, err = pool.Exec(t.Context(), `delete from batch_log where revision < 4`)
	require.NoError(t, err)
	require.NoError(t, standby.followOnce(t.Context()))
	requireSameContent(t, first.Committed(), standby.Committed())
}

func TestUnreadableRowsGoToQuarantine(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	fill(t, s)
	_, err := pool.Exec(t.Context(), `update desired_lrps set client_data = set_byte(client_data, octet_length(client_data) - 1, get_byte(client_data, octet_length(client_data) - 1) # 1)`)
	require.NoError(t, err)

	loaded, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	require.Nil(t, loaded.Committed().Desired("app"))
	require.True(t, loaded.DesiredQuarantined("app"))
	require.Equal(t, 1, loaded.QuarantinedCount())
	listed, err := loaded.QuarantinedRecords(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, "desired_lrps", listed[0].Table)
	require.Equal(t, "app", listed[0].Key)
	var rows int
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from desired_lrps`).Scan(&rows))
	require.Equal(t, 1, rows, "the row stays where it is")
}

func TestMissingKeyIsNoQuarantine(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	fill(t, s)
	other, err := seal.New([]seal.Key{{Label: "other"}}, "other")
	require.NoError(t, err)
	cfg := testConfig(t, pool)
	cfg.Keys = other
	loaded, err := New(cfg)
	require.NoError(t, err)
	require.ErrorIs(t, loaded.Load(t.Context()), seal.ErrUnknownKey)
}

func TestPruneKeepsWhatRetentionSays(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	cfg := testConfig(t, pool)
	now := time.Now()
	cfg.Clock = func() time.Time { return now }
	cfg.Retention = Retention{MinAge: time.Hour, MinEvents: 3}
	s, err := New(cfg)
	require.NoError(t, err)
	require.NoError(t, s.TakeOver(t.Context(), always))
	run(t, s)
	for i := range 10 {
		_, err := upsertDomain(t.Context(), s, fmt.Sprint("d", i))
		require.NoError(t, err)
	}
	pruned, err := s.pruneOnce(t.Context())
	require.NoError(t, err)
	require.Zero(t, pruned, "all of it is young")

	now = now.Add(2 * time.Hour)
	pruned, err = s.pruneOnce(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(7), pruned, "the newest three events stay, however old")
	_, err = s.ReadLog(t.Context(), 6, 1<<20)
	require.ErrorIs(t, err, watch.ErrTruncated)
	kept, err := s.ReadLog(t.Context(), 7, 1<<20)
	require.NoError(t, err)
	require.Len(t, kept, 3)
}

func TestReadLogBoundsItsAnswer(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	for i := range 5 {
		_, err := upsertDomain(t.Context(), s, fmt.Sprint("d", i))
		require.NoError(t, err)
	}
	got, err := s.ReadLog(t.Context(), 0, 1)
	require.NoError(t, err)
	require.Len(t, got, 1, "one at least")
	got, err = s.ReadLog(t.Context(), 5, 1)
	require.NoError(t, err)
	require.Empty(t, got)
}

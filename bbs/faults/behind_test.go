package faults

import (
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgres/privateserver"
)

// The standby of Postgres gets no commits any more, so that they wait; the bbs gives them up, by which
// they become visible on the primary although nobody else has them; and then the primary and the
// active bbs are lost. What only the old primary had has never happened, for anybody.
func TestPostgresPromotedBehind(t *testing.T) {
	t.Parallel()
	folders := [2]string{postgresFolder(t), postgresFolder(t)}
	primary := startPostgres(t, folders[0])
	require.NoError(t, primary.CreateDatabase(t.Context(), database))
	standby := startStandby(t, primary, folders[1])
	w := newWorld(t, privateserver.MultiHost(database, primary, standby))
	l := startLoad(w)
	for round := range rounds(t, 1) {
		if round > 0 {
			standby = startStandby(t, primary, folders[round%2^1])
		}
		l.progress()
		active := w.active()
		ahead := leaveBehind(t, l, primary, standby)
		require.NoError(t, primary.Kill())
		w.bbs[active].kill(t)
		require.NoError(t, standby.Promote(t.Context()))
		require.Less(t, newestRevision(t, standby), ahead, "the newest revision of the promoted server, so that the other one was ahead")
		primary = standby
		w.active()
		w.bbs[active].start(t)
	}
	l.progress()
	l.finish()
}

// leaveBehind keeps a primary from sending commits to its standby, so that they wait, until the bbs has
// given one up that the standby does not have. It returns the revision of that.
func leaveBehind(t *testing.T, l *load, primary, standby *privateserver.Server) int64 {
	t.Helper()
	for range 20 {
		conn, err := pgx.Connect(t.Context(), primary.ConnectionString(database))
		require.NoError(t, err)
		var sender int
		require.NoError(t, conn.QueryRow(t.Context(), "select pid from pg_stat_replication").Scan(&sender))
		require.NoError(t, conn.Close(t.Context()))
		// A test that fails in between must not leave a process that heeds no order to end. To continue harms nobody.
		t.Cleanup(func() { _ = syscall.Kill(sender, syscall.SIGCONT) })
		require.NoError(t, syscall.Kill(sender, syscall.SIGSTOP))
		passes(t.Context(), longerThan(commitTimeout))
		if ahead := newestRevision(t, primary); ahead > newestRevision(t, standby) {
			return ahead
		}
		// The commit had been sent, and only its receipt was on its way.
		require.NoError(t, syscall.Kill(sender, syscall.SIGCONT))
		l.progress()
	}
	t.Fatal("the standby always had what the primary had")
	return 0
}

// newestRevision is that of the last batch that the server shows.
func newestRevision(t *testing.T, server *privateserver.Server) (revision int64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.ConnectionString(database))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	require.NoError(t, conn.QueryRow(t.Context(), "select max(revision) from batch_log").Scan(&revision))
	return revision
}

// longerThan is a bit more than a time.
func longerThan(d time.Duration) time.Duration { return d + d/4 }

package privateserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgres/privateserver"
)

func exec(t *testing.T, connection string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connection)
	require.NoError(t, err)
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, conn.Close(t.Context()))
}

func count(t *testing.T, connection string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connection)
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from kept").Scan(&n))
	require.NoError(t, conn.Close(t.Context()))
	return n
}

func TestKilledServerKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	cfg := privateserver.Config{Folder: folder(t)}
	s := start(t, cfg)
	exec(t, s.ConnectionString("postgres"), "create table kept ()", "insert into kept default values")
	open, err := pgx.Connect(t.Context(), s.ConnectionString("postgres"))
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), "begin; insert into kept default values")
	require.NoError(t, err)

	require.NoError(t, s.Kill())
	require.NoError(t, s.Kill(), "again")
	require.Error(t, open.Ping(t.Context()), "a connection to a killed server")

	require.Equal(t, 1, count(t, start(t, cfg).ConnectionString("postgres")), "rows after recovery")
}

func TestPromotedStandbyHasEveryCommit(t *testing.T) {
	t.Parallel()
	primary := start(t, privateserver.Config{Folder: folder(t)})
	standby, err := privateserver.StartStandby(t.Context(), primary, privateserver.Config{Folder: folder(t)})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		require.NoError(t, standby.Stop(ctx))
	})
	require.NoError(t, primary.RequireStandby(t.Context()))
	both := privateserver.MultiHost("postgres", standby, primary)
	exec(t, both, "create table kept ()", "insert into kept default values")

	require.NoError(t, primary.Kill())
	require.NoError(t, standby.Promote(t.Context()))
	exec(t, both, "insert into kept default values")
	require.Equal(t, 2, count(t, standby.ConnectionString("postgres")), "rows after the promotion")
}

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgrestest"
	"diego.internal/servicekit/telemetry"
)

func migrateCounters(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `create table counters (name text constraint counters_name primary key, n int not null);
		insert into counters values ('a', 0), ('b', 0)`)
	return err
}

func value(t *testing.T, pool *pgxpool.Pool, name string) int {
	t.Helper()
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), "select n from counters where name = $1", name).Scan(&n))
	return n
}

func TestInTxCommitsOrRollsBack(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateCounters)
	add := func(ctx context.Context, end error) error {
		return postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(context.WithoutCancel(ctx), "update counters set n = n + 1 where name = 'a'")
			return errors.Join(err, end)
		})
	}
	require.NoError(t, add(t.Context(), nil))
	require.Equal(t, 1, value(t, pool, "a"))

	broke := errors.New("broke")
	require.ErrorIs(t, add(t.Context(), broke), broke)
	require.Equal(t, 1, value(t, pool, "a"), "after an error")

	require.PanicsWithValue(t, "on purpose", func() {
		_ = postgres.InTx(t.Context(), pool, func(pgx.Tx) error { panic("on purpose") })
	})

	// The caller goes away in the middle: the transaction still ends, and the connection is good.
	ctx, cancel := context.WithCancel(t.Context())
	err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "update counters set n = 100 where name = 'a'")
		cancel()
		return errors.Join(err, ctx.Err())
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, value(t, pool, "a"), "after the end of the caller's context")
	require.Zero(t, pool.Stat().AcquiredConns(), "connections that were not given back")
}

// Transactions that lock the same rows in different order deadlock, and all succeed all the same.
func TestInTxRepeatsAfterDeadlocks(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateCounters)
	_, err := pool.Exec(t.Context(), fmt.Sprintf("alter database %s set deadlock_timeout = '10ms'", pool.Config().ConnConfig.Database))
	require.NoError(t, err)
	pool.Reset()
	var both sync.WaitGroup // both hold their first lock
	both.Add(2)
	g, ctx := errgroup.WithContext(t.Context())
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		first := true
		g.Go(func() error {
			return postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
				for i, name := range order {
					if _, err := tx.Exec(ctx, "update counters set n = n + 1 where name = $1", name); err != nil {
						return err
					}
					if i == 0 && first {
						first = false
						both.Done()
						both.Wait()
					}
				}
				return nil
			})
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, 2, value(t, pool, "a"))
	require.Equal(t, 2, value(t, pool, "b"))
}

func TestInTxGivesUp(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateCounters)
	attempts := 0
	err := postgres.InTx(t.Context(), pool, func(pgx.Tx) error {
		attempts++
		return &pgconn.PgError{Code: "40001"}
	})
	pg, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "40001", pg.Code)
	require.Equal(t, 5, attempts)
}

func files(statements ...string) fstest.MapFS {
	all := fstest.MapFS{}
	for i, sql := range statements {
		all[fmt.Sprintf("%03d_step.sql", i+1)] = &fstest.MapFile{Data: []byte(sql)}
	}
	return all
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	old := files("create table one ()")
	next := files("create table one ()", "create table two ()")
	// Processes that start together take turns.
	g, ctx := errgroup.WithContext(t.Context())
	for range 5 {
		g.Go(func() error { return postgres.Migrate(ctx, pool, old, "public.x_version") })
	}
	require.NoError(t, g.Wait())
	require.NoError(t, postgres.Migrate(t.Context(), pool, next, "public.x_version"))
	require.NoError(t, postgres.Migrate(t.Context(), pool, old, "public.x_version"), "the previous release on the new schema")
	_, err := pool.Exec(t.Context(), "select from one, two")
	require.NoError(t, err)

	err = postgres.Migrate(t.Context(), pool, files("create table one ()", "create table two ()", "create nonsense"), "public.x_version")
	require.ErrorContains(t, err, "003_step.sql")
	require.NoError(t, postgres.Migrate(t.Context(), pool, next, "public.x_version"), "a failure leaves no lock behind")
}

// A migration may take longer than any statement in service.
func TestMigrateHasNoStatementTimeout(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(postgrestest.New(t, nil))
	pool, err := postgres.Open(t.Context(), postgres.Config{ConnectionString: url, StatementTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "select pg_sleep(1)")
	require.ErrorContains(t, err, "statement timeout")
	require.NoError(t, postgres.Migrate(t.Context(), pool, files("select pg_sleep(0.2)"), "public.x_version"))
}

func TestErrors(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateCounters)
	_, err := pool.Exec(t.Context(), "insert into counters values ('a', 1)")
	require.True(t, postgres.IsUniqueViolation(err, "counters_name"))
	require.True(t, postgres.IsUniqueViolation(fmt.Errorf("adding: %w", err), ""))
	require.False(t, postgres.IsUniqueViolation(err, "another"))
	require.False(t, postgres.IsUnavailable(err))

	_, err = pool.Exec(t.Context(), "select pg_terminate_backend(pg_backend_pid())")
	require.True(t, postgres.IsUnavailable(err), "%v", err)

	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"nothing":               {err: nil},
		"the caller gave up":    {err: fmt.Errorf("x: %w", context.Canceled)},
		"the caller's deadline": {err: fmt.Errorf("x: %w", context.DeadlineExceeded)},
		"a standby":             {err: &pgconn.PgError{Code: "25006"}, want: true},
		"the connection broke":  {err: fmt.Errorf("x: %w", io.ErrUnexpectedEOF), want: true},
		"starting up":           {err: &pgconn.PgError{Code: "57P03"}, want: true},
		"a mistake in the SQL":  {err: &pgconn.PgError{Code: "42601"}},
		"a refused connection":  {err: &net.OpError{Op: "dial", Err: errors.New("refused")}, want: true},
	} {
		require.Equal(t, test.want, postgres.IsUnavailable(test.err), name)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(postgrestest.New(t, nil))
	nobody := unusedAddress(t)
	tests := map[string]struct {
		cfg    postgres.Config
		want   string // of the error
		within time.Duration
	}{
		"a database that answers":                        {cfg: postgres.Config{ConnectionString: url}},
		"a database that does not exist is told at once": {cfg: postgres.Config{ConnectionString: url + " dbname=nowhere"}, want: "nowhere", within: 5 * time.Second},
		"a server that is not there is waited for":       {cfg: postgres.Config{ConnectionString: "postgres://x:s3cret@" + nobody + "/y", OpenTimeout: 300 * time.Millisecond}, want: "reaching the database", within: 5 * time.Second},
		"no connection string":                           {cfg: postgres.Config{ConnectionString: "host=a port=b"}, want: "reading the connection string"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			pool, err := postgres.Open(t.Context(), test.cfg)
			if test.want == "" {
				require.NoError(t, err)
				pool.Close()
				return
			}
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "s3cret")
			if test.within > 0 {
				require.Less(t, time.Since(began), test.within)
			}
		})
	}
}

// unusedAddress returns an address that nobody listens on.
func unusedAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

func TestObserve(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateCounters)
	tel := telemetry.Discard()
	require.NoError(t, postgres.Observe(pool, tel))
	_, err := pool.Exec(t.Context(), "select 1")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "nonsense")
	require.Error(t, err)
	n, err := testutil.GatherAndCount(tel.Registry, "db_open_connections", "db_query_duration_seconds", "db_queries_in_flight")
	require.NoError(t, err)
	require.Equal(t, 1+2+1, n)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yml")
	require.NoError(t, os.WriteFile(file, []byte("connection_string: postgres://u:s3cret@h/d\nconnect_timeout: 2s\n"), 0o600))
	cfg, err := config.Load[postgres.Config]([]string{"-config", file})
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, cfg.ConnectTimeout)
	require.Equal(t, int32(20), cfg.MaxConnections)
	shown, err := yaml.Marshal(cfg)
	require.NoError(t, err)
	require.NotContains(t, string(shown), "s3cret")
	require.Contains(t, string(shown), "statement_timeout: 30s")

	err = (&postgres.Config{ConnectTimeout: -1, MaxConnections: -1}).Validate()
	for _, key := range []string{"connection_string", "connect_timeout", "max_connections"} {
		require.ErrorContains(t, err, key)
	}
}

package postgrestest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgrestest"
)

func migrateThings(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, "create table things (name text primary key)")
	return err
}

func TestNewGivesEachTestItsOwnDatabase(t *testing.T) {
	t.Parallel()
	one, two := postgrestest.New(t, migrateThings), postgrestest.New(t, migrateThings)
	_, err := one.Exec(t.Context(), "insert into things values ('a')")
	require.NoError(t, err)
	var n int
	require.NoError(t, two.QueryRow(t.Context(), "select count(*) from things").Scan(&n))
	require.Zero(t, n, "rows of the first database in the second")
}

func TestNewTellsClosuresApart(t *testing.T) {
	t.Parallel()
	migrate := func(table string) func(context.Context, *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := pool.Exec(ctx, "create table "+table+" ()")
			return err
		}
	}
	for _, table := range []string{"first", "second"} {
		pool := postgrestest.New(t, migrate(table))
		_, err := pool.Exec(t.Context(), "select from "+table)
		require.NoError(t, err)
	}
}

func TestURLReachesTheDatabase(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, migrateThings)
	conn, err := pgx.Connect(t.Context(), postgrestest.URL(pool))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "select from things")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// The database is gone after the test, also if the test still holds a connection.
func TestNewRemovesTheDatabase(t *testing.T) { //nolint:tparallel // the parent looks at what the subtest leaves
	t.Parallel()
	var url string
	t.Run("a test that keeps a connection", func(t *testing.T) { //nolint:paralleltest // the parent looks at what it leaves
		pool := postgrestest.New(t, nil)
		url = postgrestest.URL(pool)
		_, err := pool.Acquire(t.Context())
		require.NoError(t, err)
	})
	_, err := pgx.Connect(t.Context(), url)
	require.ErrorContains(t, err, "does not exist")
}

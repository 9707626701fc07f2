package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"
)

// Migrate brings the schema to the newest of the numbered SQL files (001_name.sql, in the format of
// tern) in the root of migrations. The version is kept in table, which should be schema-qualified
// ("public.locket_version"), one per service. Processes that start together take turns under an
// advisory lock.
//
// A schema that is newer than the files is left alone: migrations are additive, and the previous
// release runs on the schema of the next.
func Migrate(ctx context.Context, pool *pgxpool.Pool, migrations fs.FS, table string) error {
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrating %s: %w", table, err)
	}
	// The connection leaves the pool for good: its settings and, after a failure, its lock go with it.
	conn := pooled.Hijack()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = conn.Close(closing) // what was done is committed
	}()
	if err := migrateOn(ctx, conn, migrations, table); err != nil {
		return fmt.Errorf("migrating %s: %w", table, err)
	}
	return nil
}

func migrateOn(ctx context.Context, conn *pgx.Conn, migrations fs.FS, table string) error {
	// A migration, or waiting for another process's, may take longer than any statement in service.
	if _, err := conn.Exec(ctx, "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0"); err != nil {
		return fmt.Errorf("lifting the statement timeout: %w", err)
	}
	// tern has a lock too, but creates its version table before it takes it.
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", lockKey(table)); err != nil {
		return fmt.Errorf("waiting for the migration lock: %w", err)
	}
	migrator, err := migrate.NewMigrator(ctx, conn, table)
	if err != nil {
		return fmt.Errorf("creating the version table: %w", err)
	}
	if err := migrator.LoadMigrations(migrations); err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	version, err := migrator.GetCurrentVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema version: %w", err)
	}
	if int(version) >= len(migrator.Migrations) {
		return nil
	}
	if err := migrator.Migrate(ctx); err != nil {
		if failed, ok := errors.AsType[migrate.MigrationPgError](err); ok {
			return fmt.Errorf("applying %s: %w", failed.MigrationName, err)
		}
		return err
	}
	return nil
}

// lockKey derives the key of the advisory lock from the version table, so that services that share a
// database do not wait for each other.
func lockKey(table string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("migrate " + table)) // a hash does not fail
	return int64(h.Sum64())                    //nolint:gosec // the sign does not matter
}

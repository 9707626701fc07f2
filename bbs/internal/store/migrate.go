package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/servicekit/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the tables to the version of this program. It waits for another BBS that migrates.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("opening the migrations: %w", err)
	}
	return postgres.Migrate(ctx, pool, files, "bbs_schema_version")
}

package store

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/bbs/internal/schema"
)

// Migrate brings the tables to the version of this program, for those who need no more than tables:
// tests and measurements. A BBS uses package schema, which asks for proof that it may.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	steps, err := schema.Steps()
	if err != nil {
		return err
	}
	migrator, err := schema.New(schema.Config{Pool: pool, Steps: steps})
	if err != nil {
		return err
	}
	_, err = migrator.Run(ctx)
	return err
}

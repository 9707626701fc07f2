package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"diego.internal/locket/internal/lease"
)

const releaseClaim = `
	WITH gone AS (
		DELETE FROM claims AS c WHERE c.key = @key AND c.owner = @owner RETURNING c.*
	)
	INSERT INTO claim_log (kind, ` + columns + `)
	SELECT 3, ` + columns + ` FROM gone
	RETURNING ` + columns

// Release frees the key if owner holds it. A key that nobody holds is no error; it returns
// lease.ErrCollision if another owner holds it.
func (s *Store) Release(ctx context.Context, key, owner string) error {
	var released, remaining []row
	err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var batch pgx.Batch
		batch.Queue(lockLog)
		batch.Queue(releaseClaim, pgx.StrictNamedArgs{"key": key, "owner": owner}).Query(func(r pgx.Rows) (err error) {
			released, err = pgx.CollectRows(r, pgx.RowToStructByName[row])
			return err
		})
		batch.Queue(holdersOf, pgx.StrictNamedArgs{"keys": []string{key}}).Query(func(r pgx.Rows) (err error) {
			remaining, err = pgx.CollectRows(r, pgx.RowToStructByName[row])
			return err
		})
		return tx.SendBatch(ctx, &batch).Close()
	})
	switch {
	case err != nil:
		return fmt.Errorf("releasing %q: %w", key, err)
	case len(released) == 0 && len(remaining) > 0:
		held := remaining[0].held()
		s.metrics.releasesRefused.WithLabelValues(held.Type.String()).Inc()
		return fmt.Errorf("releasing %q: %w", key, lease.CollisionWith(held))
	}
	for _, r := range released {
		s.log.InfoContext(ctx, "claim-released", "key", key, "type", lease.Type(r.Type).String(), "owner", owner)
	}
	return nil
}

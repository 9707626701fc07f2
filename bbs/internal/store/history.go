package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/watch"
)

// errOtherHistory says that the database does not have what this standby has read from it. That
// happens when a primary of Postgres is lost: a commit that its standby never confirmed, and that we
// gave up waiting for, was visible on it and is gone with it, and its revision is given to another
// batch. The state is then to be loaded anew, as if the log were truncated.
var errOtherHistory = watch.ErrTruncated

// batchID names one batch among all that ever had, or lost, its revision. The zero value is none: of a
// database without batches.
type batchID [16]byte

// idOf returns the id of the batch of a revision.
func idOf(ctx context.Context, tx pgx.Tx, revision int64) (id batchID, err error) {
	err = tx.QueryRow(ctx, `select id from batch_log where revision = $1`, revision).Scan(&id)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return batchID{}, fmt.Errorf("reading the newest batch: %w", err)
	}
	return id, nil
}

// sameHistory returns an errOtherHistory unless the newest batch that this standby has applied is in the
// log of the database, as the newest or before that. The newest batch of all is never pruned.
func (s *Store) sameHistory(ctx context.Context) error {
	at := s.view.Load().revision
	var newest int64
	var id *batchID
	err := s.pool.QueryRow(ctx, `select revision, (select id from batch_log where batch_log.revision = $1) from bbs_state`, signed(at)).
		Scan(&newest, &id)
	switch {
	case err != nil:
		return fmt.Errorf("comparing the newest batch: %w", err)
	case unsigned(newest) < at:
		return errOtherHistory.With("the database is at revision %d, and was at %d", newest, at)
	}
	return s.follows(at, id)
}

// follows compares the batch that the log has at our revision with the one that we applied.
func (s *Store) follows(at uint64, id *batchID) error {
	if id != nil && *id != s.tip {
		return errOtherHistory.With("the database has another batch %d than before", at)
	}
	return nil
}

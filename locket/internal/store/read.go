package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"diego.internal/locket/internal/lease"
)

// pageSize is how many claims FetchAll reads at a time.
const pageSize = 250

const fetchClaim = `
	SELECT ` + columns + ` FROM claims AS c WHERE c.key = @key AND NOT ` + expired

const fetchPage = `
	SELECT ` + columns + ` FROM claims AS c
	WHERE c.type = @type AND c.key > @after AND starts_with(c.key, @prefix) AND NOT ` + expired + `
	ORDER BY c.key LIMIT @limit`

// Fetch returns who holds the key, or lease.ErrNotFound.
func (s *Store) Fetch(ctx context.Context, key string) (lease.Held, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, fetchClaim, pgx.StrictNamedArgs{"key": key})
	if err == nil {
		var found row
		if found, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row]); err == nil {
			return found.held(), nil
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return lease.Held{}, lease.ErrNotFound.With("%q", key)
	}
	return lease.Held{}, unavailable(ctx, fmt.Errorf("fetching %q: %w", key, err))
}

// FetchAll calls each with every claim of the type, in key order and in pages of at most 250. What
// changes between two pages may or may not be in the result. It stops at the first error of each.
func (s *Store) FetchAll(ctx context.Context, typ lease.Type, each func([]lease.Held) error) error {
	after := ""
	for {
		page, err := s.page(ctx, s.pool, pageOf{typ: typ, after: after, limit: pageSize})
		if err != nil {
			return err
		}
		if len(page) > 0 {
			if err := each(page); err != nil {
				return err
			}
			after = page[len(page)-1].Key
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// pageOf names a page: the claims of one type with a prefix that follow a key.
type pageOf struct {
	typ    lease.Type
	prefix string
	after  string
	limit  int64
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *Store) page(ctx context.Context, from querier, p pageOf) ([]lease.Held, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	rows, err := from.Query(ctx, fetchPage, pgx.StrictNamedArgs{
		"type": int16(p.typ), "prefix": p.prefix, "after": p.after, "limit": p.limit,
	})
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("listing claims: %w", err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("listing claims: %w", err))
	}
	held := make([]lease.Held, len(found))
	for i, r := range found {
		held[i] = r.held()
	}
	return held, nil
}

// snapshot is what is held at one moment, and the last revision that it contains.
type snapshot struct {
	revision int64
	held     []lease.Held
}

// snapshotOf reads, in one view of the database, what a watch begins with.
func (s *Store) snapshotOf(ctx context.Context, typ lease.Type, prefix string) (snapshot, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	var snap snapshot
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
		// max, not the sequence: the sequence also counts what has not been committed.
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(revision), 0) FROM claim_log`).Scan(&snap.revision); err != nil {
			return fmt.Errorf("reading the revision: %w", err)
		}
		var err error
		snap.held, err = s.page(ctx, tx, pageOf{typ: typ, prefix: prefix, limit: maxSnapshot})
		return err
	})
	if err != nil {
		return snapshot{}, unavailable(ctx, fmt.Errorf("reading what is held: %w", err))
	}
	return snap, nil
}

// maxSnapshot bounds what a watch begins with. An installation has a presence per cell.
const maxSnapshot = 100_000

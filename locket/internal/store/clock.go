package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"diego.internal/locket/internal/lease"
)

// Every server looks at the database's clock several times a second and notes the time in
// claim_clock. As long as the note is fresh, time passes as it should and what is past its expiry is
// over. A note that is old, or lies in the future, has one of three causes, and no server can tell
// which: the database was away, no locket was alive, or somebody set the clock. In all of them holders
// could not renew although they were alive, or seem not to have. So nothing expires until a server
// has extended what is held by the length of the gap, each claim to at most its full time from now on,
// and noted the time again.
//
// The gap that goes unnoticed has to be shorter than the margin that holders keep (at least 1 s, see
// lease.Terms), or a step of the clock by less could end a lease that its holder still trusts.

// clockConfirmed is the SQL for "the note is fresh".
const clockConfirmed = `(SELECT seen BETWEEN clock_timestamp() - interval '1 s' AND clock_timestamp() + interval '1 s' FROM claim_clock)`

// lookEvery is how often a server looks; several must fit into the second of clockConfirmed.
const lookEvery = 250 * time.Millisecond

// lookTimeout bounds one look, so that a database that does not answer is noticed.
const lookTimeout = time.Second

const confirmClock = `UPDATE claim_clock SET seen = clock_timestamp() WHERE ` + clockConfirmed

// summarize is what the sweeper and the metrics want to know.
const summarize = `
	SELECT c.type, count(*) AS count,
		coalesce(extract(epoch FROM min(c.expires_at) - clock_timestamp()), 0)::float8 AS due,
		coalesce(extract(epoch FROM max(clock_timestamp() - c.expires_at + c.ttl_ms * interval '1 ms')), 0)::float8 AS age
	FROM claims AS c GROUP BY c.type`

// summary describes the claims of one type.
type summary struct {
	Type  int16
	Count int64
	Due   float64 // seconds until the first expiry; negative if it has passed
	Age   float64 // seconds since the oldest renewal
}

// look notes the time, bridges a gap if there is one, and returns what is held.
func (s *Store) look(ctx context.Context) ([]summary, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, errSlow)
	defer cancel()
	confirmed := true
	var summaries []summary
	var batch pgx.Batch
	batch.Queue(withoutWaitingForDisk)
	batch.Queue(confirmClock).Exec(func(tag pgconn.CommandTag) error {
		confirmed = tag.RowsAffected() == 1
		return nil
	})
	batch.Queue(summarize).Query(func(r pgx.Rows) (err error) {
		summaries, err = pgx.CollectRows(r, pgx.RowToStructByName[summary])
		return err
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("looking at the clock: %w", err)
	}
	if !confirmed {
		return nil, s.bridge(ctx)
	}
	return summaries, nil
}

// extend gives back to every claim what the gap took from it, and no more: a claim never lasts
// longer than its time to live from now on, and one that had run out before the gap stays so.
const extend = `
	UPDATE claims SET expires_at = LEAST(
		clock_timestamp() + ttl_ms * interval '1 ms',
		expires_at + GREATEST(@gap::bigint, 0) * interval '1 us')`

// bridge extends what is held by the length of the gap, once for all servers.
func (s *Store) bridge(ctx context.Context) error {
	var gap time.Duration
	var extended int64
	err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		gap, extended = 0, 0
		var confirmed bool
		var microseconds int64
		// The lock on the row lets one server do it; the next one finds the note fresh.
		row := tx.QueryRow(ctx, `SELECT `+clockConfirmed+`,
			(extract(epoch FROM clock_timestamp() - seen) * 1000000)::bigint FROM claim_clock FOR UPDATE`)
		if err := row.Scan(&confirmed, &microseconds); err != nil {
			return fmt.Errorf("reading the clock: %w", err)
		}
		if confirmed {
			return nil
		}
		gap = time.Duration(microseconds) * time.Microsecond
		tag, err := tx.Exec(ctx, extend, pgx.StrictNamedArgs{"gap": microseconds})
		if err != nil {
			return fmt.Errorf("extending claims: %w", err)
		}
		extended = tag.RowsAffected()
		if _, err := tx.Exec(ctx, `UPDATE claim_clock SET seen = clock_timestamp()`); err != nil {
			return fmt.Errorf("confirming the clock: %w", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("bridging a gap of the clock: %w", err)
	}
	// Nothing to say when nothing was held: that is how every installation begins.
	if extended > 0 {
		s.metrics.bridged.Inc()
		s.log.WarnContext(ctx, "claims-extended-after-a-gap", "gap", gap.String(), "claims", extended)
	}
	return nil
}

const sweepDue = `
	WITH due AS (
		SELECT c.key FROM claims AS c WHERE ` + expired + ` ORDER BY c.expires_at LIMIT 500 FOR UPDATE SKIP LOCKED
	), gone AS (
		DELETE FROM claims AS c USING due WHERE c.key = due.key RETURNING c.*
	)
	INSERT INTO claim_log (kind, ` + columns + `)
	SELECT 4, ` + columns + ` FROM gone
	RETURNING ` + columns

// sweep ends what has run out and returns how much that was. A row that a renewal is just writing is
// left alone.
func (s *Store) sweep(ctx context.Context) (int, error) {
	var gone []row
	err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		gone = nil
		var batch pgx.Batch
		batch.Queue(lockLog)
		batch.Queue(sweepDue).Query(func(r pgx.Rows) (err error) {
			gone, err = pgx.CollectRows(r, pgx.RowToStructByName[row])
			return err
		})
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return 0, fmt.Errorf("sweeping expired claims: %w", err)
	}
	s.countExpired(ctx, gone)
	return len(gone), nil
}

func (s *Store) countExpired(ctx context.Context, gone []row) {
	for _, r := range gone {
		typ := lease.Type(r.Type)
		switch typ {
		case lease.TypeLock:
			s.metrics.locksExpired.Inc()
		case lease.TypePresence:
			s.metrics.presencesExpired.Inc()
		}
		s.log.InfoContext(ctx, "claim-expired", "key", r.Key, "type", typ.String(), "owner", r.Owner, "token", r.Token)
	}
}

// keepLog is how much history a watch can be behind before it has to start anew.
const keepLog = 10 * time.Minute

const pruneLog = `
	WITH gone AS (
		DELETE FROM claim_log WHERE logged_at < now() - @keep::bigint * interval '1 us' RETURNING revision
	), last AS (
		SELECT max(revision) AS revision FROM gone
	)
	UPDATE claim_clock SET pruned = GREATEST(pruned, last.revision) FROM last WHERE last.revision IS NOT NULL`

// prune forgets what is older than keep.
func (s *Store) prune(ctx context.Context, keep time.Duration) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, pruneLog, pgx.StrictNamedArgs{"keep": keep.Microseconds()}); err != nil {
		return fmt.Errorf("pruning the log of claims: %w", err)
	}
	return nil
}

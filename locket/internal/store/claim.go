package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"diego.internal/locket/internal/lease"
)

// renewal is the statement of almost every call: the owner asks again, with nothing new to tell. It
// is written for many rows at once, writes no log, and does not wait for the disk: if the database
// crashes and loses it, the outage is longer than what was lost, and the grace for the outage (see
// clock.go) covers both. now() is when the statement began, so a renewal that waited for its turn may
// come after a newer one: it must not take back what the holder counts on.
const renewal = `
	UPDATE claims AS c
	SET expires_at = GREATEST(c.expires_at, now() + a.ttl_ms * interval '1 ms'), ttl_ms = a.ttl_ms
	FROM unnest(@keys::text[], @owners::text[], @types::smallint[], @values::text[], @ttls::bigint[])
		AS a(key, owner, type, value, ttl_ms)
	WHERE c.key = a.key AND c.owner = a.owner AND c.type = a.type AND c.value = a.value
	RETURNING c.key, c.type, c.owner, c.holder, '' AS value, c.ttl_ms, c.expires_at, c.acquired_at, c.token, c.incarnation`

const withoutWaitingForDisk = `SELECT set_config('synchronous_commit', 'off', true)`

// lockLog makes its transaction the only one that writes the log, until it has ended. Revisions are
// drawn under it, so they are committed in their order, and a reader that has seen one revision will
// never be shown a lower one.
const lockLog = `SELECT pg_advisory_xact_lock(hashtext('claim_log'))`

// expireKeys ends what has run out among the keys that are asked for, so that an acquisition never
// waits for a sweeper, and a watcher is told of the expiry before the acquisition.
const expireKeys = `
	WITH gone AS (
		DELETE FROM claims AS c WHERE c.key = ANY (@keys::text[]) AND ` + expired + ` RETURNING c.*
	)
	INSERT INTO claim_log (kind, ` + columns + `)
	SELECT 4, ` + columns + ` FROM gone
	RETURNING ` + columns

// acquisition takes every key that is free, or that its present owner or a later run of the same
// holder of a presence asks for; package lease has the same rule in Go. A key that is refused is
// missing from the result. The token of a claim is the revision of its acquisition.
const acquisition = `
	WITH asked AS (
		SELECT * FROM unnest(@keys::text[], @owners::text[], @holders::text[], @types::smallint[], @values::text[],
			@ttls::bigint[], @incarnations::bigint[]) AS a(key, owner, holder, type, value, ttl_ms, incarnation)
	), before AS (
		SELECT c.key, c.token, c.value FROM claims AS c JOIN asked USING (key)
	), taken AS (
		INSERT INTO claims AS c (` + columns + `)
		SELECT key, type, owner, holder, value, ttl_ms, now() + ttl_ms * interval '1 ms', now(),
			nextval('claim_revision'), incarnation
		FROM asked
		ON CONFLICT (key) DO UPDATE SET
			owner       = excluded.owner,
			value       = excluded.value,
			ttl_ms      = excluded.ttl_ms,
			expires_at  = CASE WHEN c.owner = excluded.owner THEN GREATEST(c.expires_at, excluded.expires_at)
				ELSE excluded.expires_at END,
			holder      = CASE WHEN c.owner = excluded.owner THEN c.holder      ELSE excluded.holder      END,
			acquired_at = CASE WHEN c.owner = excluded.owner THEN c.acquired_at ELSE excluded.acquired_at END,
			token       = CASE WHEN c.owner = excluded.owner THEN c.token       ELSE excluded.token       END,
			incarnation = CASE WHEN c.owner = excluded.owner THEN c.incarnation ELSE excluded.incarnation END
		WHERE c.type = excluded.type AND (
			c.owner = excluded.owner
			OR c.type = 2 AND c.holder = excluded.holder AND excluded.incarnation > c.incarnation
		)
		RETURNING c.*
	), changed AS (
		SELECT t.*, b.token IS DISTINCT FROM t.token AS acquired
		FROM taken AS t LEFT JOIN before AS b USING (key)
		WHERE b.token IS DISTINCT FROM t.token OR b.value <> t.value
	), logged AS (
		INSERT INTO claim_log (revision, kind, ` + columns + `)
		SELECT CASE WHEN acquired THEN token ELSE nextval('claim_revision') END, CASE WHEN acquired THEN 1 ELSE 2 END, ` + columns + `
		FROM changed
	)
	SELECT ` + prefixedColumns + `, coalesce(ch.acquired, false) AS acquired
	FROM taken AS t LEFT JOIN changed AS ch USING (key)`

const prefixedColumns = `t.key, t.type, t.owner, t.holder, t.value, t.ttl_ms, t.expires_at, t.acquired_at, t.token, t.incarnation`

// holdersOf reads who is in the way. The value is left out, it may be large.
const holdersOf = `
	SELECT c.key, c.type, c.owner, c.holder, '' AS value, c.ttl_ms, c.expires_at, c.acquired_at, c.token, c.incarnation
	FROM claims AS c
	WHERE c.key = ANY (@keys::text[]) AND NOT ` + expired

// arguments turns a group into the arrays of the statements above.
func arguments(group []*request) pgx.StrictNamedArgs {
	n := len(group)
	keys, owners, holders, values := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	types, ttls, incarnations := make([]int16, n), make([]int64, n), make([]int64, n)
	for i, r := range group {
		keys[i], owners[i], holders[i], values[i] = r.Key, r.Owner, r.Holder, r.Value
		types[i], ttls[i], incarnations[i] = int16(r.Type), r.TTL.Milliseconds(), r.Incarnation
	}
	return pgx.StrictNamedArgs{
		"keys": keys, "owners": owners, "holders": holders, "types": types, "values": values,
		"ttls": ttls, "incarnations": incarnations,
	}
}

// only picks the arguments that one statement has, because strict arguments may not be left over.
func only(args pgx.StrictNamedArgs, names ...string) pgx.StrictNamedArgs {
	picked := make(pgx.StrictNamedArgs, len(names))
	for _, name := range names {
		picked[name] = args[name]
	}
	return picked
}

// renew renews what it can and returns those claims by key.
func (s *Store) renew(ctx context.Context, group []*request) (map[string]lease.Held, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	var batch pgx.Batch
	batch.Queue(withoutWaitingForDisk)
	var rows []row
	batch.Queue(renewal, only(arguments(group), "keys", "owners", "types", "values", "ttls")).Query(func(r pgx.Rows) (err error) {
		rows, err = pgx.CollectRows(r, pgx.RowToStructByName[row])
		return err
	})
	// Without BEGIN, one batch is one transaction in one round trip.
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, unavailable(ctx, fmt.Errorf("renewing claims: %w", err))
	}
	return byKey(rows), nil
}

// holders returns who holds the keys of the group.
func (s *Store) holders(ctx context.Context, group []*request) (map[string]lease.Held, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, holdersOf, only(arguments(group), "keys"))
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("reading holders: %w", err))
	}
	held, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("reading holders: %w", err))
	}
	return byKey(held), nil
}

// outcome is what became of a group of acquisitions.
type outcome struct {
	taken   map[string]lease.Granted
	holders map[string]lease.Held // of the keys afterwards
	expired []row
}

// acquire takes what it can of a group that has no key twice.
func (s *Store) acquire(ctx context.Context, group []*request) (outcome, error) {
	args := arguments(group)
	var out outcome
	err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		out = outcome{taken: map[string]lease.Granted{}} // the transaction may be repeated
		var batch pgx.Batch
		batch.Queue(lockLog)
		batch.Queue(expireKeys, only(args, "keys")).Query(func(r pgx.Rows) (err error) {
			out.expired, err = pgx.CollectRows(r, pgx.RowToStructByName[row])
			return err
		})
		batch.Queue(acquisition, args).Query(func(r pgx.Rows) error {
			rows, err := pgx.CollectRows(r, pgx.RowToStructByName[takenRow])
			for _, t := range rows {
				out.taken[t.Key] = lease.Granted{Held: t.held(), Acquired: t.Acquired}
			}
			return err
		})
		batch.Queue(holdersOf, only(args, "keys")).Query(func(r pgx.Rows) error {
			rows, err := pgx.CollectRows(r, pgx.RowToStructByName[row])
			out.holders = byKey(rows)
			return err
		})
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return outcome{}, fmt.Errorf("acquiring claims: %w", err)
	}
	return out, nil
}

type takenRow struct {
	row
	Acquired bool
}

func byKey(rows []row) map[string]lease.Held {
	held := make(map[string]lease.Held, len(rows))
	for _, r := range rows {
		held[r.Key] = r.held()
	}
	return held
}

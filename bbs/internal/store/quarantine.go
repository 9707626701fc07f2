package store

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Quarantined names a row that could not be read. The row stays where it is.
type Quarantined struct {
	Table   string
	Key     string
	Problem string
	FoundAt time.Time
}

// quarantine knows the rows that are stored but not in memory, so that nothing takes them for absent.
type quarantine struct {
	mu   sync.RWMutex
	rows map[[2]string]bool
}

func (q *quarantine) replace(bad []Quarantined) {
	rows := make(map[[2]string]bool, len(bad))
	for _, b := range bad {
		rows[[2]string{b.Table, b.Key}] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rows = rows
}

func (q *quarantine) has(table, key string) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.rows[[2]string{table, key}]
}

func (q *quarantine) count() int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return len(q.rows)
}

// DesiredQuarantined reports whether a desired LRP is stored but cannot be read. Its instances are
// desired, whatever the state in memory says, and it can be neither created nor changed.
func (s *Store) DesiredQuarantined(guid string) bool { return s.quarantine.has("desired_lrps", guid) }

// TaskQuarantined reports whether a task is stored but cannot be read.
func (s *Store) TaskQuarantined(guid string) bool { return s.quarantine.has("tasks", guid) }

// recordQuarantine makes the quarantine table say what could not be read at this load. Failing to is
// no reason not to serve: the rows are counted, and found again at the next load.
func (s *Store) recordQuarantine(ctx context.Context, bad []Quarantined) {
	now := s.cfg.Clock()
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tables := column(bad, func(q Quarantined) string { return q.Table })
		keys := column(bad, func(q Quarantined) string { return q.Key })
		_, err := tx.Exec(ctx, `delete from quarantine q where not exists (
			select from unnest($1::text[], $2::text[]) as u (t, k) where q.table_name = u.t and q.key = u.k)`, tables, keys)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into quarantine (table_name, key, problem, found_at)
			select t, k, p, $4 from unnest($1::text[], $2::text[], $3::text[]) as u (t, k, p)
			on conflict (table_name, key) do update set problem = excluded.problem`,
			tables, keys, column(bad, func(q Quarantined) string { return q.Problem }), now)
		return err
	})
	if err != nil {
		s.log.WarnContext(ctx, "quarantine-not-recorded", "error", err)
	}
	for _, q := range bad {
		s.log.ErrorContext(ctx, "record-quarantined", "table", q.Table, "key", q.Key, "problem", q.Problem)
	}
}

// QuarantinedRecords returns all rows that could not be read at the last load, in order of table and
// key. It asks Postgres.
func (s *Store) QuarantinedRecords(ctx context.Context) ([]Quarantined, error) {
	rows, err := s.pool.Query(ctx, `select table_name, key, problem, found_at from quarantine order by table_name, key`)
	if err != nil {
		return nil, s.readError(err, ErrUnavailable, "reading the quarantine")
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Quarantined])
	if err != nil {
		return nil, s.readError(err, ErrUnavailable, "reading the quarantine")
	}
	return slices.Clip(found), nil
}

// QuarantinedCount is how many rows could not be read at the last load.
func (s *Store) QuarantinedCount() int { return s.quarantine.count() }

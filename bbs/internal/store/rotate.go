package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/seal"
	"diego.internal/servicekit/postgres"
)

// Rotation says how fast values under an old key are sealed anew: at most Batch of them, or about
// rotateBytes, in one statement, and then a pause that is no shorter than the statement took.
type Rotation struct {
	Batch int           // 0 is 100
	Pause time.Duration // 0 is 50 ms
}

func (r Rotation) withDefaults() Rotation {
	if r.Batch == 0 {
		r.Batch = 100
	}
	if r.Pause == 0 {
		r.Pause = 50 * time.Millisecond
	}
	return r
}

const (
	rotateBytes = 1 << 20
	// rotateRetry is the pause after an attempt that failed as a whole.
	rotateRetry = 5 * time.Second
)

// sealedColumn is a column of sealed values. Its rows are named by one or two texts.
type sealedColumn struct {
	table, column string
	key           string // the two columns that name a row, as text
	order         string // the same, in the order of the primary key
	after         string // condition for rows behind ($1, $2)
	match         string // condition for row t being (u.a, u.b)
	first         string // before the first $1
	place         func(a, b string) seal.Place
}

// sealedColumns are all columns that hold sealed values; a new one must be added, which a test sees to.
func sealedColumns() []sealedColumn {
	single := func(table, key, column string, place func(string) seal.Place) sealedColumn {
		return sealedColumn{
			table: table, column: column, key: key + ", ''", order: key, after: key + " > $1 and $2 = ''", match: "t." + key + " = u.a",
			place: func(a, _ string) seal.Place { return place(a) },
		}
	}
	return []sealedColumn{
		{
			table: "lrp_definitions", column: "definition", key: "process_guid, definition_id", order: "process_guid, definition_id",
			after: "(process_guid, definition_id) > ($1, $2)", match: "t.process_guid = u.a and t.definition_id = u.b", place: placeOfDefinition,
		},
		single("task_definitions", "guid", "definition", placeOfTaskDefinition),
		single("desired_lrps", "process_guid", "client_data", placeOfClientData),
		single("tasks", "guid", "result", placeOfResult),
		{
			// The name alone would be the text, and 10 before 2.
			table: "batch_log", column: "changes", key: "revision::text, ''", order: "batch_log.revision", after: "revision > $1::text::bigint and $2 = ''",
			match: "t.revision = u.a::bigint", first: "0", place: func(a, _ string) seal.Place { return placeOfBatchText(a) },
		},
	}
}

// Rotate seals every value anew that is under another key than the active one, and strikes out the labels
// of old keys when nothing is left under them. It returns nil when that is done or ctx ends. Only the
// active BBS calls it, after TakeOver, beside Run.
//
// A value is replaced only if it is still what was read and nobody else has become active meanwhile. The
// label is in each value, so a rotation that was broken off goes on where it was. Values that cannot be
// opened are counted and left alone. Memory, caches and watchers do not notice.
func (s *Store) Rotate(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		again, err := s.rotateOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFenced):
			return err
		case err != nil:
			if !postgres.IsUnavailable(err) {
				s.log.WarnContext(ctx, "key-rotation-interrupted", "error", s.unrecoverable(err))
			}
			timer.Reset(rotateRetry)
		case !again:
			return nil
		default:
			timer.Reset(0)
		}
	}
}

// rotateOnce goes once through all sealed values. It reports whether it has to be done again, because
// values changed while it looked at them.
func (s *Store) rotateOnce(ctx context.Context) (again bool, err error) {
	old, err := s.oldLabels(ctx)
	if err != nil {
		return false, err
	}
	if len(old) == 0 {
		s.rotation.set(map[string]int{}, map[string]int{})
		return false, nil
	}
	left, err := s.countOld(ctx)
	if err != nil {
		return false, err
	}
	s.rotation.set(left, map[string]int{})
	started := time.Now()
	s.log.InfoContext(ctx, "key-rotation-started", "active_key", s.keys.Active(), "old_keys", old, "values", left)
	conflicts, moved := 0, 0
	for _, column := range sealedColumns() {
		m, c, err := s.rotateColumn(ctx, column)
		if err != nil {
			return false, fmt.Errorf("sealing %s of %s anew: %w", column.column, column.table, err)
		}
		conflicts, moved = conflicts+c, moved+m
	}
	if conflicts > 0 {
		return true, nil
	}
	if err := s.strikeOut(ctx, old); err != nil {
		return false, fmt.Errorf("striking out labels: %w", err)
	}
	s.log.InfoContext(ctx, "key-rotation-finished", "active_key", s.keys.Active(), "removable", old, "values", moved,
		"unreadable", s.KeyRotation().Unreadable, "after_ms", time.Since(started).Milliseconds())
	return false, nil
}

// oldLabels returns the labels other than the active one that values may be under.
func (s *Store) oldLabels(ctx context.Context) ([]string, error) {
	labels, err := readLabels(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(labels, func(label string) bool { return label == s.keys.Active() }), nil
}

// readLabels returns all labels that values may be under.
func readLabels(ctx context.Context, db postgresReader) ([]string, error) {
	rows, err := db.Query(ctx, `select label from sealing_labels order by label`)
	if err != nil {
		return nil, fmt.Errorf("reading the labels of keys: %w", err)
	}
	labels, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var label []byte
		err := row.Scan(&label)
		return string(label), err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the labels of keys: %w", err)
	}
	return labels, nil
}

// countOld counts the values that are not under the active label, by label; "" has those without one.
func (s *Store) countOld(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	prefix := s.keys.Prefix()
	for _, c := range sealedColumns() {
		rows, err := s.pool.Query(ctx, fmt.Sprintf(`select label, count(*) from (
				select case when octet_length(head) > 2 then substring(head from 3 for get_byte(head, 1)) else '' end as label
				from (select substring(%[1]s from 1 for 129) as head from %[2]s where %[1]s is not null) heads
				where substring(head from 1 for $1) <> $2) labels
			group by label`, c.column, c.table), len(prefix), prefix)
		if err != nil {
			return nil, fmt.Errorf("counting values of %s: %w", c.table, err)
		}
		var label []byte
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&label, &n}, func() error { counts[string(label)] += n; return nil }); err != nil {
			return nil, fmt.Errorf("counting values of %s: %w", c.table, err)
		}
	}
	return counts, nil
}

// rotateColumn goes through one column in the order of its key.
func (s *Store) rotateColumn(ctx context.Context, c sealedColumn) (moved, conflicts int, err error) {
	a, b := c.first, ""
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return moved, conflicts, context.Cause(ctx)
		case <-timer.C:
		}
		started := time.Now()
		page, err := s.oldValues(ctx, c, a, b)
		if err != nil || len(page) == 0 {
			return moved, conflicts, err
		}
		a, b = page[len(page)-1].a, page[len(page)-1].b
		m, missed, err := s.sealAnew(ctx, c, page)
		if err != nil {
			return moved, conflicts, err
		}
		moved, conflicts = moved+m, conflicts+missed
		timer.Reset(max(s.cfg.Rotation.Pause, time.Since(started)))
	}
}

// oldValue is a sealed value under another label than the active one, and the same sealed anew.
type oldValue struct {
	a, b   string // the name of the row
	sealed []byte
	anew   []byte
	label  string
}

// oldValues reads the next values that are not under the active label.
func (s *Store) oldValues(ctx context.Context, c sealedColumn, a, b string) ([]oldValue, error) {
	prefix := s.keys.Prefix()
	rows, err := s.pool.Query(ctx, fmt.Sprintf(`select a, b, sealed from (
			select a, b, sealed, row_number() over () as nr, sum(octet_length(sealed)) over (rows unbounded preceding) - octet_length(sealed) as before
			from (select %[1]s, %[2]s from %[3]s where %[4]s and substring(%[2]s from 1 for $3) <> $4 order by %[5]s limit $5) as old (a, b, sealed)
		) sized where before < $6 order by nr`, c.key, c.column, c.table, c.after, c.order),
		a, b, len(prefix), prefix, s.cfg.Rotation.Batch, rotateBytes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (oldValue, error) {
		var v oldValue
		err := row.Scan(&v.a, &v.b, &v.sealed)
		return v, err
	})
}

// sealAnew replaces values in one statement, which does nothing if another BBS has become active. It
// returns how many are done and how many were not there any more as they were read.
func (s *Store) sealAnew(ctx context.Context, c sealedColumn, page []oldValue) (moved, conflicts int, err error) {
	good := page[:0]
	for _, v := range page {
		place := c.place(v.a, v.b)
		v.label, _ = seal.LabelOf(v.sealed) // a value without label does not open
		plain, err := s.keys.Open(v.sealed, place)
		if err != nil {
			s.rotation.isUnreadable(v.label)
			s.log.ErrorContext(ctx, "value-unreadable", "table", c.table, "key", place.Key, "label", v.label, "error", err)
			continue
		}
		if v.anew, err = s.keys.Seal(plain, place); err != nil {
			return 0, 0, err
		}
		good = append(good, v)
	}
	if len(good) == 0 {
		return 0, 0, nil
	}
	// The lock on the state is held for this statement only. It waits for a batch that is being
	// committed, and the next batch waits for it. Whoever raises the epoch as a new master becomes the
	// holder: either before this statement, and then there is no row to join, or after it.
	var fence, done int
	err = s.pool.QueryRow(ctx, fmt.Sprintf(`with fence as materialized (select from bbs_state where holder = $5 for share),
		done as (update %[1]s t set %[2]s = u.anew
			from fence, unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) as u (a, b, sealed, anew)
			where %[3]s and t.%[2]s = u.sealed returning 1)
		select (select count(*) from fence), (select count(*) from done)`, c.table, c.column, c.match),
		column(good, func(v oldValue) string { return v.a }), column(good, func(v oldValue) string { return v.b }),
		column(good, func(v oldValue) []byte { return v.sealed }), column(good, func(v oldValue) []byte { return v.anew }),
		s.holder).Scan(&fence, &done)
	switch {
	case err != nil:
		return 0, 0, err
	case fence == 0:
		s.metrics.fenced.Inc()
		return 0, 0, ErrFenced.With("sealing values anew")
	}
	for _, v := range good {
		s.rotation.done(v.label, 1)
	}
	s.metrics.resealed.Add(float64(done))
	s.metrics.resealConflicts.Add(float64(len(good) - done))
	return done, len(good) - done, nil
}

// strikeOut removes labels that no value is under any more that can be read.
func (s *Store) strikeOut(ctx context.Context, labels []string) error {
	var fence int
	err := s.pool.QueryRow(ctx, `with fence as materialized (select from bbs_state where holder = $1 for share),
		done as (delete from sealing_labels using fence where label = any($2::bytea[]) returning 1)
		select count(*) from fence where (select count(*) from done) >= 0`,
		s.holder, column(labels, func(label string) []byte { return []byte(label) })).Scan(&fence)
	if err == nil && fence == 0 {
		err = ErrFenced
	}
	return err
}

// placeOfBatchText is placeOfBatch for a revision as text.
func placeOfBatchText(revision string) seal.Place {
	n, _ := strconv.ParseUint(revision, 10, 64) // it comes from a column of numbers
	return placeOfBatch(n)
}

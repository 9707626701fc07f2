package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
	"diego.internal/servicekit/postgres"
)

// Comparison says how often memory is compared with the tables, and how gently.
type Comparison struct {
	Interval time.Duration // from the end of one to the beginning of the next; 0 is 10 minutes
	Chunk    int           // rows that are read at once; 0 is 2,000
	Pause    time.Duration // between two chunks, at the least; 0 is 200 ms
}

func (c Comparison) withDefaults() Comparison {
	if c.Interval == 0 {
		c.Interval = 10 * time.Minute
	}
	if c.Chunk == 0 {
		c.Chunk = 2000
	}
	if c.Pause == 0 {
		c.Pause = 200 * time.Millisecond
	}
	return c
}

// pauseAfter is the pause after a chunk that took so long.
func (c Comparison) pauseAfter(chunk time.Duration) time.Duration {
	return max(c.Pause, compareShare*chunk)
}

const (
	// compareShare is how many times as long as a chunk took is paused after it. A comparison takes a twentieth of the time, and
	// where there is other work to do a chunk takes longer and the next one waits for longer.
	compareShare = 19
	// comparePatience is how long memory may take to reach the revision of the rows that were read.
	comparePatience = 10 * time.Second
	// maxViews bounds the views that are kept meanwhile.
	maxViews = 4096
	// maxDifferencesLogged bounds the log lines of one comparison; all differences are counted.
	maxDifferencesLogged = 20
)

// errNotReached says that memory has not been at the revision of the rows that were read.
var errNotReached = errors.New("memory was not at that revision")

// difference is one row that is not the same in memory and in its table.
type difference struct {
	table, key string
	kind       string // "missing in memory", "missing in the table", "differs", "unreadable"
}

// Compare compares memory with the tables again and again until ctx ends: in chunks, each read as one
// moment saw it and compared with what memory held at the same revision. A standby that finds a
// difference loads the tables anew. The active BBS says so as loudly as it can and goes on: which side is
// right is for people to decide.
func (s *Store) Compare(ctx context.Context) error {
	timer := time.NewTimer(s.cfg.Comparison.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := s.compareOnce(ctx); err != nil && ctx.Err() == nil {
			s.metrics.comparisonErrors.Inc()
			if !postgres.IsUnavailable(err) && !errors.Is(err, errNotReached) {
				s.log.WarnContext(ctx, "comparison-failed", "error", s.unrecoverable(err))
			}
		}
		timer.Reset(s.cfg.Comparison.Interval)
	}
}

// compareOnce compares everything once. A standby stops at the first chunk with a difference.
func (s *Store) compareOnce(ctx context.Context) error {
	if s.view.Load() == nil || s.reload.Load() {
		return nil // nothing to compare yet
	}
	pass := comparisonResult{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, table := range comparedTables() {
		cursor := table.start
		for more := true; more; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-timer.C:
			}
			began := time.Now()
			next, rows, found, err := s.compareChunk(ctx, table, cursor)
			if err != nil {
				return fmt.Errorf("comparing %s: %w", table.sqlName, err)
			}
			pass.Rows += rows
			s.metrics.comparedRows.Add(float64(rows))
			s.tellDifferences(ctx, &pass, found)
			if len(found) > 0 && !s.Active() {
				s.comparison.finish(&pass, s.cfg.Clock())
				s.reload.Store(true)
				return nil
			}
			cursor, more = next, next != nil
			timer.Reset(s.cfg.Comparison.pauseAfter(time.Since(began)))
		}
	}
	s.comparison.finish(&pass, s.cfg.Clock())
	if pass.Differences > 0 {
		s.log.ErrorContext(ctx, "state-differs-from-tables", "differences", pass.Differences, "rows", pass.Rows)
	}
	return nil
}

// tellDifferences logs and counts what one chunk has shown.
func (s *Store) tellDifferences(ctx context.Context, pass *comparisonResult, found []difference) {
	for _, d := range found {
		s.metrics.differences.WithLabelValues(d.table, d.kind).Inc()
		if pass.Differences++; pass.Differences > maxDifferencesLogged {
			continue
		}
		text := fmt.Sprintf("%s %s: %s", d.table, d.key, d.kind)
		pass.First = append(pass.First, text)
		s.log.ErrorContext(ctx, "row-differs", "table", d.table, "key", d.key, "kind", d.kind, "active", s.Active())
	}
}

// compareChunk compares the rows behind a cursor. It returns the cursor of the next chunk, nil at the end.
func (s *Store) compareChunk(ctx context.Context, table comparedTable, cursor []any) (next []any, rows int, found []difference, err error) {
	s.comparison.record(s.view.Load())
	defer s.comparison.stop()
	l := &loader{keys: s.keys, state: newState()}
	var revision int64
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select revision from bbs_state`).Scan(&revision); err != nil {
			return fmt.Errorf("reading the revision: %w", err)
		}
		var err error
		if l.needed, err = readLabels(ctx, tx); err != nil {
			return err
		}
		l.page = &page{where: table.where, args: append(cursor, s.cfg.Comparison.Chunk)}
		return table.load(l, ctx, tx)
	})
	if err != nil {
		return nil, 0, nil, err
	}
	view, err := s.comparison.at(ctx, s, unsigned(revision))
	if err != nil {
		return nil, 0, nil, err
	}
	if l.page.rows == s.cfg.Comparison.Chunk {
		next = l.page.last
	}
	return next, l.page.rows, s.differences(table, l, view, cursor, next), nil
}

// differences compares what a loader has read with the same range of a view: behind one cursor, up to
// and with another, nil being the end.
func (s *Store) differences(table comparedTable, l *loader, view *View, from, to []any) []difference {
	var found []difference
	tell := func(key, kind string) {
		found = append(found, difference{table: table.sqlName, key: key, kind: kind})
	}
	unreadable := map[string]bool{}
	for _, bad := range l.bad {
		unreadable[bad.Key] = true
		if !s.quarantine.has(bad.Table, bad.Key) {
			tell(bad.Key, "unreadable")
		}
	}
	stored := table.behind(l.state, nil, nil)
	held := table.behind(view.state, from, to)
	for len(stored) > 0 || len(held) > 0 {
		switch order := compareFirst(stored, held); {
		case order < 0:
			tell(stored[0].name, "missing in memory")
			stored = stored[1:]
		case order > 0:
			if !unreadable[held[0].name] {
				tell(held[0].name, "missing in the table")
			}
			held = held[1:]
		default:
			if !bytes.Equal(fingerprint(stored[0].obj), fingerprint(held[0].obj)) {
				tell(held[0].name, "differs")
			}
			stored, held = stored[1:], held[1:]
		}
	}
	return found
}

// compareFirst orders two lists by the keys of their first objects; an empty list comes last.
func compareFirst(a, b []compared) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return bytes.Compare(a[0].key, b[0].key)
}

// fingerprint returns all that a record holds, in one form for one content.
func fingerprint(obj any) []byte {
	switch r := obj.(type) {
	case *actualRow:
		return message(bytes.Clone(r.encoded)).flag(6, r.StopRequested)
	case *lrp.Desired:
		return append(canonical(wire.Desired(r, true)), wire.AppendSchedulingInfo(nil, r)...)
	case *task.Task:
		return message(canonical(wire.Task(r))).str(7, r.DefinitionDigest).flag(8, r.HasCallback)
	case *lrp.Domain:
		return message(canonical(wire.Domain(r))).num(10, uint64(r.FreshUntil)).num(11, r.Revision) //nolint:gosec // two's complement
	}
	return nil
}

// canonical encodes with maps in order.
func canonical(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return []byte(err.Error()) // a text that is no UTF-8, which cannot be stored in a table either
	}
	return b
}

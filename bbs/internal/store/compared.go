package store

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// comparedTable is a table in memory and in Postgres, in the order of its key.
type comparedTable struct {
	sqlName string
	// where limits a query to the next chunk behind a cursor, whose values come first, then the limit.
	where string
	load  func(l *loader, ctx context.Context, tx pgx.Tx) error
	// start is the cursor before the first row.
	start []any
	// from yields the rows in memory from a cursor on, the one with its key included.
	from func(s *state, cursor []any) iter.Seq[compared]
}

// compared is a row with its key, as bytes that order rows, and its name for people.
type compared struct {
	obj  any
	key  []byte
	name string
}

func comparedTables() []comparedTable {
	return []comparedTable{
		{
			sqlName: "domains", where: `where name > $1 order by name limit $2`, load: (*loader).domains, start: []any{""},
			from: func(s *state, cursor []any) iter.Seq[compared] {
				return comparedBy(s.domains, cursor, func(d *lrp.Domain) string { return d.Name })
			},
		},
		{
			sqlName: "desired_lrps", where: `where process_guid > $1 order by process_guid limit $2`, load: (*loader).desireds, start: []any{""},
			from: func(s *state, cursor []any) iter.Seq[compared] {
				return comparedBy(s.desireds, cursor, func(d *lrp.Desired) string { return d.ProcessGUID })
			},
		},
		{
			sqlName: "actual_lrps", load: (*loader).actuals, start: []any{"", int32(0), int16(0)},
			where: `where (process_guid, instance_index, presence) > ($1, $2, $3) order by process_guid, instance_index, presence limit $4`,
			from:  comparedActuals,
		},
		{
			sqlName: "tasks", where: `where guid > $1 order by guid limit $2`, load: (*loader).tasks, start: []any{""},
			from: func(s *state, cursor []any) iter.Seq[compared] {
				return comparedBy(s.tasks, cursor, func(t *task.Task) string { return t.GUID })
			},
		},
	}
}

// comparedBy yields the rows of a table whose key is a text.
func comparedBy[R any](rows tree[textKey, R], cursor []any, name func(*R) string) iter.Seq[compared] {
	first := keyOf(cursor[0].(string)) //nolint:forcetypeassert // see page
	return func(yield func(compared) bool) {
		for row := range rows.from(first, func(textKey) bool { return true }) {
			if !yield(compared{obj: row, key: []byte(name(row)), name: name(row)}) {
				return
			}
		}
	}
}

func comparedActuals(s *state, cursor []any) iter.Seq[compared] {
	key := lrp.Key{ProcessGUID: cursor[0].(string), Index: cursor[1].(int32)} //nolint:forcetypeassert // see page
	first := actualKeyOf(key, lrp.Presence(cursor[2].(int16)))                //nolint:forcetypeassert,gosec // see page
	return func(yield func(compared) bool) {
		for row := range s.actuals.from(first, func(actualKey) bool { return true }) {
			if !yield(compared{obj: row, key: row.key().bytes(), name: nameOfActual(row.Actual)}) {
				return
			}
		}
	}
}

// behind returns the rows of a state behind one cursor, up to and with another; nil is no bound.
func (t comparedTable) behind(s *state, from, to []any) []compared {
	if from == nil {
		from = t.start
	}
	var last []byte
	if to != nil {
		last = t.bytesOf(to)
	}
	first := t.bytesOf(from)
	var all []compared
	for row := range t.from(s, from) {
		if last != nil && bytes.Compare(row.key, last) > 0 {
			break
		}
		if !bytes.Equal(row.key, first) {
			all = append(all, row)
		}
	}
	return all
}

// bytesOf returns the key of a cursor as bytes that order rows.
func (t comparedTable) bytesOf(cursor []any) []byte {
	guid := cursor[0].(string) //nolint:forcetypeassert // see page
	if len(cursor) == 1 {
		return []byte(guid)
	}
	key := lrp.Key{ProcessGUID: guid, Index: cursor[1].(int32)}      //nolint:forcetypeassert // see page
	return actualKeyOf(key, lrp.Presence(cursor[2].(int16))).bytes() //nolint:forcetypeassert,gosec // see page
}

// nameOfActual is how logs and the quarantine name a row of actual_lrps.
func nameOfActual(a *lrp.Actual) string { return fmt.Sprintf("%v/%v", a.Key, a.Presence) }

// comparisonResult is what one comparison has found.
type comparisonResult struct {
	At          time.Time `json:"at"` // of its end
	Rows        int       `json:"rows"`
	Differences int       `json:"differences"`
	// First are some of the differences, in words.
	First []string `json:"first,omitempty"`
}

// comparison keeps the views that come while a chunk is read, so that one of them is that of the rows,
// and the last result.
type comparison struct {
	mu        sync.Mutex
	recording bool
	views     []*View
	last      *comparisonResult
}

// record begins to keep views, with the present one.
func (c *comparison) record(view *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recording, c.views = true, append(c.views[:0], view)
}

func (c *comparison) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recording, c.views = false, nil
}

// published is called with each new view.
func (c *comparison) published(view *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recording && len(c.views) < maxViews {
		c.views = append(c.views, view)
	}
}

// find returns the view of a revision, and whether it may still come.
func (c *comparison) find(revision uint64) (view *View, coming bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.views {
		if v != nil && v.revision == revision {
			return v, false
		}
	}
	newest := c.views[len(c.views)-1]
	return nil, len(c.views) < maxViews && (newest == nil || newest.revision < revision)
}

// at waits for the view of a revision.
func (c *comparison) at(ctx context.Context, s *Store, revision uint64) (*View, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, comparePatience, errNotReached)
	defer cancel()
	for {
		s.newerMu.Lock()
		newer := s.newer
		s.newerMu.Unlock()
		view, coming := c.find(revision)
		switch {
		case view != nil:
			return view, nil
		case !coming:
			return nil, errNotReached
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *comparison) finish(r *comparisonResult, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.At = at
	c.last = r
}

// LastComparison returns what the last comparison of memory with the tables has found, nil before its
// end, and how many rows differed. It is for people: the value has no fixed form.
func (s *Store) LastComparison() (result any, differences int) {
	c := &s.comparison
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return nil, 0
	}
	return *c.last, c.last.Differences
}

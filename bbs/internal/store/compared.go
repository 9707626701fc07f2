package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-memdb"
	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// comparedTable is a table in memory and in Postgres, in the order of its key.
type comparedTable struct {
	name, sqlName string
	// where limits a query to the next chunk behind a cursor, whose values come first, then the limit.
	where string
	load  func(l *loader, ctx context.Context, tx pgx.Tx) error
	// start is the cursor before the first row.
	start func() []any
	// object returns an object with the key of a cursor.
	object func(cursor []any) any
	keyOf  func(obj any) ([]byte, error)
	nameOf func(obj any) string
}

func comparedTables() []comparedTable {
	text := func() []any { return []any{""} }
	return []comparedTable{
		{
			name: tableDomain, sqlName: "domains", where: `where name > $1 order by name limit $2`, load: (*loader).domains, start: text,
			object: func(c []any) any { return &lrp.Domain{Name: c[0].(string)} }, keyOf: domainKey, //nolint:forcetypeassert // see page
			nameOf: func(obj any) string { return obj.(*lrp.Domain).Name }, //nolint:forcetypeassert // of this table
		},
		{
			name: tableDesired, sqlName: "desired_lrps", where: `where process_guid > $1 order by process_guid limit $2`, load: (*loader).desireds, start: text,
			object: func(c []any) any { return &lrp.Desired{ProcessGUID: c[0].(string)} }, keyOf: desiredKey, //nolint:forcetypeassert // see page
			nameOf: func(obj any) string { return obj.(*lrp.Desired).ProcessGUID }, //nolint:forcetypeassert // of this table
		},
		{
			name: tableActual, sqlName: "actual_lrps", load: (*loader).actuals, start: func() []any { return []any{"", int32(0), int16(0)} },
			where: `where (process_guid, instance_index, presence) > ($1, $2, $3) order by process_guid, instance_index, presence limit $4`,
			object: func(c []any) any {
				key := lrp.Key{ProcessGUID: c[0].(string), Index: c[1].(int32)}                        //nolint:forcetypeassert // see page
				return &actualRow{Actual: &lrp.Actual{Key: key, Presence: lrp.Presence(c[2].(int16))}} //nolint:forcetypeassert,gosec // see page
			},
			keyOf: actualKey, nameOf: func(obj any) string { return nameOfActual(obj.(*actualRow).Actual) }, //nolint:forcetypeassert // of this table
		},
		{
			name: tableTask, sqlName: "tasks", where: `where guid > $1 order by guid limit $2`, load: (*loader).tasks, start: text,
			object: func(c []any) any { return &task.Task{GUID: c[0].(string)} }, keyOf: taskKey, //nolint:forcetypeassert // see page
			nameOf: func(obj any) string { return obj.(*task.Task).GUID }, //nolint:forcetypeassert // of this table
		},
	}
}

// nameOfActual is how logs and the quarantine name a row of actual_lrps.
func nameOfActual(a *lrp.Actual) string { return fmt.Sprintf("%v/%v", a.Key, a.Presence) }

// key returns the key in memory of a cursor, nil for none.
func (t comparedTable) key(cursor []any) []byte {
	if cursor == nil {
		return nil
	}
	key, err := t.keyOf(t.object(cursor))
	if err != nil {
		panic(fmt.Sprintf("comparing %s: %v", t.sqlName, err)) // the object is of the table's own type
	}
	return key
}

// keyed is an object with its key in memory and its name for people.
type keyed struct {
	obj  any
	key  []byte
	name string
}

// objectsBehind returns the objects of a table behind one key, up to and with another; nil is no bound.
func objectsBehind(txn *memdb.Txn, t comparedTable, from, to []byte) []keyed {
	if from == nil {
		from = []byte{}
	}
	found, err := txn.LowerBound(t.name, indexID, from)
	if err != nil {
		panic(fmt.Sprintf("comparing %s: %v", t.sqlName, err)) // only a wrong name of a table or index
	}
	var all []keyed
	for obj := found.Next(); obj != nil; obj = found.Next() {
		key, err := t.keyOf(obj)
		if err != nil || (to != nil && string(key) > string(to)) {
			break
		}
		if string(key) != string(from) {
			all = append(all, keyed{obj: obj, key: key, name: t.nameOf(obj)})
		}
	}
	return all
}

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

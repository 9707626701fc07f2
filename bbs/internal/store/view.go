package store

import (
	"iter"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// View is the state as one revision left it. It never changes, costs nothing to keep for the length
// of a call, and is safe for concurrent use. What it returns must not be modified.
type View struct {
	records
	revision uint64
	epoch    int64
	at       time.Time
}

// Revision of the newest batch that the view contains.
func (v *View) Revision() uint64 { return v.revision }

// Epoch in which the view was made.
func (v *View) Epoch() int64 { return v.epoch }

// CommittedAt is when its newest batch was committed, by the clock of the writer.
func (v *View) CommittedAt() time.Time { return v.at }

// Actual is a record with its encoding as workload.v1.ActualLRP. Neither may be modified.
type Actual struct {
	*lrp.Actual
	Encoded []byte
}

// records reads one state: that of a View, or of the batch that is being made.
type records struct{ state *state }

// Desired returns a desired LRP, or nil.
func (r records) Desired(guid string) *lrp.Desired { return r.state.desireds.get(keyOf(guid)) }

// Task returns a task, or nil.
func (r records) Task(guid string) *task.Task { return r.state.tasks.get(keyOf(guid)) }

// Domain returns a domain, fresh or not, or nil.
func (r records) Domain(name string) *lrp.Domain { return r.state.domains.get(keyOf(name)) }

// Instance returns all records of one index.
func (r records) Instance(key lrp.Key) lrp.Instance {
	var instance lrp.Instance
	first := actualKeyOf(key, 0)
	for row := range r.state.actuals.from(first, func(k actualKey) bool { return k.index == first.index && k.guid == first.guid }) {
		instance.Set(row.Actual)
	}
	return instance
}

// InstancesOf returns all records of one LRP in order.
func (r records) InstancesOf(guid string) []*lrp.Actual {
	var rows []*lrp.Actual
	for row := range r.rowsOf(guid) {
		rows = append(rows, row.Actual)
	}
	return rows
}

func (r records) rowsOf(guid string) iter.Seq[*actualRow] {
	first := actualKeyOf(lrp.Key{ProcessGUID: guid}, 0)
	return r.state.actuals.from(first, func(k actualKey) bool { return k.guid == first.guid })
}

func (r records) rowsOnCell(cell string) iter.Seq[*actualRow] {
	return fromCell(r.state.actualsOnCell, onCellOf(cell, actualKey{}), func(row *actualRow) bool { return row.CellID == cell })
}

// fromCell yields the rows of one cell, given what comes before its first.
func fromCell[K ordered[K], R any](rows tree[onCell[K], R], first onCell[K], isThere func(*R) bool) iter.Seq[*R] {
	return func(yield func(*R) bool) {
		for row := range rows.from(first, func(k onCell[K]) bool { return k.hash == first.hash }) {
			if isThere(row) && !yield(row) {
				return
			}
		}
	}
}

// Records yields all records in order, without their encodings.
func (r records) Records() iter.Seq[*lrp.Actual] { return plain(r.state.actuals.all()) }

// RecordsFrom yields the records of a process guid and of those behind it, in order, without their encodings.
func (r records) RecordsFrom(guid string) iter.Seq[*lrp.Actual] {
	return plain(r.state.actuals.from(actualKeyOf(lrp.Key{ProcessGUID: guid}, 0), func(actualKey) bool { return true }))
}

// RecordsOnCell yields the records that a cell holds, in order, without their encodings.
func (r records) RecordsOnCell(cell string) iter.Seq[*lrp.Actual] { return plain(r.rowsOnCell(cell)) }

func plain(rows iter.Seq[*actualRow]) iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for row := range rows {
			if !yield(row.Actual) {
				return
			}
		}
	}
}

// Actuals yields all records in order.
func (r records) Actuals() iter.Seq[Actual] { return encoded(r.state.actuals.all()) }

// ActualsOf yields the records of one LRP in order.
func (r records) ActualsOf(guid string) iter.Seq[Actual] { return encoded(r.rowsOf(guid)) }

// ActualsOnCell yields the records that a cell holds, in order.
func (r records) ActualsOnCell(cell string) iter.Seq[Actual] { return encoded(r.rowsOnCell(cell)) }

func encoded(rows iter.Seq[*actualRow]) iter.Seq[Actual] {
	return func(yield func(Actual) bool) {
		for row := range rows {
			if !yield(Actual{Actual: row.Actual, Encoded: row.encoded}) {
				return
			}
		}
	}
}

// CellHolds reports whether a cell holds an instance of an LRP.
func (r records) CellHolds(cell, guid string) bool {
	first := onCellOf(cell, actualKeyOf(lrp.Key{ProcessGUID: guid}, 0))
	for row := range r.state.actualsOnCell.from(first, func(k onCell[actualKey]) bool { return k.hash == first.hash && k.key.guid == first.key.guid }) {
		if row.CellID == cell {
			return true
		}
	}
	return false
}

// Desireds yields all desired LRPs in order.
func (r records) Desireds() iter.Seq[*lrp.Desired] { return r.state.desireds.all() }

// DesiredsFrom yields the desired LRP of a process guid and those behind it, in order.
func (r records) DesiredsFrom(guid string) iter.Seq[*lrp.Desired] {
	return r.state.desireds.from(keyOf(guid), func(textKey) bool { return true })
}

// Tally counts the desired and the actual LRPs. It is always known.
func (r records) Tally() (tally lrp.Tally, known bool) { return r.state.tally, true }

// DesiredsWithPrefix yields the desired LRPs whose guid begins with prefix, in order.
func (r records) DesiredsWithPrefix(prefix string) iter.Seq[*lrp.Desired] {
	return r.state.desireds.from(keyOf(prefix), func(k textKey) bool { return k.hasPrefix(prefix) })
}

// Tasks yields all tasks in order.
func (r records) Tasks() iter.Seq[*task.Task] { return r.state.tasks.all() }

// TasksOnCell yields the tasks that a cell runs, in order.
func (r records) TasksOnCell(cell string) iter.Seq[*task.Task] {
	return fromCell(r.state.tasksOnCell, onCellOf(cell, textKey{}), func(t *task.Task) bool { return t.CellID == cell })
}

// Domains yields all domains, fresh or not, in order.
func (r records) Domains() iter.Seq[*lrp.Domain] { return r.state.domains.all() }

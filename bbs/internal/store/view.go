package store

import (
	"fmt"
	"iter"
	"time"

	"github.com/hashicorp/go-memdb"

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
type records struct {
	// txn returns the transaction to read in. A read transaction of memdb is not to be shared, so a
	// View makes one for each call; a batch has one.
	txn func() *memdb.Txn
}

// Desired returns a desired LRP, or nil.
func (r records) Desired(guid string) *lrp.Desired {
	d, _ := r.first(tableDesired, textKey(guid)).(*lrp.Desired)
	return d
}

// Task returns a task, or nil.
func (r records) Task(guid string) *task.Task {
	t, _ := r.first(tableTask, textKey(guid)).(*task.Task)
	return t
}

// Domain returns a domain, fresh or not, or nil.
func (r records) Domain(name string) *lrp.Domain {
	d, _ := r.first(tableDomain, textKey(name)).(*lrp.Domain)
	return d
}

// Instance returns all records of one index.
func (r records) Instance(key lrp.Key) lrp.Instance {
	var instance lrp.Instance
	for row := range r.rows(prefixOfID, actualIndexPrefix(key)) {
		instance.Set(row.Actual)
	}
	return instance
}

// actual returns one record, or nil.
func (r records) actual(key lrp.Key, presence lrp.Presence) *actualRow {
	row, _ := r.first(tableActual, actualRowKey(key, presence)).(*actualRow)
	return row
}

// InstancesOf returns all records of one LRP in order.
func (r records) InstancesOf(guid string) []*lrp.Actual {
	var rows []*lrp.Actual
	for row := range r.rows(prefixOfID, actualPrefix(guid)) {
		rows = append(rows, row.Actual)
	}
	return rows
}

// Records yields all records in order, without their encodings.
func (r records) Records() iter.Seq[*lrp.Actual] { return r.plain(prefixOfID, nil) }

// RecordsOnCell yields the records that a cell holds, in order, without their encodings.
func (r records) RecordsOnCell(cell string) iter.Seq[*lrp.Actual] {
	return r.plain(prefixOfCell, textKey(cell))
}

func (r records) plain(index string, prefix []byte) iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for row := range r.rows(index, prefix) {
			if !yield(row.Actual) {
				return
			}
		}
	}
}

// Actuals yields all records in order.
func (r records) Actuals() iter.Seq[Actual] { return r.actuals(prefixOfID, nil) }

// ActualsOf yields the records of one LRP in order.
func (r records) ActualsOf(guid string) iter.Seq[Actual] {
	return r.actuals(prefixOfID, actualPrefix(guid))
}

// ActualsOnCell yields the records that a cell holds, in order.
func (r records) ActualsOnCell(cell string) iter.Seq[Actual] {
	return r.actuals(prefixOfCell, textKey(cell))
}

// CellHolds reports whether a cell holds an instance of an LRP.
func (r records) CellHolds(cell, guid string) bool {
	prefix := append(textKey(cell), actualPrefix(guid)...)
	for range r.rows(prefixOfCell, prefix) {
		return true
	}
	return false
}

func (r records) actuals(index string, prefix []byte) iter.Seq[Actual] {
	return func(yield func(Actual) bool) {
		for row := range r.rows(index, prefix) {
			if !yield(Actual{Actual: row.Actual, Encoded: row.encoded}) {
				return
			}
		}
	}
}

// Desireds yields all desired LRPs in order.
func (r records) Desireds() iter.Seq[*lrp.Desired] {
	return objects[*lrp.Desired](r, tableDesired, prefixOfID, nil)
}

// DesiredsWithPrefix yields the desired LRPs whose guid begins with prefix, in order.
func (r records) DesiredsWithPrefix(prefix string) iter.Seq[*lrp.Desired] {
	return objects[*lrp.Desired](r, tableDesired, prefixOfID, []byte(prefix))
}

// Tasks yields all tasks in order.
func (r records) Tasks() iter.Seq[*task.Task] {
	return objects[*task.Task](r, tableTask, prefixOfID, nil)
}

// TasksOnCell yields the tasks that a cell runs, in order.
func (r records) TasksOnCell(cell string) iter.Seq[*task.Task] {
	return objects[*task.Task](r, tableTask, prefixOfCell, textKey(cell))
}

// Domains yields all domains, fresh or not, in order.
func (r records) Domains() iter.Seq[*lrp.Domain] {
	return objects[*lrp.Domain](r, tableDomain, prefixOfID, nil)
}

func (r records) rows(index string, prefix []byte) iter.Seq[*actualRow] {
	return objects[*actualRow](r, tableActual, index, prefix)
}

func (r records) first(table string, key []byte) any {
	obj, err := r.txn().First(table, indexID, key)
	if err != nil {
		// Only a wrong table or index name, which no data can bring about.
		panic(fmt.Sprintf("reading table %s in memory: %v", table, err))
	}
	return obj
}

// objects yields what one index of one table has below a prefix; an empty one means all.
func objects[T any](r records, table, index string, prefix []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		if prefix == nil {
			prefix = []byte{}
		}
		found, err := r.txn().Get(table, index, prefix)
		if err != nil {
			panic(fmt.Sprintf("reading table %s in memory: %v", table, err))
		}
		for obj := found.Next(); obj != nil; obj = found.Next() {
			if t, ok := obj.(T); !ok || !yield(t) {
				return
			}
		}
	}
}

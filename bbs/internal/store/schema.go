package store

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// The tables in memory.
const (
	tableDesired = "desired"
	tableActual  = "actual"
	tableTask    = "task"
	tableDomain  = "domain"

	indexID   = "id"
	indexCell = "cell"

	// Searches of an index by the beginning of its keys.
	prefixOfID   = indexID + "_prefix"
	prefixOfCell = indexCell + "_prefix"
)

// actualRow is a record with its encoding, which lists, watchers and the log send as it is.
type actualRow struct {
	*lrp.Actual
	encoded []byte
}

// newState returns an empty state. Indexes are hand-written: those of memdb use reflection, and they
// run for every row of every batch.
func newState() (*memdb.MemDB, error) {
	unique := func(key func(any) ([]byte, error)) map[string]*memdb.IndexSchema {
		return map[string]*memdb.IndexSchema{
			indexID: {Name: indexID, Unique: true, Indexer: indexer{key: key}},
		}
	}
	withCell := func(indexes map[string]*memdb.IndexSchema, cell func(any) ([]byte, error)) map[string]*memdb.IndexSchema {
		indexes[indexCell] = &memdb.IndexSchema{Name: indexCell, AllowMissing: true, Indexer: indexer{key: cell}}
		return indexes
	}
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		tableDesired: {Name: tableDesired, Indexes: unique(desiredKey)},
		tableActual:  {Name: tableActual, Indexes: withCell(unique(actualKey), actualCell)},
		tableTask:    {Name: tableTask, Indexes: withCell(unique(taskKey), taskCell)},
		tableDomain:  {Name: tableDomain, Indexes: unique(domainKey)},
	}})
	if err != nil {
		return nil, fmt.Errorf("making the state in memory: %w", err)
	}
	// A copy is not a primary: nobody waits on its nodes, so changes need not be tracked for that.
	return db.Snapshot(), nil
}

// indexer takes the key of an object from a function, and that of a search as bytes.
type indexer struct {
	key func(any) ([]byte, error)
}

// FromObject implements memdb.SingleIndexer. An empty key is missing.
func (i indexer) FromObject(obj any) (bool, []byte, error) {
	key, err := i.key(obj)
	return len(key) > 0, key, err
}

// FromArgs implements memdb.Indexer.
func (i indexer) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if key, ok := args[0].([]byte); ok {
			return key, nil
		}
	}
	return nil, fmt.Errorf("searching an index: want one key, got %v", args)
}

// PrefixFromArgs implements memdb.PrefixIndexer.
func (i indexer) PrefixFromArgs(args ...any) ([]byte, error) { return i.FromArgs(args...) }

func wrongType(obj any) error { return fmt.Errorf("indexing: unexpected type %T", obj) }

// Keys end their text with a zero byte, which no guid or name contains (package api sees to that),
// so that no key is a prefix of another and the order is that of the texts.

func textKey(s string) []byte { return append([]byte(s), 0) }

func actualPrefix(guid string) []byte { return textKey(guid) }

func actualIndexPrefix(key lrp.Key) []byte {
	b := make([]byte, 0, len(key.ProcessGUID)+6)
	b = append(append(b, key.ProcessGUID...), 0)
	return binary.BigEndian.AppendUint32(b, uint32(key.Index)) //nolint:gosec // never negative
}

func actualRowKey(key lrp.Key, presence lrp.Presence) []byte {
	return append(actualIndexPrefix(key), byte(presence))
}

func actualKey(obj any) ([]byte, error) {
	row, ok := obj.(*actualRow)
	if !ok {
		return nil, wrongType(obj)
	}
	return actualRowKey(row.Key, row.Presence), nil
}

func actualCell(obj any) ([]byte, error) {
	row, ok := obj.(*actualRow)
	if !ok {
		return nil, wrongType(obj)
	}
	return cellKey(row.CellID), nil
}

func cellKey(cell string) []byte {
	if cell == "" {
		return nil
	}
	return textKey(cell)
}

func desiredKey(obj any) ([]byte, error) {
	d, ok := obj.(*lrp.Desired)
	if !ok {
		return nil, wrongType(obj)
	}
	return textKey(d.ProcessGUID), nil
}

func taskKey(obj any) ([]byte, error) {
	t, ok := obj.(*task.Task)
	if !ok {
		return nil, wrongType(obj)
	}
	return textKey(t.GUID), nil
}

func taskCell(obj any) ([]byte, error) {
	t, ok := obj.(*task.Task)
	if !ok {
		return nil, wrongType(obj)
	}
	return cellKey(t.CellID), nil
}

func domainKey(obj any) ([]byte, error) {
	d, ok := obj.(*lrp.Domain)
	if !ok {
		return nil, wrongType(obj)
	}
	return textKey(d.Name), nil
}

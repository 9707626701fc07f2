package store

import (
	"encoding/binary"
	"hash/fnv"
	"iter"
	"strings"

	"github.com/google/btree"

	"diego.internal/bbs/internal/lrp"
)

// degree of the trees: a node has up to 31 rows, which is what one write copies at each level.
const degree = 16

// tree holds rows in order of their keys. A copy costs nothing, and then each of the two copies the few nodes that it changes. A
// tree that nobody changes may be read by any number of goroutines. docs/decisions/0009-b-trees-in-the-bbs.md tells why it is one.
type tree[K ordered[K], R any] struct {
	rows *btree.BTreeG[slot[K, R]]
}

// ordered is a key that knows which of two comes first.
type ordered[K any] interface{ before(other K) bool }

// slot is a row beside its key: a search that looks at keys only stays within the nodes.
type slot[K ordered[K], R any] struct {
	key K
	row *R
}

func newTree[K ordered[K], R any]() tree[K, R] {
	return tree[K, R]{rows: btree.NewG(degree, func(a, b slot[K, R]) bool { return a.key.before(b.key) })}
}

// copy returns a tree that can be changed without changing this one.
func (t tree[K, R]) copy() tree[K, R] { return tree[K, R]{rows: t.rows.Clone()} }

// get returns a row, or nil.
func (t tree[K, R]) get(key K) *R {
	found, _ := t.rows.Get(slot[K, R]{key: key})
	return found.row
}

// set stores a row and returns the one that had its key, or nil.
func (t tree[K, R]) set(key K, row *R) *R {
	before, _ := t.rows.ReplaceOrInsert(slot[K, R]{key, row})
	return before.row
}

// remove takes a row out and returns it, or nil.
func (t tree[K, R]) remove(key K) *R {
	before, _ := t.rows.Delete(slot[K, R]{key: key})
	return before.row
}

// from yields rows from a key on for as long as their keys belong, in order.
func (t tree[K, R]) from(first K, belongs func(K) bool) iter.Seq[*R] {
	return func(yield func(*R) bool) {
		t.rows.AscendGreaterOrEqual(slot[K, R]{key: first}, func(found slot[K, R]) bool {
			return belongs(found.key) && yield(found.row)
		})
	}
}

// all yields all rows in order.
func (t tree[K, R]) all() iter.Seq[*R] {
	return func(yield func(*R) bool) {
		t.rows.Ascend(func(found slot[K, R]) bool { return yield(found.row) })
	}
}

// textKey is a text in order of its bytes: the first eight of them beside it tell nearly all guids apart.
type textKey struct {
	head uint64
	text string
}

func keyOf(text string) textKey {
	var head [8]byte
	copy(head[:], text)
	return textKey{binary.BigEndian.Uint64(head[:]), text}
}

func (k textKey) before(other textKey) bool {
	if k.head != other.head {
		return k.head < other.head
	}
	return k.text < other.text
}

func (k textKey) hasPrefix(prefix string) bool { return strings.HasPrefix(k.text, prefix) }

// actualKey orders actual LRPs by guid, index and presence.
type actualKey struct {
	guid     textKey
	index    int32
	presence lrp.Presence
}

func actualKeyOf(key lrp.Key, presence lrp.Presence) actualKey {
	return actualKey{keyOf(key.ProcessGUID), key.Index, presence}
}

func (k actualKey) before(other actualKey) bool {
	switch {
	case k.guid != other.guid:
		return k.guid.before(other.guid)
	case k.index != other.index:
		return k.index < other.index
	default:
		return k.presence < other.presence
	}
}

// bytes returns the key as bytes in the same order. No guid has a zero byte, which package api sees to.
func (k actualKey) bytes() []byte {
	b := append(append(make([]byte, 0, len(k.guid.text)+6), k.guid.text...), 0)
	return append(binary.BigEndian.AppendUint32(b, uint32(k.index)), byte(k.presence)) //nolint:gosec // never negative
}

// onCell puts the rows of each cell together, in the order of their own keys. A cell is known by a hash of its name. Should two names
// have the same, the rows of both cells are mixed, and who reads has to look whose they are: a row is on one cell at a time, so
// the keys of all rows differ even then.
type onCell[K ordered[K]] struct {
	hash uint64
	key  K
}

func onCellOf[K ordered[K]](cell string, key K) onCell[K] {
	h := fnv.New64a()
	_, _ = h.Write([]byte(cell)) // never fails
	return onCell[K]{h.Sum64(), key}
}

func (k onCell[K]) before(other onCell[K]) bool {
	if k.hash != other.hash {
		return k.hash < other.hash
	}
	return k.key.before(other.key)
}

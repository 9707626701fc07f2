package watch

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// Errors of cursors.
var (
	// ErrTruncated says that the log no longer holds what comes after a revision.
	ErrTruncated = fault.New(codes.OutOfRange, "RevisionTooOld", "the log no longer holds what comes after that revision")
	// ErrFuture says that the log has not reached a revision: it is that of another database.
	ErrFuture = fault.New(codes.OutOfRange, "RevisionFromFuture", "the log has not reached that revision")
)

// Archive holds the batches that memory does not. The store is one.
type Archive interface {
	// ReadLog returns batches after a revision in order and without gap, as many as have about limit
	// bytes but at least one, or none if there is none yet. It returns ErrTruncated if the batch right
	// after that revision is no longer held.
	ReadLog(ctx context.Context, after uint64, limit int) ([]*Batch, error)
}

// Config of a Log.
type Config struct {
	// MaxBytes bounds the memory of recent batches, by estimate.
	MaxBytes int
	Archive  Archive
}

// Log holds the recent batches and knows the cursors that wait. It is safe for concurrent use.
type Log struct {
	cfg Config
	// behind counts how often a cursor fell behind what memory holds.
	behind atomic.Int64
	wakes  atomic.Uint64 // calls of Wake

	mu sync.RWMutex
	// batches are contiguous; the last one has revision newest.
	batches []*Batch
	bytes   int
	newest  uint64
	// Cursors that wait, by the cell that they filter for. Most cursors of a large system are for one
	// cell each, and most batches touch few cells; nobody else is woken.
	byCell map[string]map[*Cursor]struct{}
	any    map[*Cursor]struct{}
}

// sharing is how many of the newest batches keep their encodings for the next watchers: those who keep up are within them, and
// the encodings of all batches in memory would take as much again.
const sharing = 32

// NewLog returns an empty log at revision 0.
func NewLog(cfg Config) *Log {
	return &Log{cfg: cfg, byCell: map[string]map[*Cursor]struct{}{}, any: map[*Cursor]struct{}{}}
}

// Reset empties the log and continues after a revision: the state was loaded.
func (l *Log) Reset(revision uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches, l.bytes, l.newest = nil, 0, revision
}

// Append adds the batch that follows the newest one. It never blocks on a reader.
func (l *Log) Append(b *Batch) {
	l.mu.Lock()
	if b.Revision != l.newest+1 {
		// Not contiguous; readers fetch what is missing from the archive.
		l.batches, l.bytes = nil, 0
	}
	l.batches = append(l.batches, b)
	l.bytes += b.footprint()
	l.newest = b.Revision
	if n := len(l.batches) - sharing; n > 0 {
		l.batches[n-1].shared.forget()
	}
	for len(l.batches) > 1 && l.bytes > l.cfg.MaxBytes {
		l.bytes -= l.batches[0].footprint()
		l.batches[0] = nil // the slice is only cut: let go of what it held
		l.batches = l.batches[1:]
	}
	l.mu.Unlock()
	l.wakeFor(b)
}

// wakeFor wakes the cursors that a batch may concern.
func (l *Log) wakeFor(b *Batch) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for c := range l.any {
		c.signal()
	}
	if len(l.byCell) == 0 {
		return
	}
	for i := range b.Events {
		for _, cell := range b.Events[i].Cells {
			for c := range l.byCell[cell] {
				c.signal()
			}
		}
	}
}

// Wake wakes all cursors, so that they notice that their context or their server has ended.
func (l *Log) Wake() {
	l.wakes.Add(1)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for c := range l.any {
		c.signal()
	}
	for _, cursors := range l.byCell {
		for c := range cursors {
			c.signal()
		}
	}
}

// Newest returns the revision of the newest batch.
func (l *Log) Newest() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.newest
}

// Stats returns how many batches are in memory, their estimated bytes, and how many cursors are open.
func (l *Log) Stats() (batches, bytes, cursors int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	cursors = len(l.any)
	for _, set := range l.byCell {
		cursors += len(set)
	}
	return len(l.batches), l.bytes, cursors
}

// Behind is how often a reader fell behind what memory holds, and was served from the archive until it had caught up.
func (l *Log) Behind() int64 { return l.behind.Load() }

// recent returns batches after a revision from memory; ok is false if memory does not reach back so
// far. It copies at most limit of them, so that the lock is held briefly.
func (l *Log) recent(after uint64, limit int, into []*Batch) (batches []*Batch, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if after >= l.newest {
		return into, true
	}
	if len(l.batches) == 0 || after+1 < l.batches[0].Revision {
		return into, false
	}
	from := int(after + 1 - l.batches[0].Revision) //nolint:gosec // within the slice, which is contiguous
	to := min(from+limit, len(l.batches))
	return append(into, l.batches[from:to]...), true
}

package watch

import (
	"context"
	"fmt"
	"time"
)

const (
	// chunk is how many batches a cursor takes from memory at once.
	chunk = 64
	// archiveBytes is how much a cursor reads from the archive at once.
	archiveBytes = 4 << 20
	// A cursor that has caught up rests for so long for each event of its last batch, and at most maxRest. Large batches tell that many
	// write at once; if then every batch woke every watcher, that would take as much of the processors as the writes. After its
	// rest a cursor has several batches to return, which go to the client together.
	restPerEvent = 500 * time.Microsecond
	maxRest      = 10 * time.Millisecond
)

// Cursor is one reader's place in the log. It holds no events: a reader that stops reading costs
// nothing, and continues where it stopped as long as the archive reaches back. Use it from one
// goroutine, and Close it.
type Cursor struct {
	log    *Log
	filter Filter
	// position is the revision up to which everything was returned or did not pass.
	position uint64
	pending  []*Batch
	buffer   [chunk]*Batch
	// behind tells that the archive had to be asked last time.
	behind bool
	wake   chan struct{}
	// wakes is how many calls of Log.Wake the reader was told of.
	wakes uint64
	idle  *time.Timer
	// rested fires at the end of a rest, which begins when the cursor has caught up.
	rested *time.Timer
	rest   time.Duration
}

// Cursor returns a reader of what comes after a revision and passes the filter.
//
// It returns ErrFuture if the log has not reached that revision. Whether the log reaches back so far
// shows in Next.
func (l *Log) Cursor(after uint64, filter Filter) (*Cursor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after > l.newest {
		return nil, ErrFuture.With("revision %d, the newest is %d", after, l.newest)
	}
	c := &Cursor{log: l, filter: filter, position: after, wake: make(chan struct{}, 1), wakes: l.wakes.Load(), idle: time.NewTimer(0), rested: time.NewTimer(0)}
	if filter.CellID == "" {
		l.any[c] = struct{}{}
		return c, nil
	}
	if l.byCell[filter.CellID] == nil {
		l.byCell[filter.CellID] = map[*Cursor]struct{}{}
	}
	l.byCell[filter.CellID][c] = struct{}{}
	return c, nil
}

// Close ends the cursor.
func (c *Cursor) Close() {
	c.idle.Stop()
	c.rested.Stop()
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	delete(c.log.any, c)
	if set := c.log.byCell[c.filter.CellID]; set != nil {
		delete(set, c)
		if len(set) == 0 {
			delete(c.log.byCell, c.filter.CellID)
		}
	}
}

// Position is the revision up to which the reader has everything that passes.
func (c *Cursor) Position() uint64 { return c.position }

// Filter returns the filter of the cursor.
func (c *Cursor) Filter() *Filter { return &c.filter }

func (c *Cursor) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Next returns the next batch of which an event passes, with what does not pass still in it. It blocks
// until there is one, ctx ends, or nothing passed for the time idle: then the batch is nil, and
// Position tells how far the reader is. A call of Log.Wake makes it return as if that time had passed.
//
// It returns ErrTruncated if the log does not reach back to the position of the cursor, and the cause
// of ctx.
func (c *Cursor) Next(ctx context.Context, idle time.Duration) (*Batch, error) {
	c.idle.Reset(idle)
	over := false
	for {
		batch, caughtUp, err := c.scan(ctx)
		switch {
		case batch != nil || err != nil:
			c.tire(batch)
			return batch, err
		case !caughtUp:
			continue
		case over:
			return nil, nil //nolint:nilnil // idle
		}
		if c.rest > 0 {
			if err := c.sleep(ctx); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-c.wake:
			// By a new batch, which may have been returned already, or by Log.Wake.
			if wakes := c.log.wakes.Load(); wakes != c.wakes {
				c.wakes, over = wakes, true
			}
		case <-c.idle.C:
			// A cursor of one cell is not woken by what concerns others: it has to look how far they are.
			over = true
		case <-ctx.Done():
			return nil, fmt.Errorf("watching: %w", context.Cause(ctx))
		}
	}
}

// tire adds the rest that a batch asks for. A cursor of one cell needs none: it is woken by few batches.
func (c *Cursor) tire(batch *Batch) {
	if batch != nil && c.filter.CellID == "" {
		c.rest = min(time.Duration(len(batch.Events))*restPerEvent, maxRest)
	}
}

// sleep takes the rest.
func (c *Cursor) sleep(ctx context.Context) error {
	c.rested.Reset(c.rest)
	c.rest = 0
	select {
	case <-c.rested.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("watching: %w", context.Cause(ctx))
	}
}

// scan looks at the next batches; it returns the first of which an event passes, or nil.
func (c *Cursor) scan(ctx context.Context) (batch *Batch, caughtUp bool, err error) {
	if len(c.pending) == 0 {
		if caughtUp, err = c.fill(ctx); caughtUp || err != nil {
			return nil, caughtUp, err
		}
	}
	for len(c.pending) > 0 {
		next := c.pending[0]
		c.pending = c.pending[1:]
		c.position = next.Revision
		if next.passes(&c.filter) {
			return next, false, nil
		}
	}
	return nil, false, nil
}

// fill fetches the batches after the position, from memory if it reaches back so far.
func (c *Cursor) fill(ctx context.Context) (caughtUp bool, err error) {
	clear(c.buffer[:])
	recent, ok := c.log.recent(c.position, chunk, c.buffer[:0])
	if !ok && !c.behind {
		c.log.behind.Add(1)
	}
	c.behind = !ok
	if !ok {
		recent, err = c.log.cfg.Archive.ReadLog(ctx, c.position, archiveBytes)
		if err != nil {
			return false, fmt.Errorf("reading the log after revision %d: %w", c.position, err)
		}
	}
	c.pending = recent
	return len(recent) == 0, nil
}

// passes reports whether any event of the batch passes.
func (b *Batch) passes(filter *Filter) bool {
	if filter.Unfiltered() {
		return len(b.Events) > 0
	}
	for i := range b.Events {
		if filter.Passes(&b.Events[i]) {
			return true
		}
	}
	return false
}

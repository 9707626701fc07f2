package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	repv1 "diego.internal/proto/rep/v1"
)

// atATime is the part of the cells that is emptied at a time: a tenth, as operators do with a fleet of this size, so that what
// moves at once is no more than what the loss of a tenth moves.
const atATime = 10

// roll evacuates every cell, a tenth at a time; each comes back empty by itself, and then it is the turn of another.
func (w *world) roll(ctx context.Context) error {
	cells, err := w.addresses(ctx)
	if err != nil {
		return err
	}
	before, err := w.incarnations(ctx)
	if err != nil {
		return err
	}
	present := &directory{world: w}
	ids := w.oneOfEachHost()
	size := (len(ids) + atATime - 1) / atATime
	err = forEach(ctx, len(ids), size, func(ctx context.Context, i int) error {
		id := ids[i]
		if err := w.evacuate(ctx, id, cells[id]); err != nil {
			return err
		}
		return w.await(ctx, func(ctx context.Context) (any, error) {
			since, err := present.incarnation(ctx, id)
			if err == nil && (since.IsZero() || since.Equal(before[id])) {
				err = fmt.Errorf("%s was emptied and is not back", id)
			}
			return since, err
		})
	})
	if err != nil {
		return err
	}
	w.report.note("%d cells at a time", size)
	return w.awaitRunning(ctx, w.instances)
}

// oneOfEachHost are all cells in such an order that the processes that host them have as much to do at any time.
func (w *world) oneOfEachHost() []string {
	var ids []string
	for offset := 0; len(ids) < w.options.cells; offset++ {
		for host := range hosts {
			if i := w.firstOf(host) + offset; i < w.firstOf(host+1) {
				ids = append(ids, cellID(i))
			}
		}
	}
	return ids
}

// directory of the present cells for many who ask at a time.
type directory struct {
	world *world

	mu    sync.Mutex
	asked time.Time            // guarded by mu
	cells map[string]time.Time // incarnations by id as of then; guarded by mu
}

// incarnation is since when a cell is present, zero if it is not, as of a second ago at most.
func (d *directory) incarnation(ctx context.Context, id string) (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) > time.Second {
		cells, err := d.world.incarnations(ctx)
		if err != nil {
			return time.Time{}, err
		}
		d.cells, d.asked = cells, time.Now()
	}
	return d.cells[id], nil
}

// evacuate empties a cell and returns when it is empty and ends.
func (w *world) evacuate(ctx context.Context, id, address string) error {
	conn, err := w.dialCell(id, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var progress grpc.ServerStreamingClient[repv1.EvacuateResponse]
	err = w.await(ctx, func(ctx context.Context) (any, error) { // a machine with very much to do answers late
		progress, err = repv1.NewOperationClient(conn).Evacuate(ctx, &repv1.EvacuateRequest{})
		if err == nil {
			_, err = progress.Recv()
		}
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("evacuating %s: %w", id, err)
	}
	for err == nil { // the end of the server may overtake that of the stream
		_, err = progress.Recv()
	}
	return ctx.Err()
}

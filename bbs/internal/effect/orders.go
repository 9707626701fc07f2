package effect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/servicekit/fault"
)

const (
	// orderTimeout bounds one call of a cell; the cell only notes the order.
	orderTimeout = 5 * time.Second
	// orderAgain is after how long a stop that the cell has noted is ordered again if the instance is
	// still there. Cells let an application ten seconds to end.
	orderAgain = 30 * time.Second
)

// ErrNoCell means that a cell is not present.
var ErrNoCell = errors.New("cell is not present")

// Cells finds the API of a cell.
type Cells interface {
	// Instances returns a client of the cell, or ErrNoCell. It does not block on the network.
	Instances(cellID string) (repv1.InstancesClient, error)
}

// order is something to tell a cell. What exactly is read from the state when it is told.
type order struct {
	// key is of an instance; its ProcessGUID is empty for a task.
	key      lrp.Key
	taskGUID string
	instance string // the instance guid, or the run of the task
}

// orders tells cells what to do, each cell in a goroutine of its own for as long as there is anything
// to tell it, so that one that does not answer holds up no other.
type orders struct {
	store Store
	cells Cells
	log   *slog.Logger
	// updated are the LRPs of whose update the cells may have to be told.
	updated *pending[string]

	// unserved are the cells whose queue is new, so that nobody works on it yet.
	unserved *pending[string]

	// failed and refused count orders, see Counts.
	failed, refused atomic.Int64

	mu     sync.Mutex
	queues map[string]*cellQueue
}

// cellQueue is what one cell is to be told.
type cellQueue struct {
	cellID string
	orders *pending[order]
}

func newOrders(store Store, cells Cells, log *slog.Logger) *orders {
	return &orders{store: store, cells: cells, log: log, updated: newPending[string](), unserved: newPending[string](), queues: map[string]*cellQueue{}}
}

func (o *orders) committed(c Changes, now time.Time) {
	for _, row := range c.Actuals {
		if row.StopRequested && row.Held() {
			o.tell(row.CellID, order{key: row.Key, instance: row.InstanceGUID}, now)
		}
	}
	for _, t := range c.Tasks {
		if t.CancelStands() {
			o.tell(t.CellID, order{taskGUID: t.GUID, instance: t.InstanceGUID}, now)
		}
	}
	for _, d := range c.Desireds {
		if d.Tag.Index > 0 { // else it has only just been created, and nothing of it runs
			o.updated.add(now, d.ProcessGUID)
		}
	}
}

// runUpdates looks which instances of an LRP that was updated have to be told of it.
func (o *orders) runUpdates(ctx context.Context) error {
	for {
		guids := o.updated.take(ctx, 1)
		if guids == nil {
			return context.Cause(ctx)
		}
		state := o.store.Snapshot()
		d := state.Desired(guids[0])
		if d == nil {
			continue
		}
		for _, row := range state.InstancesOf(d.ProcessGUID) {
			if needsUpdate(d, row) {
				o.tell(row.CellID, order{key: row.Key, instance: row.InstanceGUID}, time.Now())
			}
		}
	}
}

// needsUpdate reports whether the cell of an instance is to be told of other routes or tags.
func needsUpdate(d *lrp.Desired, row *lrp.Actual) bool {
	return row.Held() && row.Presence != lrp.Evacuating && !row.StopRequested &&
		(lrp.RoutesDrifted(d, row) || lrp.TagsDrifted(d, row))
}

// tell puts an order into the queue of a cell and has somebody work on it.
func (o *orders) tell(cellID string, what order, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[cellID]
	if q == nil {
		q = &cellQueue{cellID: cellID, orders: newPending[order]()}
		o.queues[cellID] = q
		o.unserved.add(at, cellID)
	}
	q.orders.add(at, what)
}

// run has every queue worked on until ctx ends.
func (o *orders) run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		cells := o.unserved.take(ctx, 1)
		if cells == nil {
			return context.Cause(ctx)
		}
		o.mu.Lock()
		q := o.queues[cells[0]]
		o.mu.Unlock()
		workers.Go(func() { o.serve(ctx, q) })
	}
}

// finished removes the queue if nothing is in it any more. The next order for the cell makes a new one.
func (o *orders) finished(q *cellQueue) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.orders.len() > 0 {
		return false
	}
	delete(o.queues, q.cellID)
	return true
}

// serve tells one cell all that is in its queue. While the cell does not answer nothing else is tried
// there; each order is read anew from the state before it is told, so what has become pointless, also
// because the cell was given up meanwhile, is never told.
func (o *orders) serve(ctx context.Context, q *cellQueue) {
	pauses := backoff{first: 500 * time.Millisecond, most: 30 * time.Second}
	for !o.finished(q) {
		due := q.orders.take(ctx, 1)
		if due == nil {
			return
		}
		again, err := o.deliver(ctx, q, due[0])
		if err != nil {
			o.failed.Add(1)
			if pauses.failures == 0 {
				o.log.WarnContext(ctx, "cell-does-not-take-orders", "cell_id", q.cellID, "waiting", q.orders.len()+1, "error", err)
			}
			delay := pauses.next()
			q.orders.add(time.Now().Add(delay), due[0])
			if !pause(ctx, delay) {
				return
			}
			continue
		}
		pauses.reset()
		if again > 0 {
			q.orders.add(time.Now().Add(again), due[0])
		}
	}
}

// deliver tells one order, if it still stands. It returns after how long the order is to be looked at
// again, 0 if it is done with, and an error if the cell did not answer.
func (o *orders) deliver(ctx context.Context, q *cellQueue, what order) (again time.Duration, err error) {
	if what.taskGUID != "" {
		return o.cancel(ctx, q.cellID, what)
	}
	state := o.store.Snapshot()
	row := holder(state.Instance(what.key), q.cellID, what.instance)
	if row == nil {
		return 0, nil
	}
	if row.StopRequested {
		return o.stop(ctx, row)
	}
	if d := state.Desired(what.key.ProcessGUID); d != nil && needsUpdate(d, row) {
		return 0, o.update(ctx, d, row)
	}
	return 0, nil
}

// holder finds the record by which the cell holds the instance.
func holder(i lrp.Instance, cellID, instanceGUID string) *lrp.Actual {
	for _, row := range [...]*lrp.Actual{i.Ordinary, i.Suspect} {
		if row != nil && row.CellID == cellID && row.InstanceGUID == instanceGUID {
			return row
		}
	}
	return nil
}

// stop orders an instance to stop. If the cell does not know it there is nothing left of it but its
// record.
func (o *orders) stop(ctx context.Context, row *lrp.Actual) (time.Duration, error) {
	client, err := o.cells.Instances(row.CellID)
	if err != nil {
		return 0, fmt.Errorf("stopping %v: %w", row.Key, err)
	}
	callCtx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	response, err := client.StopLRPInstance(callCtx, &repv1.StopLRPInstanceRequest{
		ProcessGuid: row.ProcessGUID, InstanceGuid: row.InstanceGUID,
	})
	if err != nil {
		return o.answered(ctx, row.CellID, err)
	}
	if response.GetFound() {
		return orderAgain, nil
	}
	return 0, o.remove(ctx, row)
}

// answered tells a cell that does not answer, whose error it returns, from one that refuses an order:
// the other orders need not wait for that, and the order is tried again later.
func (o *orders) answered(ctx context.Context, cellID string, err error) (time.Duration, error) {
	switch fault.Code(err) { //nolint:exhaustive // all others are answers
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Aborted, codes.Unknown:
		return 0, err
	}
	o.refused.Add(1)
	o.log.WarnContext(ctx, "cell-refused-order", "cell_id", cellID, "error", err)
	return orderAgain, nil
}

func (o *orders) remove(ctx context.Context, row *lrp.Actual) error {
	err := o.store.Do(ctx, func(tx Tx) error {
		i := tx.Instance(row.Key)
		now := holder(i, row.CellID, row.InstanceGUID)
		if now == nil || !now.StopRequested {
			return nil
		}
		out, err := lrp.Remove(i, now.InstanceKey)
		if err != nil {
			return fmt.Errorf("removing %v: %w", row.Key, err)
		}
		tx.PutInstance(i, out)
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing an instance that cell %q does not have: %w", row.CellID, err)
	}
	return nil
}

// update gives an instance the routes and tags that it should have. Its cell reports them back, and
// if it does not, convergence sees that they still differ.
func (o *orders) update(ctx context.Context, d *lrp.Desired, row *lrp.Actual) error {
	client, err := o.cells.Instances(row.CellID)
	if errors.Is(err, ErrNoCell) {
		return nil // convergence has it told when the cell is back
	}
	if err != nil {
		return fmt.Errorf("updating %v: %w", row.Key, err)
	}
	request := &repv1.UpdateLRPInstanceRequest{ProcessGuid: row.ProcessGUID, InstanceGuid: row.InstanceGUID}
	if lrp.RoutesDrifted(d, row) {
		request.InternalRoutes = &repv1.UpdateLRPInstanceRequest_InternalRoutes{Hostnames: d.InternalHostnames}
	}
	if lrp.TagsDrifted(d, row) {
		request.MetricTags = &repv1.UpdateLRPInstanceRequest_MetricTags{MetricTags: lrp.ResolveTags(d, row)}
	}
	callCtx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	if _, err := client.UpdateLRPInstance(callCtx, request); err != nil {
		_, err = o.answered(ctx, row.CellID, err)
		return err
	}
	return nil
}

// cancel has a cell delete the container of a task that was cancelled there. The order stands in the
// record of the task until the cell has taken it, or convergence finds the cell lost. If that record has
// been deleted meanwhile, or made anew, it is told for as long as this process lives and the cell is
// present.
func (o *orders) cancel(ctx context.Context, cellID string, what order) (time.Duration, error) {
	run := task.Run{CellID: cellID, InstanceGUID: what.instance}
	t := o.store.Snapshot().Task(what.taskGUID)
	standing := t != nil && task.CancelTold(t, run) != t
	client, err := o.cells.Instances(cellID)
	switch {
	case !standing && errors.Is(err, ErrNoCell):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("cancelling task %q: %w", what.taskGUID, err)
	}
	callCtx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	_, err = client.CancelTask(callCtx, &repv1.CancelTaskRequest{TaskGuid: what.taskGUID, InstanceGuid: what.instance})
	if err != nil {
		return o.answered(ctx, cellID, err)
	}
	err = o.store.Do(ctx, func(tx Tx) error {
		before := tx.Task(what.taskGUID)
		if after := task.CancelTold(before, run); after != before {
			tx.PutTask(before, after)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("noting that cell %q cancels task %q: %w", cellID, what.taskGUID, err)
	}
	return 0, nil
}

package effect

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
)

const (
	// auctionChunk bounds the instances, and the tasks, of one request.
	auctionChunk = 500
	// auctionTimeout bounds one request; an accepted item is queued, not placed, so it is quick.
	auctionTimeout = 10 * time.Second
)

// auctions offers what waits for a cell to the auctioneer. What was accepted is not its concern any
// more: if it still waits after a while convergence offers it again.
type auctions struct {
	store Store
	// again is for how long an instance that could not be placed waits until it is offered again.
	again  time.Duration
	client auctioneerv1.AuctionsClient
	log    *slog.Logger
	lrps   *pending[lrp.Key]
	tasks  *pending[string]
	// failed and refused count requests and items, see Counts.
	failed, refused atomic.Int64
}

func newAuctions(store Store, client auctioneerv1.AuctionsClient, again time.Duration, log *slog.Logger) *auctions {
	return &auctions{store: store, again: again, client: client, log: log, lrps: newPending[lrp.Key](), tasks: newPending[string]()}
}

// rejectionPauses are the pauses before a task that was rejected is offered again.
var rejectionPauses = [...]time.Duration{time.Second, 5 * time.Second, 15 * time.Second}

func (a *auctions) committed(c Changes, now time.Time) {
	var keys []lrp.Key
	for _, row := range c.Actuals {
		switch {
		case row.State != lrp.Unclaimed:
		case row.PlacementError == "":
			keys = append(keys, row.Key)
		default:
			a.lrps.add(a.dueAt(row, now), row.Key)
		}
	}
	a.lrps.add(now, keys...)
	for _, t := range c.Tasks {
		if t.State != task.Pending {
			continue
		}
		at := now
		if t.RejectionCount > 0 {
			at = now.Add(jitter(rejectionPauses[min(int(t.RejectionCount), len(rejectionPauses))-1]))
		}
		a.tasks.add(at, t.GUID)
	}
}

// dueAt is when an instance that waits for a cell is to be offered: at once, or some time after it could
// not be placed.
func (a *auctions) dueAt(row *lrp.Actual, now time.Time) time.Time {
	if row.PlacementError == "" {
		return now
	}
	return row.SinceTime().Add(a.again)
}

func (a *auctions) runLRPs(ctx context.Context) error {
	return offer(ctx, a.log, &a.failed, a.lrps, a.offerLRPs)
}

func (a *auctions) runTasks(ctx context.Context) error {
	return offer(ctx, a.log, &a.failed, a.tasks, a.offerTasks)
}

// offer sends chunks of what is due until ctx ends. If that fails everything waits, since there is
// one auctioneer and it is asked for health before it is asked for anything else.
func offer[K comparable](
	ctx context.Context, log *slog.Logger, failed *atomic.Int64, due *pending[K], send func(context.Context, []K) error,
) error {
	pauses := backoff{first: 250 * time.Millisecond, most: 5 * time.Second}
	for {
		keys := due.take(ctx, auctionChunk)
		if keys == nil {
			return context.Cause(ctx)
		}
		if err := send(ctx, keys); err != nil {
			due.add(time.Now(), keys...)
			failed.Add(1)
			if pauses.failures == 0 {
				log.WarnContext(ctx, "auction-request-failed", "items", len(keys), "error", err)
			}
			if !pause(ctx, pauses.next()) {
				return context.Cause(ctx)
			}
			continue
		}
		if pauses.failures > 0 {
			log.InfoContext(ctx, "auction-requests-succeed-again", "after_failures", pauses.failures)
			pauses.reset()
		}
	}
}

// offerLRPs requests auctions for those of the indices that still wait.
func (a *auctions) offerLRPs(ctx context.Context, keys []lrp.Key) error {
	state := a.store.Snapshot()
	var starts []*auctioneerv1.LRPStart
	at := map[string]int{}
	for _, key := range keys {
		d := state.Desired(key.ProcessGUID)
		o := state.Instance(key).Ordinary
		if d == nil || key.Index >= d.Instances || o == nil || o.State != lrp.Unclaimed {
			continue
		}
		n, known := at[key.ProcessGUID]
		if !known {
			n = len(starts)
			at[key.ProcessGUID] = n
			starts = append(starts, lrpStart(d, o.DefinitionID))
		}
		starts[n].Indices = append(starts[n].Indices, key.Index)
	}
	if len(starts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, auctionTimeout)
	defer cancel()
	response, err := a.client.RequestLRPAuctions(ctx, &auctioneerv1.RequestLRPAuctionsRequest{Starts: starts})
	if err != nil {
		return fmt.Errorf("requesting auctions of %d LRPs: %w", len(starts), err)
	}
	for _, item := range response.GetRejected() {
		if n := int(item.GetPosition()); n >= 0 && n < len(starts) {
			a.refusedLRP(ctx, starts[n], item.GetProblem())
		}
	}
	return nil
}

func lrpStart(d *lrp.Desired, definitionID string) *auctioneerv1.LRPStart {
	return &auctioneerv1.LRPStart{
		ProcessGuid:  d.ProcessGUID,
		Domain:       d.Domain,
		Resources:    wire.Resources(d.Resources),
		Placement:    wire.Placement(d.Placement),
		DefinitionId: definitionID,
	}
}

// refusedLRP stores why the auctioneer would not even queue an LRP, where its owner looks for it.
func (a *auctions) refusedLRP(ctx context.Context, start *auctioneerv1.LRPStart, problem string) {
	a.refused.Add(int64(len(start.GetIndices())))
	err := a.store.Do(ctx, func(tx Tx) error {
		for _, index := range start.GetIndices() {
			i := tx.Instance(lrp.Key{ProcessGUID: start.GetProcessGuid(), Index: index})
			// One that was claimed meanwhile needs no reason.
			if out, err := lrp.Fail(i, problem, time.Now()); err == nil && out.After != i {
				tx.PutInstance(i, out)
			}
		}
		return nil
	})
	if err != nil {
		a.log.WarnContext(ctx, "storing-auction-refusal-failed", "process_guid", start.GetProcessGuid(), "error", err)
	}
}

// offerTasks requests auctions for those of the tasks that still wait.
func (a *auctions) offerTasks(ctx context.Context, guids []string) error {
	state := a.store.Snapshot()
	var starts []*auctioneerv1.TaskStart
	for _, guid := range guids {
		t := state.Task(guid)
		if t == nil || t.State != task.Pending {
			continue
		}
		starts = append(starts, &auctioneerv1.TaskStart{
			TaskGuid:  t.GUID,
			Domain:    t.Domain,
			Resources: wire.Resources(t.Resources),
			Placement: wire.Placement(t.Placement),
		})
	}
	if len(starts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, auctionTimeout)
	defer cancel()
	response, err := a.client.RequestTaskAuctions(ctx, &auctioneerv1.RequestTaskAuctionsRequest{Starts: starts})
	if err != nil {
		return fmt.Errorf("requesting auctions of %d tasks: %w", len(starts), err)
	}
	for _, item := range response.GetRejected() {
		if n := int(item.GetPosition()); n >= 0 && n < len(starts) {
			a.refusedTask(ctx, starts[n].GetTaskGuid(), item.GetProblem())
		}
	}
	return nil
}

// refusedTask fails a task that the auctioneer would not even queue: asking again cannot help.
func (a *auctions) refusedTask(ctx context.Context, guid, problem string) {
	a.refused.Add(1)
	err := a.store.Do(ctx, func(tx Tx) error {
		t := tx.Task(guid)
		if t == nil || t.State != task.Pending {
			return nil
		}
		failed, err := task.Fail(t, problem, time.Now())
		if err != nil {
			return fmt.Errorf("failing task %q: %w", guid, err)
		}
		tx.PutTask(t, failed)
		return nil
	})
	if err != nil {
		a.log.WarnContext(ctx, "storing-auction-refusal-failed", "task_guid", guid, "error", err)
	}
}

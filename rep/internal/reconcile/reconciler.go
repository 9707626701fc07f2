// Package reconcile keeps the cell's containers and the BBS's records in agreement. The truth about a container is the
// container, the truth about what should run is the BBS: the reconciler reports the one, obeys the other, and does both with
// the same code whether an event or the periodic round brought it there.
//
// It decides nothing about placement and holds no state that a restart would miss.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"diego.internal/executor"
	"diego.internal/rep/internal/translate"
	"golang.org/x/sync/errgroup"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// BBS is the part of the BBS's API that a cell calls.
type BBS struct {
	Tasks      bbsv1.TasksClient
	TaskCell   bbsv1.TaskCellClient
	ActualLRPs bbsv1.ActualLRPsClient
	Cell       bbsv1.ActualLRPCellClient
	Evacuation bbsv1.EvacuationClient
}

// Config of a Reconciler.
type Config struct {
	CellID   string
	Zone     string
	BBS      BBS
	Executor *executor.Client
	// Interval between rounds, and between rounds while evacuating.
	Interval           time.Duration
	EvacuationInterval time.Duration
	// Evacuating says whether the cell is being emptied; EvacuationStarted is closed when that begins.
	Evacuating        func() bool
	EvacuationStarted <-chan struct{}
	// Width is how many containers are dealt with at a time.
	Width int
	Log   *slog.Logger
	// Deleted is told of every container that is about to be deleted.
	Deleted func(executor.Container)
	// Observe is told how long each complete round took.
	Observe func(time.Duration)
}

// Reconciler of one cell.
type Reconciler struct {
	Config

	queue *queue
	// resync asks for a round at once.
	resync chan struct{}
	// lastRound is when the last complete round ended, in Unix nanoseconds; 0 before the first.
	lastRound atomic.Int64
	lastError atomic.Pointer[string]
	requested announced
}

// New makes a reconciler. Call Sync for the first round, then Run.
func New(cfg Config) *Reconciler {
	return &Reconciler{Config: cfg, queue: newQueue(cfg.Width), resync: make(chan struct{}, 1), requested: newAnnounced()}
}

// Run follows events and does a round at every interval until ctx ends. It waits for the operations that it began, which
// see their context end, and returns nil.
func (r *Reconciler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.follow(ctx) })
	group.Go(func() error { r.rounds(ctx); return nil })
	err := group.Wait()
	r.queue.wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (r *Reconciler) follow(ctx context.Context) error {
	subscription := r.Executor.SubscribeToEvents()
	defer subscription.Close()
	// Whatever happened before the subscription began is found by this round.
	r.askRound()
	for {
		event, err := subscription.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("following the executor: %w", err)
		}
		if event.Kind == executor.EventResync {
			r.askRound()
			continue
		}
		r.submitContainer(ctx, event.Container.GUID, nil)
	}
}

func (r *Reconciler) rounds(ctx context.Context) {
	timer := time.NewTimer(r.Interval)
	defer timer.Stop()
	started := r.EvacuationStarted
	for {
		select {
		case <-ctx.Done():
			return
		case <-started:
			started = nil
		case <-r.resync:
		case <-timer.C:
		}
		if err := r.Sync(ctx); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "round-skipped", "error", err)
		}
		timer.Reset(r.interval())
	}
}

func (r *Reconciler) interval() time.Duration {
	if r.Evacuating() {
		return r.EvacuationInterval
	}
	return r.Interval
}

func (r *Reconciler) askRound() {
	select {
	case r.resync <- struct{}{}:
	default:
	}
}

// Sync compares all containers with all records of this cell once and queues what has to be done. It returns when
// everything is queued, with an error if the BBS could not be asked; nothing is queued then.
func (r *Reconciler) Sync(ctx context.Context) error {
	began := time.Now()
	records, err := r.fetch(ctx)
	if err != nil {
		text := err.Error()
		r.lastError.Store(&text)
		return err
	}
	// The containers are read after the records: one that is missing now was missing when its record was read, or has
	// just been deleted, and then its record is about to go anyway.
	present := map[string]bool{}
	for _, c := range r.Executor.ListContainers() {
		present[holder(c)] = true
		r.submitContainer(ctx, c.GUID, records)
	}
	r.submitResidual(ctx, records, present)
	r.lastRound.Store(time.Now().UnixNano())
	r.lastError.Store(nil)
	r.Observe(time.Since(began))
	return nil
}

// LastRound is when the last complete round ended and why the newest one failed, if it did.
func (r *Reconciler) LastRound() (at time.Time, problem string) {
	if ns := r.lastRound.Load(); ns != 0 {
		at = time.Unix(0, ns)
	}
	if text := r.lastError.Load(); text != nil {
		problem = *text
	}
	return at, problem
}

// Drain waits for the operations that are queued now. The rep calls it after the first Sync, so that the cell offers
// itself only when what it found has been told.
func (r *Reconciler) Drain() { r.queue.wait() }

// submitContainer queues a look at one container. records is nil when an event brought us here.
func (r *Reconciler) submitContainer(ctx context.Context, guid string, records *records) {
	r.queue.submit(ctx, guid, func(ctx context.Context) {
		c, err := r.Executor.GetContainer(guid)
		if err != nil {
			return // gone meanwhile
		}
		if err := r.container(ctx, c, records); err != nil && ctx.Err() == nil {
			// The next round tries again, so this is nothing an operator has to act on.
			r.Log.WarnContext(ctx, "container-not-settled", "container_guid", guid, "state", string(c.State),
				"process_guid", c.Tags[translate.TagProcessGUID], "task_guid", c.Tags[translate.TagTaskGUID], "error", err)
		}
	})
}

func (r *Reconciler) container(ctx context.Context, c executor.Container, records *records) error {
	switch c.Tags[translate.TagLifecycle] {
	case translate.LifecycleLRP:
		if r.Evacuating() {
			return r.evacuateLRP(ctx, c)
		}
		return r.lrp(ctx, c, records)
	case translate.LifecycleTask:
		return r.task(ctx, c, records)
	default:
		return fmt.Errorf("container %q has unknown lifecycle %q", c.GUID, c.Tags[translate.TagLifecycle])
	}
}

func (r *Reconciler) delete(ctx context.Context, c executor.Container) error {
	r.Deleted(c)
	r.requested.forget(c.GUID)
	if err := r.Executor.DeleteContainer(ctx, c.GUID); err != nil && !errors.Is(err, executor.ErrContainerNotFound) {
		return fmt.Errorf("deleting container %q: %w", c.GUID, err)
	}
	return nil
}

// holder names what a container stands for in the BBS: an instance by its guid, a task by its own.
func holder(c executor.Container) string {
	if c.Tags[translate.TagLifecycle] == translate.LifecycleTask {
		return "task/" + c.Tags[translate.TagTaskGUID]
	}
	return "lrp/" + c.Tags[translate.TagInstanceGUID]
}

// records of this cell in the BBS at one moment.
type records struct {
	// lrps by instance guid. An instance has one record, whatever its presence.
	lrps  map[string]*workloadv1.ActualLRP
	tasks map[string]*workloadv1.Task
}

// DeleteSoon queues the deletion of a container and returns. It is used when the BBS has settled the record already.
func (r *Reconciler) DeleteSoon(ctx context.Context, c executor.Container) {
	r.queue.submit(ctx, c.GUID, func(ctx context.Context) {
		if err := r.delete(ctx, c); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "container-not-deleted", "container_guid", c.GUID, "error", err)
		}
	})
}

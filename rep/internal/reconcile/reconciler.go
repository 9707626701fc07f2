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

	"golang.org/x/sync/errgroup"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// BBS is the part of the BBS's API that a cell calls.
type BBS struct {
	Tasks      bbsv1.TasksClient
	TaskCell   bbsv1.TaskCellClient
	ActualLRPs bbsv1.ActualLRPsClient
	Cell       bbsv1.ActualLRPCellClient
	Evacuation bbsv1.EvacuationClient
	Watch      bbsv1.WatchClient
	// DesiredLRPs tells how many instances an LRP has.
	DesiredLRPs bbsv1.DesiredLRPsClient
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
	// synced is closed when the first round has been carried out.
	synced chan struct{}
	// lastRound is when the last complete round ended, in Unix nanoseconds; 0 before the first.
	lastRound atomic.Int64
	lastError atomic.Pointer[string]

	replacements *replacements
}

// New makes a reconciler. It does nothing before Run.
func New(cfg Config) *Reconciler {
	return &Reconciler{
		Config: cfg, queue: newQueue(cfg.Width), resync: make(chan struct{}, 1), synced: make(chan struct{}), replacements: newReplacements(),
	}
}

// Run does the first round as soon as the BBS answers, then follows events and does a round at every interval until ctx
// ends. It waits for the operations that it began, which see their context end, and returns nil then.
func (r *Reconciler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// The subscription is older than the first round, so what happens meanwhile is seen by one of the two.
	events := r.Executor.SubscribeToEvents()
	defer events.Close()
	group.Go(func() error { return r.follow(ctx, events) })
	group.Go(func() error {
		r.rounds(ctx)
		return nil
	})
	group.Go(func() error {
		r.followRecords(ctx)
		return nil
	})
	err := group.Wait()
	r.queue.wait()
	return err
}

// Synced is closed when the BBS has been told once of everything that was found at start. The cell offers itself only then.
func (r *Reconciler) Synced() <-chan struct{} { return r.synced }

func (r *Reconciler) follow(ctx context.Context, events *executor.Subscription) error {
	for {
		event, err := events.Next(ctx)
		switch {
		case ctx.Err() != nil, errors.Is(err, executor.ErrClosed): // the end of the process
			return nil //nolint:nilerr // ending is no failure
		case err != nil:
			return fmt.Errorf("following the executor: %w", err)
		}
		if event.Kind == executor.EventResync {
			r.askRound()
			continue
		}
		r.submitContainer(ctx, event.Container.GUID, nil)
	}
}

// Pauses between attempts at the first round, which must not wait for a whole interval.
const (
	firstRoundPause    = 100 * time.Millisecond
	maxFirstRoundPause = 2 * time.Second
)

func (r *Reconciler) rounds(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	started, pause := r.EvacuationStarted, firstRoundPause
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-started:
			started = nil
		case <-r.resync:
		case <-timer.C:
		}
		over, err := r.sync(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			r.Log.WarnContext(ctx, "round-skipped", "error", err)
		case err == nil && first:
			first = false
			if !await(ctx, over) {
				return
			}
			close(r.synced)
		}
		if first {
			timer.Reset(pause)
			pause = min(2*pause, maxFirstRoundPause)
			continue
		}
		timer.Reset(r.interval())
	}
}

// await returns false when ctx ends first.
func await(ctx context.Context, over []<-chan struct{}) bool {
	for _, done := range over {
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
	return true
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

// sync compares all containers with all records of this cell once and queues what has to be done. The channels are
// closed as it is done. After an error, which says that the BBS could not be asked, nothing is queued.
func (r *Reconciler) sync(ctx context.Context) ([]<-chan struct{}, error) {
	began := time.Now()
	records, err := r.fetch(ctx)
	if err != nil {
		text := err.Error()
		r.lastError.Store(&text)
		return nil, err
	}
	// The containers are read after the records: one that is missing now was missing when its record was read, or has
	// just been deleted, and then its record is about to go anyway.
	var over []<-chan struct{}
	present := map[string]bool{}
	containers := r.Executor.ListContainers()
	var singles map[string]<-chan struct{}
	if r.Evacuating() {
		singles = r.tellOfSingles(ctx, containers, records)
	}
	for _, c := range containers {
		present[holder(c)] = true
		if r.settled(c, records) {
			continue
		}
		done, told := singles[c.GUID]
		if !told {
			done = r.submitContainer(ctx, c.GUID, records)
		}
		over = append(over, done)
	}
	over = append(over, r.submitResidual(ctx, records, present)...)
	r.lastRound.Store(time.Now().UnixNano())
	r.lastError.Store(nil)
	r.Observe(time.Since(began))
	return over, nil
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

// submitContainer queues a look at one container. records is nil when an event brought us here.
func (r *Reconciler) submitContainer(ctx context.Context, guid string, records *records) <-chan struct{} {
	return r.queue.submit(ctx, guid, func(ctx context.Context) {
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

// settled says whether the BBS's record of an instance says what the container is, so that there is nothing to tell. It is so for
// nearly all that a round looks at, and costs them no turn in the queue.
func (r *Reconciler) settled(c executor.Container, known *records) bool {
	if known == nil || c.Tags[translate.TagLifecycle] != translate.LifecycleLRP {
		return false
	}
	record, found := known.lrps[c.Tags[translate.TagInstanceGUID]]
	if !found {
		return false
	}
	switch c.State {
	case executor.StateInitializing, executor.StateCreated:
		return !r.Evacuating() && record.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	case executor.StateRunning:
		if r.Evacuating() { // it serves until the BBS drops that record, of which we hear
			return r.Told(c.GUID) && translate.RunningOf(c, r.Zone).MatchesEvacuating(record)
		}
		return translate.RunningOf(c, r.Zone).Matches(record)
	case executor.StateReserved, executor.StateCompleted:
	}
	return false
}

func (r *Reconciler) container(ctx context.Context, c executor.Container, records *records) error {
	if r.settled(c, records) {
		return nil
	}
	switch c.Tags[translate.TagLifecycle] {
	case translate.LifecycleLRP:
		if r.Evacuating() {
			return r.evacuateLRP(ctx, c)
		}
		return r.lrp(ctx, c)
	case translate.LifecycleTask:
		return r.task(ctx, c, records)
	default:
		return fmt.Errorf("container %q has unknown lifecycle %q", c.GUID, c.Tags[translate.TagLifecycle])
	}
}

func (r *Reconciler) delete(ctx context.Context, c executor.Container) error {
	r.Deleted(c)
	r.replacements.forget(c.GUID)
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

// DeleteSoon begins the deletion of a container and returns. It is used when the BBS has settled the record already. Its
// key is its own, so that no look at the same container can take its place in the queue.
func (r *Reconciler) DeleteSoon(ctx context.Context, c executor.Container) {
	r.queue.submit(ctx, "delete/"+c.GUID, func(ctx context.Context) {
		if err := r.delete(ctx, c); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "container-not-deleted", "container_guid", c.GUID, "error", err)
		}
	})
}

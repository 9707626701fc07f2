package effect

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
)

// Config of the effects.
type Config struct {
	// Interval is the time between two looks at everything.
	Interval time.Duration
	Converge converge.Config
	Fleet    converge.FleetConfig
	// NewEpoch makes a random epoch. It is called within transactions, so it must not block.
	NewEpoch func() string
}

// DefaultConfig has the values that an operator need not change; NewEpoch is the caller's.
func DefaultConfig() Config {
	return Config{
		Interval: 30 * time.Second,
		Converge: converge.DefaultConfig(),
		Fleet:    converge.DefaultFleetConfig(),
	}
}

// Peers are those whom effects talk to.
type Peers struct {
	Auctions auctioneerv1.AuctionsClient
	Cells    Cells
	// Callbacks makes the connections of completion callbacks, with the identity of the BBS.
	Callbacks *http.Client
}

// Effects runs all that must happen after commits. Its methods are safe for concurrent use.
type Effects struct {
	store       Store
	auctions    *auctions
	orders      *orders
	callbacks   *callbacks
	convergence *convergence
}

// New returns effects that do nothing before Run.
func New(config Config, store Store, peers Peers, log *slog.Logger) *Effects {
	e := &Effects{
		store:     store,
		auctions:  newAuctions(store, peers.Auctions, config.Converge.StaleUnclaimed, log),
		orders:    newOrders(store, peers.Cells, log),
		callbacks: newCallbacks(store, peers.Callbacks, log),
	}
	e.convergence = newConvergence(store, config, log, tellers{auctions: e.auctions, orders: e.orders, callbacks: e.callbacks})
	return e
}

// Committed says what a commit touched. It never blocks and does not call back, so the writer calls
// it itself, after the change is visible in Snapshot.
func (e *Effects) Committed(c Changes) {
	now := time.Now()
	e.auctions.committed(c, now)
	e.orders.committed(c, now)
	e.callbacks.committed(c, now)
	e.convergence.committed(c, now)
}

// Run looks at everything once, so that nothing that an earlier master left undone is forgotten, and
// works until ctx ends; it returns the cause of that. It may be called once.
func (e *Effects) Run(ctx context.Context) error {
	e.recover()
	g, ctx := errgroup.WithContext(ctx)
	for _, loop := range []func(context.Context) error{
		e.auctions.runLRPs, e.auctions.runTasks,
		e.orders.run, e.orders.runUpdates,
		e.callbacks.run,
		e.convergence.run, e.convergence.runAgain,
	} {
		g.Go(func() error { return loop(ctx) })
	}
	return g.Wait()
}

// recover finds in the state what nobody has told this process of. What is crashed, gone or lost is
// for convergence to find.
func (e *Effects) recover() {
	state, now := e.store.Snapshot(), time.Now()
	for row := range state.Records() {
		switch {
		case row.State == lrp.Unclaimed:
			e.auctions.lrps.add(e.auctions.dueAt(row, now), row.Key)
		case row.StopRequested:
			e.orders.tell(row.CellID, order{key: row.Key, instance: row.InstanceGUID}, now)
		}
	}
	for t := range state.Tasks() {
		switch {
		case t.State == task.Pending:
			e.auctions.tasks.add(now, t.GUID)
		case t.CancelStands():
			e.orders.tell(t.CellID, order{taskGUID: t.GUID, instance: t.InstanceGUID}, now)
		}
		if t.State == task.Completed && t.HasCallback {
			e.callbacks.due.add(now, t.GUID)
		}
	}
}

// CellsSynced says which cells are present, all of them. Until the first time nothing is converged.
func (e *Effects) CellsSynced(present []string) {
	e.convergence.cells(func(f *converge.Fleet, now time.Time) {
		f.Sync(present, now)
		e.convergence.synced = true
	})
}

// CellArrived says that a cell is present.
func (e *Effects) CellArrived(id string) {
	e.convergence.cells(func(f *converge.Fleet, _ time.Time) { f.Arrived(id) })
}

// CellExpired says that the presence of a cell has expired; inferred if nobody has told so, but it is
// missing after an interruption of the watch.
func (e *Effects) CellExpired(id string, inferred bool) {
	e.convergence.cells(func(f *converge.Fleet, now time.Time) {
		if inferred {
			f.Missed(id, now)
			return
		}
		f.Expired(id, now)
	})
}

// CellReleased says that a cell gave up its presence.
func (e *Effects) CellReleased(id string) {
	e.convergence.cells(func(f *converge.Fleet, now time.Time) { f.Released(id, now) })
}

// OverrideBrake lets convergence act although too many cells vanished at once, or holds it although
// they did not, for a time.
func (e *Effects) OverrideBrake(release bool, during time.Duration) {
	e.convergence.cells(func(f *converge.Fleet, now time.Time) { f.Override(!release, now.Add(during)) })
}

// Status tells how convergence stands.
func (e *Effects) Status() Status {
	e.convergence.mu.Lock()
	defer e.convergence.mu.Unlock()
	return e.convergence.status
}

// Counts are how often something that has to follow a commit came out in one way or another, since the start of the
// process. What failed is tried again.
type Counts struct {
	AuctionRequestsFailed int64 // requests that the auctioneer did not answer
	AuctionsRefused       int64 // instances and tasks that the auctioneer would not even queue
	OrdersFailed          int64 // orders that a cell did not answer
	OrdersRefused         int64 // orders that a cell answered with an error
	CallbacksDelivered    int64 // tasks whose client was told
	CallbacksFailed       int64 // rounds of attempts after which the client was not told
}

// Counts of this process.
func (e *Effects) Counts() Counts {
	return Counts{
		AuctionRequestsFailed: e.auctions.failed.Load(), AuctionsRefused: e.auctions.refused.Load(),
		OrdersFailed: e.orders.failed.Load(), OrdersRefused: e.orders.refused.Load(),
		CallbacksDelivered: e.callbacks.delivered.Load(), CallbacksFailed: e.callbacks.failed.Load(),
	}
}

// Waiting counts what effects still have to do.
type Waiting struct {
	LRPAuctions  int
	TaskAuctions int
	Callbacks    int
	Cells        int // that are to be told something
}

// Waiting tells how much is still to be done.
func (e *Effects) Waiting() Waiting {
	e.orders.mu.Lock()
	cells := len(e.orders.queues)
	e.orders.mu.Unlock()
	return Waiting{
		LRPAuctions: e.auctions.lrps.len(), TaskAuctions: e.auctions.tasks.len(),
		Callbacks: e.callbacks.due.len(), Cells: cells,
	}
}

// Package store owns the state of the BBS: in memory, where all reads and all decisions happen, and in
// Postgres, which is its log. One writer commits batches of requests; see Store.Apply.
//
// It does not own the rules of what may change (packages lrp and task), what follows a commit
// (packages watch and effect), nor who may ask (package api).
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/servicekit/fault"
)

// Errors of the store.
var (
	// ErrNotMaster says that this BBS is not the active one, or cannot prove it at this moment.
	ErrNotMaster = fault.New(codes.Unavailable, "NotMaster", "this bbs is not the active one")
	// ErrMigrating says that this BBS holds the lock and changes the tables to another version.
	ErrMigrating = fault.New(codes.Unavailable, "Migrating", "the schema of the database is being migrated")
	// ErrFenced says that another BBS has become active: this one must stop.
	ErrFenced = fault.New(codes.Aborted, "FencedOut", "another bbs has become active")
	// ErrUnavailable says that Postgres does not answer. The request has not happened, unless the text
	// says that its outcome is not known.
	ErrUnavailable = fault.New(codes.Unavailable, "DatabaseUnavailable", "the database is not available")
	// ErrOverloaded says that too many writes wait. The request has not happened.
	ErrOverloaded = fault.New(codes.Unavailable, "Overloaded", "too many writes are waiting")
	// ErrFuture says that a revision was asked for that the log has not reached.
	ErrFuture = fault.New(codes.OutOfRange, "RevisionFromFuture", "the log has not reached that revision")
	// ErrQuarantined says that a record cannot be read, and so not be changed either.
	ErrQuarantined = fault.New(codes.DataLoss, "Deserialize", "the record is in quarantine")
)

// postgresReader is what reads need of a pool.
type postgresReader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Config of a Store. Pool, Keys and Log are required.
type Config struct {
	Pool *pgxpool.Pool
	Keys *seal.Keyring
	Log  *slog.Logger
	// Metrics are registered here; nil registers none.
	Metrics prometheus.Registerer
	// MaxBatch bounds the requests of one batch; 0 is 2,000.
	MaxBatch int
	// MaxRows bounds, softly, the rows of one batch; 0 is 20,000.
	MaxRows int
	// QueueLimit bounds the requests that wait; 0 is 20,000.
	QueueLimit int
	// CommitTimeout is how long a batch may take before its connection is given up and its outcome
	// looked up; 0 is 10 s.
	CommitTimeout time.Duration
	// WatchBytes bounds the memory of the log of recent batches; 0 is 64 MiB.
	WatchBytes int
	// Retention says what batch_log keeps.
	Retention Retention
	// Rotation says how fast values under old keys are sealed anew.
	Rotation Rotation
	// Comparison says how often memory is compared with the tables.
	Comparison Comparison
	// OnCommit is called with what each batch of this BBS changed, when reads see it and before the
	// callers have their answers. It runs in the writer, so it must be quick and must not block.
	OnCommit func(Committed)
	// Clock tells the time; nil is time.Now.
	Clock func() time.Time
}

func (c Config) withDefaults() Config {
	setInt := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	setInt(&c.MaxBatch, 2000)
	setInt(&c.MaxRows, 20000)
	setInt(&c.QueueLimit, 20000)
	setInt(&c.WatchBytes, 64<<20)
	if c.CommitTimeout == 0 {
		c.CommitTimeout = 10 * time.Second
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.Retention = c.Retention.withDefaults()
	c.Rotation = c.Rotation.withDefaults()
	c.Comparison = c.Comparison.withDefaults()
	return c
}

// Committed says which records a batch touched, as they are afterwards, in no order.
type Committed struct {
	Actuals     []*lrp.Actual
	ActualsGone []lrp.Key
	Desireds    []*lrp.Desired
	// DesiredsGone are the process guids of desired LRPs that were removed.
	DesiredsGone []string
	Tasks        []*task.Task
}

// Store is the state of one BBS, active or standby. Its methods are safe for concurrent use, except
// that Follow, TakeOver and Run are each called by one goroutine, one after the other.
type Store struct {
	cfg         Config
	pool        *pgxpool.Pool
	keys        *seal.Keyring
	log         *slog.Logger
	metrics     *metrics
	watch       *watch.Log
	definitions *definitions

	// view is the newest committed state; nil before the first load.
	view atomic.Pointer[View]
	// newer is closed and replaced at each new view, for those who wait for a revision.
	newerMu sync.Mutex
	newer   chan struct{}

	// active holds the proof that this BBS is the active one; nil on a standby.
	active atomic.Pointer[func() bool]
	// down is set while the outcome of a batch, or our mastership, is being looked up.
	down atomic.Bool
	// migrating is set while this BBS, not yet active, changes the tables.
	migrating atomic.Bool
	queue     chan *request
	// fatal takes the first error that ends the writer for good.
	fatal chan error
	// standby says what a standby waits for, if it cannot follow the log.
	standby atomic.Pointer[string]

	quarantine quarantine
	rotation   rotation
	comparison comparison

	// reload asks the standby to load the tables again.
	reload atomic.Bool

	// state, epoch and holder belong to the goroutine of Follow, TakeOver or Run. The holder is who we
	// are in the database since TakeOver.
	state *state
	// tip is the newest batch that a standby has read; see sameHistory.
	tip    batchID
	epoch  int64
	holder [16]byte
	// schemaAt is when the tables that were loaded got their version.
	schemaAt time.Time
}

// New returns a Store that holds nothing yet.
func New(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	defs, err := newDefinitions(cfg.Pool, cfg.Keys)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, pool: cfg.Pool, keys: cfg.Keys, log: cfg.Log, state: newState(), definitions: defs,
		newer: make(chan struct{}), queue: make(chan *request, cfg.QueueLimit), fatal: make(chan error, 1),
	}
	s.watch = watch.NewLog(watch.Config{MaxBytes: cfg.WatchBytes, Archive: s})
	s.metrics = newMetrics(s, cfg.Metrics)
	return s, nil
}

// View returns the newest committed state, for a read that clients shall see.
//
// It returns ErrNotMaster on a standby, and while an active BBS cannot prove that it still is, and
// ErrMigrating as SetMigrating says.
func (s *Store) View() (*View, error) {
	if err := s.Serving(); err != nil {
		return nil, err
	}
	return s.view.Load(), nil
}

// Committed returns the newest committed state whether or not this BBS is active, for its own use;
// nil before the first load.
func (s *Store) Committed() *View { return s.view.Load() }

// Watch returns the log of batches.
func (s *Store) Watch() *watch.Log { return s.watch }

// ViewAt waits until the state has reached a revision and returns it. It blocks until ctx ends.
//
// It returns ErrNotMaster as View does.
func (s *Store) ViewAt(ctx context.Context, revision uint64) (*View, error) {
	for {
		s.newerMu.Lock()
		newer := s.newer
		s.newerMu.Unlock()
		view, err := s.View()
		if err != nil || view.revision >= revision {
			return view, err
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for revision %d: %w", revision, context.Cause(ctx))
		}
	}
}

// publish makes a committed state visible, first to reads and then to watchers, so that whoever saw
// an event also reads what it tells.
func (s *Store) publish(view *View, batch *watch.Batch) {
	s.view.Store(view)
	s.comparison.published(view)
	if batch != nil {
		s.watch.Append(batch)
	}
	s.newerMu.Lock()
	close(s.newer)
	s.newer = make(chan struct{})
	s.newerMu.Unlock()
}

// snapshot returns the view of the present state, which must not be changed after that.
func (s *Store) snapshot(revision uint64, at time.Time) *View {
	return &View{records: records{s.state}, revision: revision, epoch: s.epoch, at: at}
}

// request is one call of Apply that waits for its batch.
type request struct {
	ctx   context.Context
	apply func(*Tx) error
	trace string
	// done gets exactly one result.
	done chan result
}

type result struct {
	revision uint64
	err      error
}

// Apply runs a function in the next batch and returns once Postgres has committed it, with its
// revision; a function that changes nothing gets the newest revision. The functions of one batch run
// one after the other and see what those before them did; one that returns an error changes nothing,
// and Apply returns that error.
//
// The function must be quick, must not block, and must not have effects besides its Tx and what the
// caller reads after Apply has returned; it may run again if its batch has to be made anew.
//
// It returns ErrNotMaster, ErrMigrating, ErrFenced, ErrUnavailable or ErrOverloaded if the change has not happened.
// If ctx ends while the batch is on its way, the change may still happen.
func (s *Store) Apply(ctx context.Context, apply func(*Tx) error) (uint64, error) {
	if err := s.Serving(); err != nil {
		return 0, err
	}
	if s.down.Load() {
		return 0, ErrUnavailable
	}
	r := &request{ctx: ctx, apply: apply, done: make(chan result, 1), trace: traceID(ctx)}
	select {
	case s.queue <- r:
	default:
		s.metrics.overloaded.Inc()
		return 0, ErrOverloaded
	}
	select {
	case res := <-r.done:
		return res.revision, res.err
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the commit: %w", context.Cause(ctx))
	}
}

// Active reports whether this BBS is the active one and can prove it.
func (s *Store) Active() bool {
	valid := s.active.Load()
	return valid != nil && (*valid)()
}

// Down reports whether the active BBS has lost its database.
func (s *Store) Down() bool { return s.down.Load() }

func traceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	return ""
}

// isContextError reports whether an error says no more than that its context ended.
func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

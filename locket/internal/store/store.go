// Package store keeps claims in Postgres: who holds which key until when, and the log of changes
// that the watches of every server follow.
//
// All times are those of the database, so the clocks of the servers do not matter; a step of the
// database's own clock is noticed and bridged (see clock.go). The rules of claims are in package
// lease, the messages in package api.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/postgres"
)

// ErrUnavailable says that the database could not be asked.
var ErrUnavailable = fault.New(codes.Unavailable, "DatabaseUnavailable", "the database is not available")

// operationTimeout bounds everything asked of the database for a caller, apart from the caller's own
// deadline. It is below the shortest trust of a usual lease, so that the holder has an answer while
// it can still try elsewhere.
const operationTimeout = 3 * time.Second

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is where the migrations note how far they have come.
const versionTable = "public.locket_version"

// Migrate brings the schema up to date. Several servers may do so at once, and the previous release
// runs on the new schema.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the embedded migrations: %w", err)
	}
	if err := postgres.Migrate(ctx, pool, files, versionTable); err != nil {
		return fmt.Errorf("migrating the claims: %w", err)
	}
	return nil
}

// Store keeps claims. Its methods are safe for concurrent use; Lock and Watch need Run to run.
type Store struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	metrics *metrics

	requests chan *request // Lock to the goroutine that groups
	stopped  chan struct{} // closed when that goroutine has ended
	feed     *feed
	health   health
}

// Config is what a Store needs.
type Config struct {
	Pool    *pgxpool.Pool
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// New returns a store on a migrated database. Nothing expires and Lock does not answer before Run.
func New(cfg Config) *Store {
	m := newMetrics(cfg.Metrics)
	s := &Store{
		pool: cfg.Pool, log: cfg.Log, metrics: m,
		requests: make(chan *request),
		stopped:  make(chan struct{}),
		feed:     newFeed(cfg.Pool, cfg.Log, m),
	}
	promauto.With(cfg.Metrics).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "watch_backlog", Help: "Changes that wait for the watch of this server that is furthest behind.",
	}, s.feed.backlog)
	return s
}

// Run serves Lock, ends what has run out, and feeds the watches, until ctx ends; then it returns
// nil. It returns an error if the tables are gone, which no retry can mend. onHealth is called with
// each change of Healthy, first when the database has answered for the first time.
func (s *Store) Run(ctx context.Context, onHealth func(healthy bool)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.group(ctx); return nil })
	g.Go(func() error { return s.keep(ctx, onHealth) })
	g.Go(func() error { s.feed.run(ctx); return nil })
	return g.Wait()
}

// expired is the SQL for whether a row may be treated as gone. While the clock of the database is not confirmed
// (nobody has looked for a second, or it jumped), nothing expires; clock.go then extends what needs
// it before the clock counts as confirmed again.
const expired = `(c.expires_at < now() AND ` + clockConfirmed + `)`

// columns of a claim, in the order of row.
const columns = `key, type, owner, holder, value, ttl_ms, expires_at, acquired_at, token, incarnation`

// row is a claim as a query returns it, mapped by name.
type row struct {
	Key         string
	Type        int16
	Owner       string
	Holder      string
	Value       string
	TTLMs       int64 `db:"ttl_ms"`
	ExpiresAt   time.Time
	AcquiredAt  time.Time
	Token       int64
	Incarnation int64
}

func (r row) held() lease.Held {
	return lease.Held{
		Key: r.Key, Type: lease.Type(r.Type), Owner: r.Owner, Holder: r.Holder, Value: r.Value,
		TTL:       time.Duration(r.TTLMs) * time.Millisecond,
		ExpiresAt: r.ExpiresAt, AcquiredAt: r.AcquiredAt,
		Token: r.Token, Incarnation: r.Incarnation,
	}
}

// detached returns a context for work in the database: a caller that gave up may find its claim
// granted, which its release or its expiry ends, but never half done.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), operationTimeout, errSlow)
}

var errSlow = fmt.Errorf("no answer from the database in %v", operationTimeout)

// inTx runs fn in a transaction with the deadline of detached.
func (s *Store) inTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error { return fn(ctx, tx) })
	return unavailable(ctx, err)
}

// unavailable makes ErrUnavailable of everything that has no class of its own: whatever failed
// between us and the database, the caller may try again and another server may do better.
func unavailable(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lease.ErrCollision), errors.Is(err, lease.ErrNotFound), errors.Is(err, ErrUnavailable):
		return err
	case ctx.Err() != nil:
		return ErrUnavailable.With("%w: %w", context.Cause(ctx), err)
	default:
		return ErrUnavailable.With("%w", err)
	}
}

// schemaMissing reports an error that no retry can mend: our tables are not there.
func schemaMissing(err error) bool {
	const undefinedTable = "42P01"
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == undefinedTable
}

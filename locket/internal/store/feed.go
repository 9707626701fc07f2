package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/locket/internal/lease"
)

// feed follows the log of changes and hands each change to the watches of this server.
//
// A notification only wakes it; what it delivers is read from the log, from its cursor on. So a lost
// notification, or a connection that broke, delays a change until the next poll but never loses one
// or changes the order.
type feed struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{} // of one element
	cursor  int64         // last revision delivered; only used by follow
	*subscriptions
}

func newFeed(pool *pgxpool.Pool, log *slog.Logger, m *metrics) *feed {
	return &feed{pool: pool, log: log, metrics: m, wake: make(chan struct{}, 1), subscriptions: newSubscriptions(m)}
}

const (
	// pollEvery is how late a change can be when notifications do not arrive.
	pollEvery = 250 * time.Millisecond
	// pollTimeout bounds one reading of the log.
	pollTimeout = 2 * time.Second
	// blindLimit is how long the log may be unreadable before the watches are ended: their clients
	// then look for a server that sees the database.
	blindLimit = 3 * time.Second
	// logPage is how many changes are read at a time.
	logPage = 1000
)

// run follows the log until ctx ends.
func (f *feed) run(ctx context.Context) {
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		f.listen(ctx)
	}()
	f.follow(ctx)
	<-listening
	f.cut(ErrUnavailable.With("the server is stopping"))
}

// listen wakes follow at each notification. It reconnects for ever.
func (f *feed) listen(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		err := f.listenOnce(ctx, func() { failures = 0 })
		if ctx.Err() != nil {
			return
		}
		failures++
		f.metrics.listenFailures.Inc()
		f.log.DebugContext(ctx, "listening-failed", "error", err)
		pause := time.NewTimer(lease.RetryAfter(failures))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

func (f *feed) listenOnce(ctx context.Context, connected func()) error {
	conn, err := f.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// A connection that listens must not return to the pool.
	defer func() { _ = conn.Hijack().Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `LISTEN claim_log`); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	connected()
	for {
		if _, err := conn.Conn().WaitForNotification(ctx); err != nil {
			return fmt.Errorf("waiting for a notification: %w", err)
		}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// follow reads the log at each wake-up and each poll.
func (f *feed) follow(ctx context.Context) {
	begun := false
	sighted := time.Now()
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-poll.C:
		}
		var err error
		if begun {
			err = f.advance(ctx)
		} else {
			err = f.begin(ctx)
		}
		switch {
		case err == nil:
			begun, sighted = true, time.Now()
			f.see(true)
		case errors.Is(err, errLogLost):
			// begin reads the new end; every watch starts anew, from what is held then.
			begun = false
			f.log.WarnContext(ctx, "watches-restarted", "error", err)
			f.cut(ErrBehind.With("%w", err))
		case time.Since(sighted) > blindLimit:
			// A watch that was just opened must not believe itself alive either.
			f.see(false)
			f.cut(ErrUnavailable.With("reading the log of claims: %w", err))
		}
		poll.Reset(pollEvery)
	}
}

// errLogLost says that the log does not continue where the feed stands.
var errLogLost = errors.New("the log of claims does not reach back to the last change seen")

// begin puts the cursor at the end of the log.
func (f *feed) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	err := f.pool.QueryRow(ctx,
		`SELECT GREATEST((SELECT coalesce(max(revision), 0) FROM claim_log), (SELECT pruned FROM claim_clock))`).Scan(&f.cursor)
	if err != nil {
		return fmt.Errorf("reading the end of the log: %w", err)
	}
	return nil
}

const readLog = `
	SELECT revision, kind, extract(epoch FROM clock_timestamp() - logged_at)::float8 AS lag, ` + columns + `
	FROM claim_log WHERE revision > @cursor ORDER BY revision LIMIT @limit`

type logRow struct {
	Revision int64
	Kind     int16
	Lag      float64 // seconds, by the clock of the database alone
	row
}

// advance delivers everything after the cursor.
func (f *feed) advance(ctx context.Context) error {
	for {
		page, err := f.readPage(ctx)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		changes := make([]lease.Change, len(page))
		for i, r := range page {
			changes[i] = lease.Change{Revision: r.Revision, Kind: lease.Kind(r.Kind), Held: r.held()}
			f.metrics.watchLag.Observe(r.Lag)
		}
		f.deliver(changes)
		f.cursor = changes[len(changes)-1].Revision
		if len(page) < logPage {
			return nil
		}
	}
}

func (f *feed) readPage(ctx context.Context) ([]logRow, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var page []logRow
	var pruned, last int64
	var batch pgx.Batch
	batch.Queue(readLog, pgx.StrictNamedArgs{"cursor": f.cursor, "limit": logPage}).Query(func(r pgx.Rows) (err error) {
		page, err = pgx.CollectRows(r, pgx.RowToStructByName[logRow])
		return err
	})
	// After the page: what is pruned between the two cannot be missed that way.
	batch.Queue(`SELECT (SELECT pruned FROM claim_clock), (SELECT last_value FROM claim_revision)`).QueryRow(func(r pgx.Row) error {
		return r.Scan(&pruned, &last)
	})
	if err := f.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("reading the log of claims: %w", err)
	}
	if f.cursor < pruned {
		return nil, fmt.Errorf("%w: at %d, pruned up to %d", errLogLost, f.cursor, pruned)
	}
	if last < f.cursor {
		return nil, fmt.Errorf("%w: at %d, but the database is only at %d and must have been restored", errLogLost, f.cursor, last)
	}
	return page, nil
}

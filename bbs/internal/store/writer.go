package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/watch"
)

// sqlFenced is how bbs_advance says that another BBS has become active.
const sqlFenced = "BBF01"

// Run is the writer of the active BBS. It takes all requests that wait, applies them to one
// transaction in memory, commits their changes in one transaction in Postgres, and answers; while
// one batch is on its way the next one gathers. Call it after TakeOver.
//
// A lost database does not end it: it finds out what became of the batch that was on its way and
// goes on. It returns nil when ctx ends, after answering all that wait, an ErrFenced when another
// BBS has become active, and a schema.ErrMissing when a table is gone.
func (s *Store) Run(ctx context.Context) error {
	w := &writer{Store: s}
	defer w.release() //nolint:contextcheck // after the end of ctx
	defer s.resign()
	for {
		var first *request
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.fatal:
			return err
		case first = <-s.queue:
		}
		if err := w.commit(ctx, w.gather(first)); err != nil {
			if errors.Is(err, ErrFenced) {
				w.metrics.fenced.Inc()
				return err
			}
			return nil
		}
	}
}

// resign makes this BBS passive and answers all that still wait.
func (s *Store) resign() {
	s.active.Store(nil)
	s.rejectWaiting(ErrNotMaster)
	// Wake those who wait for a revision that will not come.
	s.newerMu.Lock()
	close(s.newer)
	s.newer = make(chan struct{})
	s.newerMu.Unlock()
	s.watch.Wake()
}

func (s *Store) rejectWaiting(err error) {
	for {
		select {
		case r := <-s.queue:
			r.done <- result{err: err}
		default:
			return
		}
	}
}

// writer is the state of Run.
type writer struct {
	*Store
	conn *pgxpool.Conn
	// These keep their memory from batch to batch.
	sender  sender
	entries entryEncoder
}

// gather takes what waits, up to the bound of a batch.
func (w *writer) gather(first *request) []*request {
	requests := append(make([]*request, 0, min(len(w.queue)+1, w.cfg.MaxBatch)), first)
	for len(requests) < w.cfg.MaxBatch {
		select {
		case r := <-w.queue:
			requests = append(requests, r)
		default:
			return requests
		}
	}
	return requests
}

// commit brings requests through one batch, or several if they are too many for one. It returns an
// error only if the writer has to stop; the callers have their answers either way.
func (w *writer) commit(ctx context.Context, requests []*request) error {
	for len(requests) > 0 {
		if valid := w.active.Load(); valid == nil || !(*valid)() {
			answer(requests, result{err: ErrNotMaster})
			return nil
		}
		rest, err := w.commitSome(ctx, requests)
		if err != nil {
			answer(rest, result{err: ErrNotMaster})
			return err
		}
		requests = rest
	}
	return nil
}

// outcome is the part of a batch that answers one request.
type outcome struct {
	request *request
	err     error
}

// commitSome makes one batch of as many requests as its bound allows and returns the rest.
func (w *writer) commitSome(ctx context.Context, requests []*request) ([]*request, error) {
	started := time.Now()
	before := w.view.Load()
	b := newBatch(w.state.copy(), w.epoch, before.revision+1, w.cfg.Clock())

	outcomes := make([]outcome, 0, len(requests))
	changed := false
	for len(requests) > 0 && b.rows() < w.cfg.MaxRows {
		r := requests[0]
		requests = requests[1:]
		if r.ctx.Err() != nil {
			outcomes = append(outcomes, outcome{r, context.Cause(r.ctx)}) //nolint:contextcheck // the caller's
			continue
		}
		wrote, err := b.apply(r.apply, r.trace)
		changed = changed || wrote
		if err != nil {
			w.metrics.refusals.WithLabelValues(reasonOf(err)).Inc()
		}
		outcomes = append(outcomes, outcome{r, err})
	}
	if !changed {
		answerAll(outcomes, before.revision)
		return requests, nil
	}
	content := b.changes()
	applied := time.Now()
	err := w.write(ctx, b, &content)
	w.metrics.observeBatch(len(outcomes), b.rows(), applied.Sub(started), time.Since(applied))
	switch {
	case err == nil:
		w.finish(b, &content, outcomes)
		return requests, nil
	case errors.Is(err, errUncertain):
		return w.afterOutage(ctx, b, &content, outcomes, requests)
	case errors.Is(err, ErrFenced):
		answer(taken(outcomes), result{err: ErrFenced})
		return requests, err
	default:
		return w.afterRefusal(ctx, outcomes, requests, err)
	}
}

// finish makes a committed batch the newest state and answers.
func (w *writer) finish(b *batch, content *changes, outcomes []outcome) {
	w.state = b.state
	w.definitions.forget(content)
	w.publish(w.snapshot(b.revision, b.at), &watch.Batch{Revision: b.revision, At: b.at, Events: b.events})
	if w.cfg.OnCommit != nil {
		w.cfg.OnCommit(content.committed())
	}
	answerAll(outcomes, b.revision)
}

// afterRefusal handles a batch that Postgres refused, so that it has not happened. If it was the data
// of one request, the others shall not suffer for it: each is tried alone.
func (w *writer) afterRefusal(ctx context.Context, outcomes []outcome, rest []*request, err error) ([]*request, error) {
	w.metrics.refused.Inc()
	var refusal *pgconn.PgError
	byData := errors.As(err, &refusal) && isDataError(refusal)
	if len(outcomes) == 1 || !byData {
		w.log.ErrorContext(ctx, "batch-refused", "requests", len(outcomes), "error", err)
		err = w.unrecoverable(err)
		switch {
		case byData:
			err = refusalError(refusal, err)
		case !errors.Is(err, schema.ErrMissing):
			err = ErrUnavailable.With("%w", err)
		}
		answer(taken(outcomes), result{err: err})
		return rest, nil
	}
	w.log.WarnContext(ctx, "batch-taken-apart", "requests", len(outcomes), "error", err)
	for i := range outcomes {
		if _, err := w.commitSome(ctx, []*request{outcomes[i].request}); err != nil {
			answer(taken(outcomes[i+1:]), result{err: ErrNotMaster})
			return rest, err
		}
	}
	return rest, nil
}

// isDataError reports whether the values of a statement are to blame: classes 22 (data exception),
// 23 (constraint), 54 (a limit of the server).
func isDataError(err *pgconn.PgError) bool {
	if len(err.Code) != 5 {
		return false
	}
	class := err.Code[:2]
	return class == "22" || class == "23" || class == "54"
}

// taken returns the requests of outcomes.
func taken(outcomes []outcome) []*request {
	return column(outcomes, func(o outcome) *request { return o.request })
}

func answer(requests []*request, res result) {
	for _, r := range requests {
		r.done <- res
	}
}

// answerAll tells each request what became of it.
func answerAll(outcomes []outcome, revision uint64) {
	for _, o := range outcomes {
		if o.err != nil {
			o.request.done <- result{err: o.err}
		} else {
			o.request.done <- result{revision: revision}
		}
	}
}

// write sends a batch as one transaction.
//
// It returns nil if it is committed, ErrFenced, an error that wraps a *pgconn.PgError if Postgres
// refused it, errUncertain if nobody answered, and any other error if it could not be sent at all.
func (w *writer) write(ctx context.Context, b *batch, content *changes) error {
	plain := w.entries.encode(content, b.events)
	w.sender.reset()
	w.sender.begin(advance)
	w.sender.long(b.epoch)
	w.sender.long(signed(b.revision - 1))
	w.sender.execute()
	before := len(w.sender.buf)
	w.sender.batch(b, w.keys, plain)
	w.metrics.logBytes.Add(float64(len(w.sender.buf) - before))
	content.send(&w.sender, w.keys)
	if err := w.sender.complete(); err != nil {
		return fmt.Errorf("encoding a batch: %w", err)
	}

	// The commit is not to be broken off because the process is asked to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.CommitTimeout)
	defer cancel()
	conn, err := w.connection(ctx)
	if err != nil {
		return w.writeError(fmt.Errorf("connecting: %w", err)) //nolint:contextcheck // the context of the batch may have ended
	}
	deadline, _ := ctx.Deadline()
	return w.writeError(w.sender.exchange(conn.PgConn(), deadline)) //nolint:contextcheck // the context of the batch may have ended
}

// batch makes the row of the log.
func (s *sender) batch(b *batch, keys sealer, entry []byte) {
	s.begin(logBatch)
	s.long(signed(b.revision))
	s.blob(b.id[:])
	s.long(b.epoch)
	s.moment(b.at)
	s.integer(len(b.events))
	s.sealed(keys, entry, placeOfBatch(b.revision))
	s.execute()
}

// writeError says what an error of the connection means for a batch.
func (w *writer) writeError(err error) error {
	if err == nil {
		return nil
	}
	var refusal *pgconn.PgError
	switch {
	case errors.As(err, &refusal) && refusal.Code == sqlFenced:
		return ErrFenced.With("%w", err)
	case errors.As(err, &refusal) && refusal.SeverityUnlocalized == severityError:
		w.dropAfter(refusal) //nolint:contextcheck // the context of the batch may have ended
		return fmt.Errorf("writing a batch: %w", err)
	default:
		w.abandon() //nolint:contextcheck // the context of the batch may have ended
		return fmt.Errorf("%w: %w", errUncertain, err)
	}
}

func (c *changes) committed() Committed {
	return Committed{
		Actuals:     column(c.actuals, func(a *actualRow) *lrp.Actual { return a.Actual }),
		ActualsGone: column(c.actualsGone, func(id actualID) lrp.Key { return id.Key }),
		Desireds:    c.desireds, DesiredsGone: c.desiredsGone,
		Tasks: c.tasks,
	}
}

// send makes the statements of all tables.
func (c *changes) send(s *sender, keys sealer) {
	s.actuals(c.actuals, c.actualsGone)
	s.lrpDefinitions(c.definitions)
	s.taskDefinitions(c.taskDefinition)
	s.healthy(c.healthy, c.desiredsGone)
	s.desireds(keys, c.desireds, c.desiredsGone)
	s.tasks(keys, c.tasks, c.tasksGone)
	s.domains(c.domains, c.domainsGone)
}

// connection returns the writer's own connection, set up for its statements.
func (w *writer) connection(ctx context.Context) (*pgx.Conn, error) {
	if w.conn != nil {
		return w.conn.Conn(), nil
	}
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	// Joins of a few keys with a large table: whatever the statistics say, by its index.
	_, err = conn.Exec(ctx, `set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
		set plan_cache_mode = force_generic_plan; set jit = off`)
	if err == nil {
		err = prepare(ctx, conn.Conn().PgConn())
	}
	if err == nil {
		err = conn.Conn().PgConn().SyncConn(ctx) // from here on the sender reads and writes it
	}
	if err != nil {
		// Not for others: it may have some of our settings.
		_ = conn.Conn().Close(ctx)
		conn.Release()
		return nil, err
	}
	w.conn = conn
	return conn.Conn(), nil
}

// dropAfter closes a connection that the configuration of the pool does not keep after an error: one to a former primary would
// refuse every batch. The pool sees the errors of its own reads only.
func (w *writer) dropAfter(refusal *pgconn.PgError) {
	if w.conn == nil {
		return
	}
	keep := w.conn.Conn().Config().OnPgError
	if keep != nil && !keep(w.conn.Conn().PgConn(), refusal) {
		w.drop()
	}
}

// abandon closes a connection whose batch nobody waits for any more. Its server process may: a commit that waits to be confirmed by
// a standby does not notice that the connection is closed, keeps its locks, and would hold up all batches after it. So it is told.
func (w *writer) abandon() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Conn().PgConn().CancelRequest(ctx) // there may be nobody to tell
	w.drop()
}

// drop closes a connection that is of no use any more.
func (w *writer) drop() {
	if w.conn == nil {
		return
	}
	// Closing in the pool: a connection whose state is unknown must not be handed to others.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Conn().Close(ctx) // it is broken already
	w.conn.Release()
	w.conn = nil
}

// release ends the writer's connection: its settings are not for others.
func (w *writer) release() { w.drop() }

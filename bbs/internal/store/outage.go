package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"diego.internal/servicekit/postgres"
)

// errUncertain says that nobody answered whether a batch was committed.
var errUncertain = errors.New("the outcome of a batch is not known")

const (
	// attemptTimeout bounds one attempt to reach Postgres after a loss.
	attemptTimeout = 5 * time.Second
	// firstPause and maxPause are between attempts.
	firstPause, maxPause = 20 * time.Millisecond, time.Second
)

// afterOutage is called with a batch whose outcome is not known. It keeps asking Postgres until it
// knows, answers those whose batch it was accordingly, and meanwhile refuses all others at once.
//
// It returns an error if the writer has to stop: because ctx ended, our proof of being active ran
// out, or another BBS has become active.
func (w *writer) afterOutage(ctx context.Context, b *batch, content *changes, outcomes []outcome, rest []*request) ([]*request, error) {
	w.down.Store(true)
	w.metrics.outages.Inc()
	started := time.Now()
	w.log.WarnContext(ctx, "database-lost", "revision", b.revision)
	answer(rest, result{err: ErrUnavailable})

	// Requests that got past the flag just before it was set wait in the queue.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.refuseUntil(stop)
	}()
	committed, fenced, err := w.resolve(ctx, b)
	close(stop)
	<-stopped

	switch {
	case err != nil:
		answer(taken(outcomes), result{err: ErrUnavailable.With("whether the request was carried out is not known: %w", err)})
		return nil, err
	case committed:
		w.finish(b, content, outcomes)
	default:
		answer(taken(outcomes), result{err: ErrUnavailable})
	}
	w.log.InfoContext(ctx, "database-back", "revision", b.revision, "committed", committed, "fenced", fenced,
		"after_ms", time.Since(started).Milliseconds())
	if fenced {
		return nil, ErrFenced
	}
	w.down.Store(false)
	return nil, nil
}

// refuseUntil answers everything that waits until stop is closed.
func (w *writer) refuseUntil(stop <-chan struct{}) {
	for {
		select {
		case r := <-w.queue:
			r.done <- result{err: ErrUnavailable}
		case <-stop:
			return
		}
	}
}

// resolve asks until Postgres has said what became of a batch.
func (w *writer) resolve(ctx context.Context, b *batch) (committed, fenced bool, err error) {
	pause := firstPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, false, context.Cause(ctx)
		case <-timer.C:
		}
		if !w.Active() {
			return false, false, ErrNotMaster
		}
		epoch, committed, err := w.lookUp(ctx, b)
		switch {
		case err == nil:
			w.epoch = epoch
			return committed, false, nil
		case errors.Is(err, ErrFenced):
			return committed, true, nil
		case !postgres.IsUnavailable(err) && !isContextError(err):
			w.log.ErrorContext(ctx, "database-refuses", "error", err)
		}
		timer.Reset(pause)
		pause = min(2*pause, maxPause)
	}
}

// lookUp finds out whether a batch was committed, and makes sure that it never will be if it was not:
// the former connection may still have it in its buffers. So it first raises the epoch, which waits
// for a transaction that is under way and fails one that is not, and then looks for the batch's own
// id. It returns the new epoch.
//
// It returns ErrFenced, with a valid answer, if another BBS has become active meanwhile.
func (w *writer) lookUp(ctx context.Context, b *batch) (epoch int64, committed bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, errors.New("looking up a batch took too long"))
	defer cancel()
	fenced := false
	err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		fenced = false
		err := tx.QueryRow(ctx, `update bbs_state set epoch = epoch + 1 where holder = $1 returning epoch`, w.holder).Scan(&epoch)
		if errors.Is(err, pgx.ErrNoRows) {
			fenced = true
		} else if err != nil {
			return fmt.Errorf("raising the epoch: %w", err)
		}
		err = tx.QueryRow(ctx, `select exists (select from batch_log where id = $1)`, b.id).Scan(&committed)
		if err != nil {
			return fmt.Errorf("looking for the batch: %w", err)
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, false, err
	case fenced:
		return 0, committed, ErrFenced
	}
	return epoch, committed, nil
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// txAttempts is how often InTx tries.
	txAttempts = 5
	// rollbackTimeout bounds the end of a failed transaction, which must happen even if the caller's
	// context has ended, or the connection would be thrown away.
	rollbackTimeout = 5 * time.Second
)

// InTx runs fn in one transaction and commits it. It begins again, up to five times, after a deadlock
// (40P01), a serialization failure (40001) or a lock that was not available (55P03); so fn must have
// no effect outside the transaction. Any other error rolls back and is returned as it is.
//
// If the connection is lost during the commit, nobody knows whether it happened: IsUnavailable holds
// for that error, and the caller must find out or repeat something that may be repeated.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 5*time.Millisecond, 200*time.Millisecond
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := once(ctx, pool, fn)
		if err != nil && !repeatable(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(txAttempts))
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return permanent.Unwrap()
	}
	return err
}

func once(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) (err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	done := false
	defer func() { // also after a panic of fn
		if !done {
			err = errors.Join(err, rollback(ctx, tx))
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	done = true // pgx rolls back by itself what it cannot commit
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("committing a transaction: %w", err)
	}
	return nil
}

// rollback ends tx. A connection that is lost has nothing to roll back.
func rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), rollbackTimeout, errors.New("the rollback took too long"))
	defer cancel()
	if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) && !tx.Conn().IsClosed() {
		return fmt.Errorf("rolling back a transaction: %w", err)
	}
	return nil
}

// lostConnection reports the end of a connection in the middle of a conversation.
func lostConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

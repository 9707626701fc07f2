package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// ErrExpired says that no renewal succeeded in time, so that the lease may end at any moment.
var ErrExpired = errors.New("the lease could not be renewed in time")

// Keeper renews one lease and knows, at every moment, whether its holder may still act on it.
//
// The deadline is counted from before the successful request was sent, on the monotonic clock of
// this process: neither a slow answer nor a step of anybody's wall clock can stretch it. Valid may
// be called from any goroutine, also while nothing renews.
type Keeper struct {
	terms    Terms
	attempts Attempts
	// base is when the Keeper was made; deadlines are kept as an offset from it, so that they fit
	// into one atomic word and stay on the monotonic clock.
	base    time.Time
	renewed atomic.Int64 // offset of the last successful request
	given   atomic.Bool  // the lease was given up or lost
	hurry   chan struct{}
}

// NewKeeper returns a Keeper of a lease that was obtained by a request sent at sentAt.
func NewKeeper(terms Terms, sentAt time.Time, attempts Attempts) *Keeper {
	return &Keeper{terms: terms, attempts: attempts, base: sentAt, hurry: make(chan struct{}, 1)}
}

// Valid reports whether the holder may act. A process that was suspended finds out here.
func (k *Keeper) Valid() bool {
	return !k.given.Load() && time.Until(k.Deadline()) > 0
}

// Deadline is when Valid ends unless a renewal succeeds before.
func (k *Keeper) Deadline() time.Time {
	return k.base.Add(time.Duration(k.renewed.Load()) + k.terms.Trust())
}

// GiveUp ends Valid for good. Call it before telling anybody that the lease is free.
func (k *Keeper) GiveUp() { k.given.Store(true) }

// Hurry asks for a renewal now, for example because the value changed.
func (k *Keeper) Hurry() {
	select {
	case k.hurry <- struct{}{}:
	default: // one is asked for already
	}
}

// Run renews until ctx ends, and then returns nil with the lease untouched. It returns an error
// that wraps ErrExpired when the deadline passes, or the final error of a renewal; the lease is
// given up then.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(k.pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.hurry:
		}
		if err := k.renew(ctx); err != nil {
			k.GiveUp()
			return err
		}
		timer.Reset(k.pause())
	}
}

// pause is the time until the next renewal is due.
func (k *Keeper) pause() time.Duration {
	return time.Until(k.base.Add(time.Duration(k.renewed.Load()) + k.terms.RenewEvery()))
}

// renew tries until the deadline of the lease. It returns nil if ctx ends first.
func (k *Keeper) renew(ctx context.Context) error {
	leaseCtx, cancel := context.WithDeadlineCause(ctx, k.Deadline(), ErrExpired)
	defer cancel()

	var last error
	attempts := k.attempts
	attempts.Observe = func(err error) {
		last = err
		if k.attempts.Observe != nil {
			k.attempts.Observe(err)
		}
	}
	sentAt, err := Attempt(leaseCtx, k.terms, attempts)
	switch {
	case err == nil:
		k.renewed.Store(int64(sentAt.Sub(k.base)))
		// The answer may have come to a process that was suspended meanwhile.
		if !k.Valid() {
			return fmt.Errorf("renewed too late: %w", ErrExpired)
		}
		return nil
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, ErrExpired):
		if last == nil {
			return fmt.Errorf("%w: no answer", ErrExpired)
		}
		return fmt.Errorf("%w: %w", ErrExpired, last)
	default:
		return err
	}
}

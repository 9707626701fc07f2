package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"diego.internal/locket/internal/lease"
)

// healthyFor is how long the last answer of the database vouches for it. A restart of the database
// takes less, and shall not make every client look for another server at once.
const healthyFor = 1500 * time.Millisecond

// pruneEvery is the pause between prunings of the log.
const pruneEvery = time.Minute

// health is what is remembered of the database.
type health struct {
	mu     sync.Mutex
	lastOK time.Time // of this process's monotonic clock; zero before the first answer
	err    error     // of the last look, nil if it succeeded
}

// Healthy returns nil while the database answers, and otherwise why it counts as away. It asks
// nobody.
func (s *Store) Healthy() error {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	switch {
	case s.health.lastOK.IsZero() && s.health.err == nil:
		return ErrUnavailable.With("not asked yet")
	case s.health.lastOK.IsZero():
		return ErrUnavailable.With("%w", s.health.err)
	case time.Since(s.health.lastOK) <= healthyFor:
		return nil
	case s.health.err == nil:
		return ErrUnavailable.With("no answer since %v", s.health.lastOK)
	default:
		return ErrUnavailable.With("%w", s.health.err)
	}
}

// Age returns how long ago the database answered last, or a negative duration before the first time.
func (s *Store) Age() time.Duration {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.lastOK.IsZero() {
		return -1
	}
	return time.Since(s.health.lastOK)
}

func (s *Store) remember(err error) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.err = err
	if err == nil {
		s.health.lastOK = time.Now()
	}
}

// keep looks at the clock, sweeps what is due when it is due, prunes, and tells of the health.
func (s *Store) keep(ctx context.Context, onHealth func(bool)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	healthy := false
	pruned := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		pause, err := s.lookAndSweep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if schemaMissing(err) {
			return fmt.Errorf("keeping claims: %w", err)
		}
		s.remember(err)
		if now := s.Healthy() == nil; now != healthy {
			healthy = now
			s.tellHealth(ctx, healthy, err)
			onHealth(healthy)
		}
		if err == nil && time.Since(pruned) > pruneEvery {
			pruned = time.Now()
			if err := s.prune(ctx, keepLog); err != nil {
				s.log.WarnContext(ctx, "log-not-pruned", "error", err)
			}
		}
		timer.Reset(pause)
	}
}

func (s *Store) tellHealth(ctx context.Context, healthy bool, err error) {
	if healthy {
		s.metrics.databaseUp.Set(1)
		s.log.InfoContext(ctx, "database-available")
		return
	}
	s.metrics.databaseUp.Set(0)
	s.log.ErrorContext(ctx, "database-unavailable", "error", err)
}

// lookAndSweep returns after what pause to do it again: at the due time of the next expiry, but soon
// enough to keep the clock confirmed.
func (s *Store) lookAndSweep(ctx context.Context) (time.Duration, error) {
	summaries, err := s.look(ctx)
	if err != nil {
		return lookEvery, err
	}
	pause := lookEvery
	var locks, presences summary
	for _, sum := range summaries {
		switch lease.Type(sum.Type) {
		case lease.TypeLock:
			locks = sum
		case lease.TypePresence:
			presences = sum
		}
		due := time.Duration(sum.Due * float64(time.Second))
		pause = min(pause, due)
	}
	s.metrics.held(locks, presences)
	if pause > 0 {
		// A moment later than due, so that the row is past its expiry when we look.
		return pause + time.Millisecond, nil
	}
	if _, err := s.sweep(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return lookEvery, err
	}
	// There may be more than one sweep takes, or a row that was just being renewed.
	return sweepAgain, nil
}

// sweepAgain is the pause after a sweep.
const sweepAgain = 20 * time.Millisecond

package store

import (
	"context"
	"time"

	"diego.internal/servicekit/postgres"
)

// Retention says what batch_log keeps: everything that is younger than MinAge or among the newest
// MinEvents events.
type Retention struct {
	// MinAge of what may be removed; 0 is one hour.
	MinAge time.Duration `yaml:"min_age"`
	// MinEvents that are kept whatever their age; 0 is one million.
	MinEvents int64 `yaml:"min_events"`
	// Interval between two runs; 0 is one minute.
	Interval time.Duration `yaml:"interval"`
}

func (r Retention) withDefaults() Retention {
	if r.MinAge == 0 {
		r.MinAge = time.Hour
	}
	if r.MinEvents == 0 {
		r.MinEvents = 1_000_000
	}
	if r.Interval == 0 {
		r.Interval = time.Minute
	}
	return r
}

// pruneChunk is how many batches one statement removes: it must not hold up the writer.
const pruneChunk = 1000

// PruneLog removes what the retention does not keep, again and again until ctx ends. Only the active
// BBS calls it.
func (s *Store) PruneLog(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Retention.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if !s.Active() {
			continue
		}
		pruned, err := s.pruneOnce(ctx)
		s.metrics.pruned.Add(float64(pruned))
		if err != nil && ctx.Err() == nil && !postgres.IsUnavailable(err) {
			s.log.WarnContext(ctx, "log-not-pruned", "error", err)
		}
	}
}

// pruneOnce removes all that may go now and returns how many batches that were.
func (s *Store) pruneOnce(ctx context.Context) (pruned int64, err error) {
	// Of the newest batches, the first revision that the number of events still wants.
	var bound int64
	err = s.pool.QueryRow(ctx, `select coalesce(min(revision), 0) from (
			select revision, sum(events) over (order by revision desc) - events as newer from batch_log) counted
		where newer < $1`, s.cfg.Retention.MinEvents).Scan(&bound)
	if err != nil {
		return 0, err
	}
	before := s.cfg.Clock().Add(-s.cfg.Retention.MinAge)
	for {
		tag, err := s.pool.Exec(ctx, `delete from batch_log where revision in (
			select revision from batch_log where revision < $1 and at < $2 order by revision limit $3)`, bound, before, pruneChunk)
		if err != nil {
			return pruned, err
		}
		pruned += tag.RowsAffected()
		if tag.RowsAffected() < pruneChunk {
			return pruned, nil
		}
	}
}

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/servicekit/postgres"
)

const (
	// followPause is how long a standby waits before it looks for new batches again.
	followPause = 100 * time.Millisecond
	// followBytes is how much of the log it reads at once.
	followBytes = 8 << 20
)

// Follow keeps the state of a standby up to date until ctx ends: it loads the tables once and then
// applies the log as it grows. A database that does not answer is asked again. It returns nil when ctx
// ends.
func (s *Store) Follow(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := s.followOnce(ctx); err != nil && ctx.Err() == nil {
			s.metrics.followErrors.Inc()
			if !postgres.IsUnavailable(err) && !errors.Is(err, seal.ErrUnknownKey) { // which is logged once
				s.log.WarnContext(ctx, "standby-not-following", "error", err)
			}
		}
		timer.Reset(followPause)
	}
}

// followOnce loads the state if there is none, and applies what the log has.
func (s *Store) followOnce(ctx context.Context) error {
	if fits, err := s.schemaFits(ctx); err != nil || !fits {
		return err
	}
	if s.view.Load() == nil {
		return s.standbyLoads(ctx)
	}
	if s.reload.Load() {
		s.metrics.reloads.Inc()
		err := s.standbyLoads(ctx)
		s.reload.Store(err != nil) // not before the end: nothing is compared until then
		return err
	}
	err := s.follow(ctx, math.MaxUint64)
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		// The active BBS seals under a key that we do not have. Loading the tables would fail in the same way.
		s.standbyWaits(ctx, "waiting: "+err.Error())
	case errors.Is(err, watch.ErrTruncated), errors.Is(err, errEntry):
		// The log went on without us, or holds what we cannot apply; the tables hold it all.
		s.log.WarnContext(ctx, "standby-reloads", "error", err)
		s.metrics.reloads.Inc()
		return s.standbyLoads(ctx)
	case err == nil:
		s.standbyWaits(ctx, "")
	}
	return err
}

// standbyLoads is Load, and remembers what a standby lacks for it.
func (s *Store) standbyLoads(ctx context.Context) error {
	err := s.Load(ctx)
	switch {
	case err == nil:
		s.standbyWaits(ctx, "")
	case errors.Is(err, seal.ErrUnknownKey):
		s.standbyWaits(ctx, "waiting: "+err.Error())
	}
	return err
}

// schemaFits reports whether the tables are those of this program. A standby whose tables are not there
// yet, or are changed by a BBS of another release, waits: it reads nothing that it might misunderstand,
// and forgets what it knows, because a migration changes rows without telling the log.
func (s *Store) schemaFits(ctx context.Context) (bool, error) {
	versions, err := schema.Read(ctx, s.pool)
	if err != nil {
		return false, err
	}
	fits := versions.Current == schema.Built()
	if !fits || !versions.ChangedAt.Equal(s.schemaAt) {
		s.view.Store(nil)
	}
	if !fits {
		s.standbyWaits(ctx, waitingForSchema(versions))
	}
	return fits, nil
}

// standbyWaits remembers and logs, once, why a standby does not follow; "" is that it does.
func (s *Store) standbyWaits(ctx context.Context, why string) {
	if before := s.standby.Swap(&why); (before == nil && why != "") || (before != nil && *before != why) {
		s.log.InfoContext(ctx, "standby-changed", "state", cmp.Or(why, "following"))
	}
}

// StandbyWaits says why this standby does not follow the log of the active BBS, "" if it does.
func (s *Store) StandbyWaits() string {
	if why := s.standby.Load(); why != nil {
		return *why
	}
	return ""
}

// follow applies the log up to a revision, which must be there, or to its end if that is 2^64-1.
func (s *Store) follow(ctx context.Context, to uint64) error {
	for {
		at := s.view.Load().revision
		if at >= to {
			return s.sameHistory(ctx)
		}
		logged, err := s.readLog(ctx, at, followBytes)
		if err != nil {
			return err
		}
		if len(logged) == 0 {
			if to == math.MaxUint64 {
				return s.sameHistory(ctx)
			}
			return watch.ErrTruncated.With("revision %d is missing", at+1)
		}
		if err := s.follows(at, logged[0].before); err != nil {
			return err
		}
		for i := range logged {
			if err := s.applyLogged(&logged[i]); err != nil {
				return fmt.Errorf("applying revision %d: %w", logged[i].revision, err)
			}
		}
	}
}

// loggedBatch is one row of batch_log.
type loggedBatch struct {
	revision uint64
	id       batchID
	before   *batchID // the batch after which the log was read; nil if it is pruned
	at       time.Time
	plain    []byte // the opened entry
}

// readLog returns batches after a revision, in order and without gap.
func (s *Store) readLog(ctx context.Context, after uint64, limit int) ([]loggedBatch, error) {
	// The sum of sizes before a row bounds the answer, but the first row always comes.
	rows, err := s.pool.Query(ctx, `select revision, id, (select id from batch_log where revision = $1), at, changes from (
			select revision, id, at, changes, sum(octet_length(changes)) over (order by revision) - octet_length(changes) as before
			from (select * from batch_log where revision > $1 order by revision limit 5000) newest) sized
		where before < $2 order by revision`, signed(after), limit)
	if err != nil {
		return nil, err
	}
	var logged []loggedBatch
	var revision int64
	var at time.Time
	var id batchID
	var before *batchID
	var sealed []byte
	expected := after + 1
	_, err = pgx.ForEachRow(rows, []any{&revision, &id, &before, &at, &sealed}, func() error {
		if unsigned(revision) != expected {
			return watch.ErrTruncated.With("after revision %d the log continues at %d", expected-1, revision)
		}
		expected++
		plain, err := s.keys.Open(sealed, placeOfBatch(unsigned(revision)))
		if err != nil {
			return fmt.Errorf("%w: revision %d: %w", errEntry, revision, err)
		}
		logged = append(logged, loggedBatch{revision: unsigned(revision), id: id, before: before, at: at, plain: plain})
		return nil
	})
	return logged, err
}

// ReadLog implements watch.Archive.
func (s *Store) ReadLog(ctx context.Context, after uint64, limit int) ([]*watch.Batch, error) {
	s.metrics.archiveReads.Inc()
	logged, err := s.readLog(ctx, after, limit)
	if err != nil {
		return nil, s.readError(err, watch.ErrTruncated, "reading the log")
	}
	if len(logged) == 0 && after < s.watch.Newest() {
		return nil, watch.ErrTruncated.With("revision %d is gone", after+1)
	}
	batches := make([]*watch.Batch, 0, len(logged))
	for i := range logged {
		events, err := decodeEvents(logged[i].plain)
		if err != nil {
			return nil, fmt.Errorf("reading revision %d of the log: %w", logged[i].revision, err)
		}
		batches = append(batches, &watch.Batch{Revision: logged[i].revision, At: logged[i].at, Events: events})
	}
	return batches, nil
}

// LogSince returns the revision after which the log has everything that was committed at since or later, and from when on
// that is complete: since itself, or the time of the oldest batch if the log does not reach back so far.
func (s *Store) LogSince(ctx context.Context, since time.Time) (after uint64, complete time.Time, err error) {
	var first, oldest *int64
	var oldestAt *time.Time
	err = s.pool.QueryRow(ctx, `select (select revision from batch_log where at >= $1 order by revision limit 1) as first, revision, at
		from batch_log order by revision limit 1`, since).Scan(&first, &oldest, &oldestAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.watch.Newest(), since, nil // of a database without batches
	case err != nil:
		return 0, time.Time{}, s.readError(err, watch.ErrTruncated, "looking for a time in the log")
	case first == nil:
		return s.watch.Newest(), since, nil
	}
	after, complete = unsigned(*first)-1, since
	if *oldest > 1 && *first == *oldest && oldestAt.After(since) {
		complete = *oldestAt
	}
	return min(after, s.watch.Newest()), complete, nil
}

// applyLogged applies one batch of the active BBS to the state of this one.
func (s *Store) applyLogged(l *loggedBatch) error {
	e, err := decodeEntry(l.plain)
	if err != nil {
		return err
	}
	state := s.state.copy()
	for i := range e.rows {
		if err := applyRow(state, &e.rows[i]); err != nil {
			return fmt.Errorf("%w: %w", errEntry, err)
		}
	}
	s.state, s.tip = state, l.id
	s.publish(s.snapshot(l.revision, l.at), toBatch(l.revision, l.at, e.events))
	return nil
}

func applyRow(state *state, r *row) error {
	switch put := r.put.(type) {
	case nil:
		state.remove(r.gone()) // or there is nothing: made and removed within the batch
	case healthyWrite:
		return applyHealthy(state, put)
	default:
		state.put(put)
	}
	return nil
}

func applyHealthy(state *state, h healthyWrite) error {
	before := state.desireds.get(keyOf(h.guid))
	if before == nil {
		return fmt.Errorf("no desired lrp %q to be healthy", h.guid)
	}
	after := *before
	after.HealthyDefinitionID = h.id
	state.put(&after)
	return nil
}

// gone returns an object with the key of a row that was removed.
func (r *row) gone() any {
	switch r.table {
	case rowActual:
		return &actualRow{Actual: &lrp.Actual{Key: r.id.Key, Presence: r.id.presence}}
	case rowDesired:
		return &lrp.Desired{ProcessGUID: r.name}
	case rowTask:
		return &task.Task{GUID: r.name}
	case rowDomain:
		return &lrp.Domain{Name: r.name}
	case rowHealthy:
	}
	return nil
}

package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
)

// TakeOver makes this BBS the active one: it raises the epoch, from when on no other BBS can write,
// brings the state up to date, from the log if it has a state already, and lets reads and writes in.
// valid proves at every moment that this BBS may act; it must be cheap and safe for concurrent use.
// Run must be called after it.
//
// It returns seal.ErrUnknownKey if a value is sealed under a label that is not configured, because
// serving without part of the state could stop what runs.
func (s *Store) TakeOver(ctx context.Context, valid func() bool) error {
	started := time.Now()
	epoch, revision, err := s.raiseEpoch(ctx)
	if err != nil {
		return fmt.Errorf("raising the epoch: %w", s.unrecoverable(err))
	}
	warm, err := s.catchUp(ctx, unsigned(revision))
	if err != nil {
		return fmt.Errorf("taking over at revision %d: %w", revision, s.unrecoverable(err))
	}
	s.epoch = epoch
	s.view.Store(s.snapshot(unsigned(revision), s.cfg.Clock()))
	s.down.Store(false)
	s.active.Store(&valid)
	s.log.InfoContext(ctx, "bbs-active", "epoch", epoch, "revision", revision, "warm", warm,
		"after_ms", time.Since(started).Milliseconds())
	return nil
}

// raiseEpoch makes us the only BBS that may write. It changes nothing, and returns an ErrUnknownKey, if
// values may be stored that we have no key for. Our own active key is noted as one that is needed from
// now on, before the first value is sealed under it.
func (s *Store) raiseEpoch(ctx context.Context) (epoch, revision int64, err error) {
	_, _ = rand.Read(s.holder[:]) // never fails, see crypto/rand
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `update bbs_state set epoch = epoch + 1, holder = $1 returning epoch, revision`, s.holder).
			Scan(&epoch, &revision)
		if err != nil {
			return err
		}
		if versions, err := schema.Read(ctx, tx); err != nil {
			return err
		} else if !versions.ChangedAt.Equal(s.schemaAt) {
			s.view.Store(nil) // a migration changes rows without telling the log
		}
		labels, err := readLabels(ctx, tx)
		if err != nil {
			return err
		}
		for _, label := range labels {
			if !slices.Contains(s.keys.Labels(), label) {
				return seal.ErrUnknownKey.With(`the key labelled %q is still needed; configure it until bbs_values_under_old_keys{label=%q} is 0`, label, label)
			}
		}
		if slices.Contains(labels, s.keys.Active()) {
			return nil
		}
		_, err = tx.Exec(ctx, `insert into sealing_labels (label, since) values ($1, now())`, []byte(s.keys.Active()))
		return err
	})
	return epoch, revision, err
}

// catchUp brings the state to a revision that is committed. It reports whether the log sufficed.
func (s *Store) catchUp(ctx context.Context, revision uint64) (warm bool, err error) {
	if view := s.view.Load(); view != nil {
		err := s.follow(ctx, revision)
		if err == nil {
			return true, nil
		}
		if isContextError(err) && ctx.Err() != nil {
			return false, err
		}
		s.log.WarnContext(ctx, "standby-state-unusable", "error", err)
	}
	return false, s.Load(ctx)
}

// loadTimeout is for each table that is loaded whole. It takes seconds; the timeout of other statements would be over on a machine
// that is starved, and a load that begins again and again makes that worse.
const loadTimeout = 5 * time.Minute

// Load replaces the state by what the tables hold, as one moment saw it.
//
// It returns seal.ErrUnknownKey as TakeOver does.
func (s *Store) Load(ctx context.Context) error {
	l := &loader{keys: s.keys, state: newState()}
	var epoch, revision int64
	var tip batchID
	var schemaAt time.Time
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`set local statement_timeout = %[1]d; set local idle_in_transaction_session_timeout = %[1]d`, loadTimeout.Milliseconds())); err != nil {
			return fmt.Errorf("making time: %w", err)
		}
		if err := tx.QueryRow(ctx, `select epoch, revision from bbs_state`).Scan(&epoch, &revision); err != nil {
			return fmt.Errorf("reading the revision: %w", err)
		}
		versions, err := schema.Read(ctx, tx)
		if err != nil {
			return err
		}
		schemaAt = versions.ChangedAt
		if tip, err = idOf(ctx, tx, revision); err != nil {
			return err
		}
		if l.needed, err = readLabels(ctx, tx); err != nil {
			return err
		}
		for _, load := range [...]func(context.Context, pgx.Tx) error{l.domains, l.desireds, l.actuals, l.tasks} {
			if err := load(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("loading the state: %w", err)
	}
	s.state, s.tip, s.schemaAt = l.state, tip, schemaAt
	s.quarantine.replace(l.bad)
	s.watch.Reset(unsigned(revision))
	s.publish(s.snapshot(unsigned(revision), s.cfg.Clock()), nil)
	s.recordQuarantine(ctx, l.bad)
	s.log.InfoContext(ctx, "state-loaded", "revision", revision, "rows", l.rows, "quarantined", len(l.bad))
	return nil
}

// loader fills an empty state from the tables.
type loader struct {
	keys  *seal.Keyring
	state *state
	// needed are the labels that values may be under which can be read.
	needed []string
	// page limits the next table to one chunk; nil is all of it.
	page *page
	rows int
	bad  []Quarantined
}

// page is one chunk of a table: the clause that limits the query to it, and what came.
type page struct {
	where string
	args  []any
	rows  int
	last  []any // the key of the last row, readable or not
}

// insert adds a row, or notes that it cannot be read. Only a missing key that is still needed is an
// error: what is under another one, a rotation could not open when the key was there.
func (l *loader) insert(sqlTable, key string, obj any, problem error) error {
	switch {
	case problem == nil:
		l.rows++
		l.state.put(obj)
		return nil
	case l.isNeeded(problem):
		return fmt.Errorf("reading %s %q: %w", sqlTable, key, problem)
	default:
		l.bad = append(l.bad, Quarantined{Table: sqlTable, Key: key, Problem: problem.Error()})
		return nil
	}
}

func (l *loader) isNeeded(problem error) bool {
	label, unknown := seal.UnknownLabel(problem)
	return unknown && slices.Contains(l.needed, label)
}

func (l *loader) domains(ctx context.Context, tx pgx.Tx) error {
	var d lrp.Domain
	var policy []byte
	var revision int64
	return l.each(ctx, tx, `select name, fresh_until, default_crash_policy, revision from domains`,
		[]any{&d.Name, &d.FreshUntil, &policy, &revision}, func() error {
			row := d
			row.Revision = unsigned(revision)
			var err error
			row.DefaultCrashPolicy, err = policyFrom(policy)
			return l.insert("domains", d.Name, &row, err)
		})
}

func (l *loader) desireds(ctx context.Context, tx pgx.Tx) error {
	var d lrp.Desired
	var placement, tags, policy, clientData []byte
	var strategy int16
	var tagIndex, revision int64
	var rootFS string
	var encoder recordEncoder
	return l.each(ctx, tx, `select process_guid, domain, log_guid, instances, memory_mb, disk_mb, max_pids, root_fs,
			placement, metric_tags, crash_policy, update_strategy, active_definition_id, coalesce(definition_id, ''),
			previous_definition_id, client_data, tag_epoch, tag_index, created_at, updated_at, revision
			from desired_lrps left join healthy_definitions using (process_guid)`,
		[]any{
			&d.ProcessGUID, &d.Domain, &d.LogGUID, &d.Instances, &d.Resources.MemoryMB, &d.Resources.DiskMB, &d.Resources.MaxPids,
			&rootFS, &placement, &tags, &policy, &strategy, &d.ActiveDefinitionID, &d.HealthyDefinitionID,
			&d.PreviousDefinitionID, &clientData, &d.Tag.Epoch, &tagIndex, &d.CreatedAt, &d.UpdatedAt, &revision,
		}, func() error {
			row := d
			row.Revision, row.Tag.Index, row.UpdateStrategy = unsigned(revision), uint32(tagIndex), lrp.UpdateStrategy(strategy) //nolint:gosec // as written
			var errs [4]error
			row.Placement, errs[0] = placementFrom(rootFS, placement)
			row.MetricTags, errs[1] = tagsFrom(tags)
			row.CrashPolicy, errs[2] = policyFrom(policy)
			errs[3] = openClientData(l.keys, &row, clientData)
			encoder.desired(&row)
			return l.insert("desired_lrps", d.ProcessGUID, &row, errors.Join(errs[:]...))
		})
}

func (l *loader) actuals(ctx context.Context, tx pgx.Tx) error {
	var a lrp.Actual
	var presence, state int16
	var reported []byte
	var tagIndex, revision int64
	var encoder recordEncoder
	return l.each(ctx, tx, `select process_guid, instance_index, presence, domain, state, instance_guid, cell_id, zone,
			definition_id, reported, routable, stop_requested, crash_count, crash_reason, placement_error, since,
			tag_epoch, tag_index, revision from actual_lrps`,
		[]any{
			&a.ProcessGUID, &a.Index, &presence, &a.Domain, &state, &a.InstanceGUID, &a.CellID, &a.Zone,
			&a.DefinitionID, &reported, &a.Routable, &a.StopRequested, &a.CrashCount, &a.CrashReason, &a.PlacementError, &a.Since,
			&a.Tag.Epoch, &tagIndex, &revision,
		}, func() error {
			row := a
			row.Presence, row.State = lrp.Presence(presence), lrp.State(state) //nolint:gosec // checked by the table
			row.Tag.Index, row.Revision = uint32(tagIndex), unsigned(revision) //nolint:gosec // as written
			if err := wire.DecodeReported(&row, reported); err != nil {
				return l.insert("actual_lrps", fmt.Sprintf("%v/%v", row.Key, row.Presence), nil, err)
			}
			return l.insert("actual_lrps", "", encoder.actual(&row), nil)
		})
}

func (l *loader) tasks(ctx context.Context, tx pgx.Tx) error {
	var t task.Task
	var state int16
	var placement, result, digest []byte
	var rootFS string
	var revision int64
	return l.each(ctx, tx, `select guid, domain, state, cell_id, instance_guid, created_at, updated_at, first_completed_at,
			failed, failure_reason, result, rejection_count, rejection_reason, memory_mb, disk_mb, max_pids, root_fs,
			placement, definition_digest, has_callback, revision from tasks`,
		[]any{
			&t.GUID, &t.Domain, &state, &t.CellID, &t.InstanceGUID, &t.CreatedAt, &t.UpdatedAt, &t.FirstCompletedAt,
			&t.Failed, &t.FailureReason, &result, &t.RejectionCount, &t.RejectionReason, &t.Resources.MemoryMB, &t.Resources.DiskMB,
			&t.Resources.MaxPids, &rootFS, &placement, &digest, &t.HasCallback, &revision,
		}, func() error {
			row := t
			row.State, row.Revision, row.DefinitionDigest = task.State(state), unsigned(revision), string(digest) //nolint:gosec // checked by the table
			var errs [2]error
			row.Placement, errs[0] = placementFrom(rootFS, placement)
			if result != nil {
				var plain []byte
				plain, errs[1] = l.keys.Open(result, placeOfResult(t.GUID))
				row.Result = string(plain)
			}
			return l.insert("tasks", t.GUID, &row, errors.Join(errs[:]...))
		})
}

// each runs a query and calls f after each row was scanned into targets. The first targets are the key of
// the table in the types of its columns.
func (l *loader) each(ctx context.Context, tx pgx.Tx, sql string, targets []any, f func() error) error {
	var args []any
	if l.page != nil {
		sql, args = sql+" "+l.page.where, l.page.args
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		if l.page != nil {
			l.page.at(targets)
		}
		return f()
	})
	return err
}

// at notes the key of a row: as many targets as the page has arguments besides its limit.
func (p *page) at(targets []any) {
	p.rows++
	p.last = p.last[:0]
	for _, target := range targets[:len(p.args)-1] {
		switch v := target.(type) {
		case *string:
			p.last = append(p.last, *v)
		case *int32:
			p.last = append(p.last, *v)
		case *int16:
			p.last = append(p.last, *v)
		}
	}
}

package schema

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// lockKey is the advisory lock that each transaction of a migration takes first.
	lockKey = 0x64696567_62627331
	// idleTimeout ends a transaction that nobody continues: a migrating BBS that was paused must not
	// keep its successor waiting for longer than it takes to lose the lock.
	idleTimeout = 15 * time.Second
	// closeTimeout bounds saying goodbye to the database.
	closeTimeout = 5 * time.Second
)

// Config of a Migrator. Pool and Steps are required.
type Config struct {
	// Pool tells where the database is. A migration uses a connection of its own.
	Pool *pgxpool.Pool
	// Steps of the program, from version 1 without gap; the last one's version is the one it is built for.
	Steps []Step
	// RollBackTo is the version that an operator wants back, from 1; 0 is none.
	RollBackTo int64
	// Valid proves that we hold the lock of the active BBS. It is asked before each statement; nil is
	// always.
	Valid func() bool
	// Log is for what happens; nil discards it.
	Log *slog.Logger
}

// Migrator brings the tables to the version that is wanted. Status may be called at any time; Run by
// one goroutine.
type Migrator struct {
	cfg    Config
	built  int64
	status atomic.Pointer[Status]
}

// Status is how far a migration is, for those who look from outside.
type Status struct {
	// Running is set from the decision to migrate until its end, whatever that is.
	Running bool
	// Versions as last read.
	Versions
	// Took is how long the last migration of this process took, 0 before its end.
	Took time.Duration
}

// ErrLockLost says that the migration stopped because we can no longer prove that we hold the lock.
var ErrLockLost = errors.New("the lock was lost during the migration")

// New returns a migrator. It returns an error if the steps or the version to roll back to make no sense.
func New(cfg Config) (*Migrator, error) {
	if err := checkSteps(cfg.Steps); err != nil {
		return nil, err
	}
	built := int64(len(cfg.Steps))
	if cfg.RollBackTo < 0 || cfg.RollBackTo > built {
		return nil, fmt.Errorf("rolling back to version %d: this program knows 1 to %d", cfg.RollBackTo, built)
	}
	if cfg.Valid == nil {
		cfg.Valid = func() bool { return true }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Migrator{cfg: cfg, built: built}
	m.status.Store(&Status{})
	return m, nil
}

// Status returns how far it is.
func (m *Migrator) Status() Status { return *m.status.Load() }

// Run does what Decide says, step by step, and returns what the BBS is to do then: Serve, or
// StayPassive after a way down. It may be repeated after any error and any death of the process: what
// is committed is done, and everything else has not happened.
//
// It returns ErrNewer or ErrRollingBack, having written nothing, if this program must not touch the
// tables, and ErrLockLost.
func (m *Migrator) Run(ctx context.Context) (Action, error) {
	started := time.Now()
	conn, err := m.connect(ctx)
	if err != nil {
		return 0, fmt.Errorf("connecting for the migration: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(closing) // what was done is committed
	}()
	defer m.ended(started)
	for {
		action, err := m.advance(ctx, conn)
		if err != nil {
			return 0, err
		}
		switch action {
		case Up, Down:
		case Serve, StayPassive:
			return action, nil
		case RefuseNewer:
			return 0, ErrNewer.With("it is at version %d, this program knows up to %d; start the later release, or let it roll back with rollback_to_version: %d",
				m.Status().Current, m.built, m.built)
		case RefuseRollback:
			return 0, ErrRollingBack.With("from version %d to %d; finish it with rollback_to_version: %d", m.built, m.Status().Target, m.Status().Target)
		}
	}
}

// ended notes the duration if there was a migration.
func (m *Migrator) ended(started time.Time) {
	status := m.Status()
	if status.Running {
		status.Running, status.Took = false, time.Since(started)
		m.status.Store(&status)
	}
}

// connect opens a connection of which a statement is cancelled on the server too when its context ends.
func (m *Migrator) connect(ctx context.Context) (*pgx.Conn, error) {
	pool := m.cfg.Pool.Config()
	cfg := pool.ConnConfig.Copy()
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: closeTimeout}
	}
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// advance reads the versions, decides, and does one thing towards the end, all in one transaction.
// After Serve or StayPassive there is nothing left to do.
func (m *Migrator) advance(ctx context.Context, conn *pgx.Conn) (Action, error) {
	var action Action
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		guarded := &guardedTx{Tx: tx, valid: m.cfg.Valid}
		versions, err := m.prepare(ctx, guarded)
		if err != nil {
			return err
		}
		action = Decide(versions, m.built, m.cfg.RollBackTo)
		running := m.Status().Running || action == Up || action == Down
		m.status.Store(&Status{Running: running, Versions: versions, Took: m.Status().Took})
		switch action {
		case Up:
			err = m.move(ctx, guarded, versions, m.built)
		case Down:
			err = m.move(ctx, guarded, versions, m.cfg.RollBackTo)
		case Serve, StayPassive, RefuseNewer, RefuseRollback:
			return nil
		}
		if err == nil && !m.cfg.Valid() {
			err = ErrLockLost
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return action, err
}

// prepare orders this transaction after those of others and reads the versions. It writes nothing.
func (m *Migrator) prepare(ctx context.Context, tx pgx.Tx) (Versions, error) {
	_, err := tx.Exec(ctx, fmt.Sprintf(`set local statement_timeout = 0; set local lock_timeout = 0;
		set local idle_in_transaction_session_timeout = %d`, idleTimeout.Milliseconds()), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return Versions{}, fmt.Errorf("lifting the statement timeout: %w", err)
	}
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
		return Versions{}, fmt.Errorf("waiting for the migration lock: %w", err)
	}
	// A missing table may not become an error here: it would end the transaction.
	var exists, former bool
	err = tx.QueryRow(ctx, `select to_regclass('bbs_schema') is not null, to_regclass('bbs_schema_version') is not null`).Scan(&exists, &former)
	if err != nil {
		return Versions{}, fmt.Errorf("looking for the schema version: %w", err)
	}
	switch {
	case exists:
		return Read(ctx, tx)
	case former:
		// The first release kept its version elsewhere.
		var v int64
		if err := tx.QueryRow(ctx, `select version from bbs_schema_version`).Scan(&v); err != nil {
			return Versions{}, fmt.Errorf("reading the former schema version: %w", err)
		}
		return Versions{Current: v, Target: v}, nil
	}
	return Versions{}, nil
}

// move does the next thing on the way to a version: announce it, or take one step.
func (m *Migrator) move(ctx context.Context, tx pgx.Tx, v Versions, to int64) error {
	if v.Target != to { // also if there is no version table yet, because then the target is where we are
		return m.announce(ctx, tx, v, to)
	}
	started := time.Now()
	var step Step
	var change Change
	reached := v.Current - 1
	if to > v.Current {
		step, reached = m.cfg.Steps[v.Current], v.Current+1
		change = step.Up
	} else {
		step = m.cfg.Steps[reached]
		change = step.Down // nil if the step was additive: nothing to undo
	}
	if change != nil {
		if err := change(ctx, tx); err != nil {
			return fmt.Errorf("migrating from version %d to %d (%s): %w", v.Current, reached, step.Name, err)
		}
	}
	if _, err := tx.Exec(ctx, `update bbs_schema set current_version = $1, changed_at = now()`, reached); err != nil {
		return fmt.Errorf("recording version %d: %w", reached, err)
	}
	m.cfg.Log.InfoContext(ctx, "schema-step", "step", step.Name, "from", v.Current, "to", reached, "after_ms", time.Since(started).Milliseconds())
	return nil
}

// announce records where the migration goes, before anything is changed, and raises the epoch: a BBS
// that was active before, and does not know yet that it is no more, must not write while tables change.
func (m *Migrator) announce(ctx context.Context, tx pgx.Tx, v Versions, to int64) error {
	m.cfg.Log.InfoContext(ctx, "schema-migrates", "from", v.Current, "to", to, "built_for", m.built)
	_, err := tx.Exec(ctx, `create table if not exists bbs_schema (
		only_row boolean primary key default true check (only_row),
		current_version bigint not null check (current_version >= 0),
		target_version bigint not null check (target_version >= 0),
		changed_at timestamptz not null)`)
	if err != nil {
		return fmt.Errorf("creating the version table: %w", err)
	}
	_, err = tx.Exec(ctx, `insert into bbs_schema (current_version, target_version, changed_at) values ($1, $2, now())
		on conflict (only_row) do update set target_version = excluded.target_version, changed_at = excluded.changed_at`, v.Current, to)
	if err != nil {
		return fmt.Errorf("announcing version %d: %w", to, err)
	}
	_, err = tx.Exec(ctx, `do $$ begin
		if to_regclass('bbs_state') is not null then update bbs_state set epoch = epoch + 1, holder = null; end if;
	end $$`)
	if err != nil {
		return fmt.Errorf("raising the epoch: %w", err)
	}
	return nil
}

// guardedTx is a transaction whose statements need the lock.
type guardedTx struct {
	pgx.Tx
	valid func() bool
}

func (t *guardedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if !t.valid() {
		return pgconn.CommandTag{}, ErrLockLost
	}
	return t.Tx.Exec(ctx, sql, args...)
}

func (t *guardedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if !t.valid() {
		return nil, ErrLockLost
	}
	return t.Tx.Query(ctx, sql, args...)
}

func (t *guardedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if !t.valid() {
		return lostRow{}
	}
	return t.Tx.QueryRow(ctx, sql, args...)
}

func (t *guardedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	if !t.valid() {
		return 0, ErrLockLost
	}
	return t.Tx.CopyFrom(ctx, table, columns, source)
}

// lostRow is the answer to a question that may not be asked any more.
type lostRow struct{}

func (lostRow) Scan(...any) error { return ErrLockLost }

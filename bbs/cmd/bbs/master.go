package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/store"
	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/telemetry"
)

// takeOverPause is between two attempts to take over while the database does not answer.
const takeOverPause = 200 * time.Millisecond

// master is the part of the process that follows the active BBS, becomes it, and is it.
type master struct {
	cfg     Config
	tel     *telemetry.Telemetry
	pool    *pgxpool.Pool
	store   *store.Store
	effects *effect.Effects
	server  *grpcserver.Server
	backend lockclient.Backend
	schema  *schemaStatus
}

// run follows the log of the active BBS until it gets the lock, and then is the active BBS until ctx
// ends or it can no longer prove that it is. After that the process has to start anew, as a standby:
// its state may be behind.
func (m *master) run(ctx context.Context) error {
	lock, err := m.await(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	m.tel.Log.InfoContext(ctx, "bbs-elected", "token", lock.Token())

	err = lock.While(ctx, func(ctx context.Context) error { return m.lead(ctx, lock) })
	if errors.Is(err, lockclient.ErrLost) {
		return err // whatever else has come to its end
	}
	if errors.Is(err, errRolledBack) {
		// The lock is free for an older program. To end would be to be started again.
		m.schema.rolledBack.Store(true)
		m.tel.Log.InfoContext(ctx, "bbs-rolled-back", "version", m.cfg.RollBackTo)
		<-ctx.Done()
		return nil
	}
	return stopped(ctx, err)
}

// await follows the log until the lock is ours.
func (m *master) await(ctx context.Context) (*lockclient.Lock, error) {
	follow, stop := context.WithCancel(ctx)
	defer stop()
	followed := make(chan error, 1)
	go func() { followed <- m.store.Follow(follow) }()
	lock, err := lockclient.Acquire(ctx, lockclient.LockConfig{
		Key: "bbs", Owner: m.cfg.Lock.Owner, TTL: m.cfg.Lock.TTL, Value: []byte(m.server.Addr()), Backend: m.backend, Log: m.tel.Log, Metrics: m.tel.Registry,
		Readiness: m.tel.AddReadiness,
	})
	stop()
	return lock, errors.Join(err, <-followed)
}

// lead is the active BBS until ctx ends.
func (m *master) lead(ctx context.Context, lock *lockclient.Lock) error {
	if err := m.migrate(ctx, lock.Valid); err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	if err := m.takeOver(ctx, lock); err != nil {
		return err
	}
	m.server.SetServing(healthService, true)
	defer m.server.SetServing(healthService, false)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := m.store.Run(ctx)
		switch {
		case errors.Is(err, store.ErrFenced):
			err = lifecycle.WithExitCode(err, lifecycle.ExitLockLost)
		case errors.Is(err, schema.ErrMissing):
			err = lifecycle.WithExitCode(err, lifecycle.ExitStore)
		}
		return err
	})
	g.Go(func() error { return lifecycle.WithExitCode(m.store.Rotate(ctx), lifecycle.ExitLockLost) })
	g.Go(func() error { return m.store.PruneLog(ctx) })
	g.Go(func() error { return stopped(ctx, m.effects.Run(ctx)) })
	return g.Wait()
}

// takeOver makes the store the active one. A database that does not answer is asked again for as long
// as the lock is ours.
func (m *master) takeOver(ctx context.Context, lock *lockclient.Lock) error {
	err := m.persist(ctx, "taking over", func() error { return m.store.TakeOver(ctx, lock.Valid) })
	if errors.Is(err, seal.ErrUnknownKey) || errors.Is(err, schema.ErrMissing) {
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	}
	return err
}

// stopped returns nil for an error that is only the end of ctx.
func stopped(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil //nolint:nilerr // what an end of ctx brings about is no error
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"diego.internal/locket/internal/api"
	"diego.internal/locket/internal/store"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("locket", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	source, err := mtls.Load(cfg.GRPC.TLS)
	if err != nil {
		return fmt.Errorf("loading the certificate: %w", err)
	}

	// The debug listener answers while we wait for the database, and until the store has stopped. The store
	// stops last: calls that the server lets finish still need it.
	keepCtx, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	keep, keepCtx := errgroup.WithContext(keepCtx)
	keep.Go(func() error { return tel.Run(keepCtx) })
	tel.AddReadiness("database", func() (any, error) { return "waiting for it", errNoDatabase })
	pool, err := openDatabase(ctx, cfg.Database, tel)
	if err != nil {
		stopKeeping()
		return errors.Join(err, keep.Wait())
	}
	defer pool.Close()

	st := store.New(store.Config{Pool: pool, Log: tel.Log, Metrics: tel.Registry})
	server, err := grpcserver.New(grpcserver.Options{
		Source: source, Allow: api.Access(), Telemetry: tel, Listen: cfg.GRPC.Listen,
	})
	if err != nil {
		stopKeeping()
		return errors.Join(fmt.Errorf("opening the grpc server: %w", err), keep.Wait())
	}
	api.Register(server.GRPC(), st)
	server.SetServing(api.HealthService, false) // until the database has answered
	tel.AddReadiness("database", func() (any, error) {
		stat := pool.Stat()
		return map[string]any{
			"last_answer_age": st.Age().String(), "connections": stat.TotalConns(),
			"in_use": stat.AcquiredConns(), "limit": stat.MaxConns(),
		}, st.Healthy()
	})
	tel.Started() //nolint:contextcheck // one log line

	keep.Go(func() error {
		err := st.Run(keepCtx, func(healthy bool) { server.SetServing(api.HealthService, healthy) })
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	})

	serve, serveCtx := errgroup.WithContext(ctx)
	serve.Go(func() error { return source.Run(serveCtx) })
	serve.Go(func() error { return server.Run(serveCtx) })
	serve.Go(func() error { // a store that cannot go on ends the serving
		select {
		case <-serveCtx.Done():
			return nil
		case <-keepCtx.Done():
			return errStoreEnded
		}
	})
	served := serve.Wait()
	stopKeeping()
	if err := keep.Wait(); err != nil {
		return err
	}
	return served
}

var errNoDatabase = errors.New("the database has not answered yet")

// openDatabase waits for the database until ctx ends, and brings the schema up to date. What waiting cannot
// cure, such as a wrong password, ends it.
func openDatabase(ctx context.Context, cfg postgres.Config, tel *telemetry.Telemetry) (*pgxpool.Pool, error) {
	for {
		pool, err := postgres.Open(ctx, cfg)
		if err == nil {
			if err = migrate(ctx, pool, tel); err == nil {
				return pool, nil
			}
			pool.Close()
		}
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("waiting for the database: %w", context.Cause(ctx))
		case !postgres.IsUnavailable(err):
			return nil, fmt.Errorf("opening the database: %w", err)
		}
		tel.Log.WarnContext(ctx, "waiting-for-the-database", "error", err)
		pause := time.NewTimer(databasePause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// databasePause is between two attempts to open a database that answers but does not serve yet, such as a
// standby that is being promoted.
const databasePause = 500 * time.Millisecond

func migrate(ctx context.Context, pool *pgxpool.Pool, tel *telemetry.Telemetry) error {
	if err := store.Migrate(ctx, pool); err != nil {
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	}
	return postgres.Observe(pool, tel)
}

// errStoreEnded stops the serving; why the store has ended is what run returns.
var errStoreEnded = errors.New("the store has ended")

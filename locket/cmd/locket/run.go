package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

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
	pool, err := postgres.Open(ctx, cfg.Database)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer pool.Close()
	if err := store.Migrate(ctx, pool); err != nil {
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	}

	st := store.New(store.Config{Pool: pool, Log: tel.Log, Metrics: tel.Registry})
	server, err := grpcserver.New(grpcserver.Options{
		Source: source, Allow: api.Access(), Telemetry: tel, Listen: cfg.GRPC.Listen,
	})
	if err != nil {
		return fmt.Errorf("opening the grpc server: %w", err)
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
	tel.Started(slog.String("config_digest", config.Digest(args))) //nolint:contextcheck // one log line

	// The store stops last: calls that the server lets finish still need it.
	keepCtx, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	keep, keepCtx := errgroup.WithContext(keepCtx)
	keep.Go(func() error {
		err := st.Run(keepCtx, func(healthy bool) { server.SetServing(api.HealthService, healthy) })
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	})
	keep.Go(func() error { return tel.Run(keepCtx) })

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

// errStoreEnded stops the serving; why the store has ended is what run returns.
var errStoreEnded = errors.New("the store has ended")

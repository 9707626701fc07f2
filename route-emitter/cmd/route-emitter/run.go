package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"diego.internal/locket/lockclient"
	"diego.internal/route-emitter/internal/emit"
	"diego.internal/route-emitter/internal/routetable"
	"diego.internal/route-emitter/internal/watch"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// lockKey is what the active emitter of global mode holds.
const lockKey = "route_emitter"

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err //nolint:wrapcheck // complete as it is, and ErrDone must stay itself
	}
	tel, err := telemetry.New("route-emitter", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	source, err := mtls.Load(cfg.TLS)
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}
	if err := checkIdentity(source.Identity(), cfg.CellID); err != nil {
		return err
	}
	bbs, err := grpcclient.Dial(cfg.BBS, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1", Telemetry: tel})
	if err != nil {
		return fmt.Errorf("dialing the bbs: %w", err)
	}
	defer func() { _ = bbs.Close() }()
	watcher, emitter := wire(cfg, source, bbs, tel)
	addReadiness(tel, watcher, emitter)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tel.Run(ctx) })
	g.Go(func() error { return source.Run(ctx) })
	work := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return emitter.Run(ctx) })
		g.Go(func() error { return watcher.Run(ctx) })
		return g.Wait() //nolint:wrapcheck // wrapped by each part
	}
	if cfg.CellID != "" {
		g.Go(func() error { return work(ctx) })
	} else {
		stores := lockclient.NewStores(cfg.StoresConfig, source, tel)
		defer func() { _ = stores.Close() }()
		claims, err := stores.Open(cfg.Lock.Backend)
		if err != nil {
			return err //nolint:wrapcheck // says what was opened
		}
		g.Go(func() error { return whileLocked(ctx, lockConfig(cfg, claims, tel), work) })
	}
	tel.Started(slog.String("cell_id", cfg.CellID)) //nolint:contextcheck // one log line
	return g.Wait()                                 //nolint:wrapcheck // wrapped by each part
}

// checkIdentity requires the certificate of the cell's own emitter: another one would be refused by the BBS later, or
// would speak for a cell that it does not serve.
func checkIdentity(id mtls.Identity, cellID string) error {
	if id.Role == mtls.RoleRouteEmitter && (cellID == "" || id.Name == cellID) {
		return nil
	}
	err := fmt.Errorf("the certificate is for %v, not for the route emitter of cell %q", id, cellID)
	return lifecycle.WithExitCode(err, lifecycle.ExitConfig)
}

// wire makes the two halves: the watcher keeps the table and tells the emitter its changes, the emitter reads the table
// for its periodic emission.
func wire(cfg Config, source *mtls.Source, bbs grpc.ClientConnInterface, tel *telemetry.Telemetry) (*watch.Watcher, *emit.Emitter) {
	seed := cfg.CellID
	if seed == "" {
		seed = cfg.Lock.Owner
	}
	var watcher *watch.Watcher
	emitter := emit.New(emit.Config{
		Addresses: cfg.NATS.Addresses, TLS: source.ClientConfig(mtls.Peer{Role: mtls.RoleNATS}),
		Messages: func() []routetable.Message { return watcher.Messages() },
		Seed:     seed, DefaultInterval: cfg.EmissionInterval, JitterFactor: cfg.JitterFactor,
		RepeatInterval: cfg.UnregistrationInterval, RepeatTimes: cfg.UnregistrationSendCount, HandOver: cfg.HandOver,
		Internal: cfg.EnableInternalEmitter, Log: tel.Log, Metrics: tel.Registry,
	})
	watcher = watch.New(watch.Config{
		Conn: bbs, CellID: cfg.CellID,
		Table: routetable.Config{DirectInstanceRoutes: cfg.RegisterDirectInstanceRoutes, InternalRoutes: cfg.EnableInternalEmitter},
		Apply: emitter.Apply, SyncInterval: cfg.SyncInterval, CallTimeout: cfg.CommunicationTimeout, Silence: cfg.StreamSilence,
		Log: tel.Log, Metrics: tel.Registry,
	})
	return watcher, emitter
}

func addReadiness(tel *telemetry.Telemetry, watcher *watch.Watcher, emitter *emit.Emitter) {
	tel.AddReadiness("nats", func() (any, error) {
		s := emitter.Status()
		return s, s.Check(time.Now())
	})
	tel.AddReadiness("bbs", func() (any, error) {
		s := watcher.Status()
		return s, s.Check()
	})
}

func lockConfig(cfg Config, backend lockclient.Backend, tel *telemetry.Telemetry) lockclient.LockConfig {
	return lockclient.LockConfig{
		Key: lockKey, Owner: cfg.Lock.Owner, TTL: cfg.Lock.TTL, Backend: backend, Log: tel.Log, Metrics: tel.Registry,
		Readiness: tel.AddReadiness,
	}
}

// whileLocked waits for the lock and works until ctx ends or the lock is lost. At the end of ctx the lock is released only
// after the work has stopped, so that there are never two.
func whileLocked(ctx context.Context, cfg lockclient.LockConfig, work func(context.Context) error) error {
	lock, err := lockclient.Acquire(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil //nolint:nilerr // asked to stop while waiting
	case err != nil:
		return fmt.Errorf("acquiring the lock %s: %w", cfg.Key, err)
	}
	return lock.While(ctx, work) //nolint:wrapcheck // each says what it is about
}

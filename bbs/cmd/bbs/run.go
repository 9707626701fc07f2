package main

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"diego.internal/bbs/internal/api"
	"diego.internal/bbs/internal/cells"
	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/store"
	"diego.internal/locket/lockclient"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

// healthService is SERVING on the active BBS only.
const healthService = "bbs.v1"

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("bbs", cfg.Config) //nolint:contextcheck // it outlives the start
	if err != nil {
		return err
	}
	source, err := mtls.Load(cfg.GRPC.TLS)
	if err != nil {
		return err
	}
	keys, err := seal.Load(cfg.Encryption)
	if err != nil {
		return lifecycle.WithExitCode(err, lifecycle.ExitConfig)
	}
	pool, err := openDatabase(ctx, cfg.Database, tel)
	if err != nil {
		return err
	}
	defer pool.Close()
	stores := lockclient.NewStores(cfg.StoresConfig, source, tel)
	defer func() { _ = stores.Close() }()
	locks, err := stores.Open(cfg.Lock.Backend)
	if err != nil {
		return err
	}
	presences, err := stores.Open(cfg.Presences.Backend)
	if err != nil {
		return err
	}
	auctioneer, err := dial(cfg.Auctioneer, source, mtls.RoleAuctioneer, "auctioneer.v1", tel)
	if err != nil {
		return err
	}
	defer func() { _ = auctioneer.Close() }()
	server, err := grpcserver.New(grpcserver.Options{Source: source, Allow: api.Roles(), Telemetry: tel, Listen: cfg.GRPC.Listen})
	if err != nil {
		return err
	}

	// The store and the effects know each other: the one tells what was committed, the others commit.
	var effects *effect.Effects
	st, err := store.New(storeConfig(cfg, pool, keys, tel, func(c store.Committed) { effects.Committed(changes(c)) }))
	if err != nil {
		return err
	}
	registry := cells.NewRegistry(cells.Config{
		Backend: presences, Listener: &listener{of: func() *effect.Effects { return effects }}, Log: tel.Log, Metrics: tel.Registry,
		Dial: func(cellID, address string) (*grpc.ClientConn, error) {
			return grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
				Source: source, Server: mtls.Peer{Role: mtls.RoleCell, Name: cellID}, Telemetry: tel,
			})
		},
	})
	effects = effect.New(effectConfig(cfg), effectStore{st}, effect.Peers{
		Auctions: auctioneerv1.NewAuctionsClient(auctioneer), Cells: registry, Callbacks: callbackClient(source, cfg.GRPC.TLS.CA),
	}, tel.Log)

	status := &schemaStatus{}
	api.Register(server.GRPC(), api.Config{
		Store: st, Cells: registry, Effects: effects, Log: tel.Log, NewGUID: uuid.NewString, Instance: cfg.Lock.Owner,
		MaxTaskRetries: cfg.Tasks.MaxRetries, BookmarkInterval: cfg.Watch.Bookmark, Metrics: tel.Registry,
		Schema: func() api.SchemaStatus { return status.status(st) },
	})
	server.SetServing("", true)
	server.SetServing(healthService, false)
	observe(tel, st, effects)
	observeSchema(tel, st, status)

	m := master{cfg: cfg, tel: tel, pool: pool, store: st, effects: effects, server: server, backend: locks, schema: status}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tel.Run(ctx) })
	g.Go(func() error { return source.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return registry.Run(ctx) })
	g.Go(func() error { return boundHeap(ctx) })
	g.Go(func() error { return st.Compare(ctx) })
	g.Go(func() error { return m.run(ctx) })
	tel.Started() //nolint:contextcheck // the line at start belongs to no request
	return g.Wait()
}

func openDatabase(ctx context.Context, cfg postgres.Config, tel *telemetry.Telemetry) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := postgres.Observe(pool, tel); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func dial(cfg grpcclient.Config, source *mtls.Source, role, health string, tel *telemetry.Telemetry) (*grpc.ClientConn, error) {
	return grpcclient.Dial(cfg, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: role}, HealthService: health, Telemetry: tel,
	})
}

func storeConfig(cfg Config, pool *pgxpool.Pool, keys *seal.Keyring, tel *telemetry.Telemetry, onCommit func(store.Committed)) store.Config {
	return store.Config{
		Pool: pool, Keys: keys, Log: tel.Log, Metrics: tel.Registry, OnCommit: onCommit,
		MaxBatch: cfg.Writer.MaxBatch, QueueLimit: cfg.Writer.QueueLimit, CommitTimeout: cfg.Writer.CommitTimeout,
		WatchBytes: cfg.Watch.MemoryMB << 20,
		Retention:  store.Retention{MinAge: cfg.Watch.MinAge, MinEvents: cfg.Watch.MinEvents, Interval: cfg.Watch.PruneInterval},
		Rotation:   store.Rotation{Batch: cfg.Encryption.Rotation.Batch, Pause: cfg.Encryption.Rotation.Pause},
		Comparison: store.Comparison{Interval: cfg.Comparison.Interval, Chunk: cfg.Comparison.Chunk, Pause: cfg.Comparison.Pause},
	}
}

func effectConfig(cfg Config) effect.Config {
	return effect.Config{
		Interval: cfg.Convergence.Interval,
		Converge: converge.Config{
			StaleUnclaimed: cfg.Convergence.StaleUnclaimed, KickTask: cfg.Tasks.Kick,
			ExpireCompletedTask: cfg.Tasks.ExpireCompleted, ExpirePendingTask: cfg.Tasks.ExpirePending,
		},
		Fleet: converge.FleetConfig{
			PresenceTTL: cfg.Convergence.PresenceTTL, BrakeShare: cfg.Convergence.BrakeShare,
			BrakeMemory: cfg.Convergence.BrakeMemory, BrakeFor: cfg.Convergence.BrakeFor,
		},
		NewEpoch: uuid.NewString,
	}
}

// listener passes news of cells to the effects, which are made after the registry.
type listener struct {
	of func() *effect.Effects
}

func (l *listener) CellsSynced(present []string)         { l.of().CellsSynced(present) }
func (l *listener) CellArrived(id string)                { l.of().CellArrived(id) }
func (l *listener) CellExpired(id string, inferred bool) { l.of().CellExpired(id, inferred) }
func (l *listener) CellReleased(id string)               { l.of().CellReleased(id) }

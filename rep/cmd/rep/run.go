package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor"
	"diego.internal/executor/garden/containerd"
	"diego.internal/locket/lockclient"
	"diego.internal/rep/internal/cell"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

func run(ctx context.Context, args []string) error {
	isClean := func(arg string) bool { return arg == "-clean" || arg == "--clean" }
	clean := slices.ContainsFunc(args, isClean)
	args = slices.DeleteFunc(slices.Clone(args), isClean)
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("rep", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	if clean {
		return cleanMachine(ctx, cfg, tel.Log)
	}
	source, err := mtls.Load(cfg.GRPC.TLS)
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}

	// The debug listener answers from here on: somebody may want to know why the cell does not start.
	ctx, end := context.WithCancel(ctx)
	defer end()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return tel.Run(ctx) })
	if err := runCell(ctx, &cfg, source, tel); err != nil && !errors.Is(err, cell.ErrEvacuated) {
		end()
		return errors.Join(err, group.Wait())
	}
	end()
	return group.Wait()
}

// runCell opens the cell, which takes as long as the container engine takes to answer, and runs it until ctx ends or it is
// evacuated.
func runCell(ctx context.Context, cfg *Config, source *mtls.Source, tel *telemetry.Telemetry) error {
	cfg.Executor.Stall = &executor.Stall{}
	cell.AwaitEngine(tel, cfg.Executor.Stall)
	engine, err := openEngine(ctx, cfg, tel.Log)
	if err != nil {
		return err
	}
	// The executor, which is closed first, still speaks to the engine until then.
	defer func() { _ = engine.Close() }()
	bbs, err := grpcclient.Dial(cfg.BBS, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1", Telemetry: tel})
	if err != nil {
		return fmt.Errorf("dialling the bbs: %w", err)
	}
	defer func() { _ = bbs.Close() }()
	stores := lockclient.NewStores(cfg.StoresConfig, source, tel)
	defer func() { _ = stores.Close() }()
	claims, err := stores.Open(cfg.Presence.Backend)
	if err != nil {
		return err
	}

	self, err := cell.New(ctx, cell.Config{
		Description: cfg.Cell, Source: source, Listen: cfg.GRPC.Listen, BBS: bbs, Claims: claims,
		Engine: engine, Preloaded: slices.Collect(maps.Keys(cfg.Garden.RootFS)), Executor: cfg.Executor,
		Presence: cfg.Presence, Reconcile: cfg.Reconcile, Evacuation: cfg.Evacuation, Telemetry: tel,
	})
	if err != nil {
		return err
	}
	cell.ShowMetrics(tel.Registry, func() []*cell.Cell { return []*cell.Cell{self} })
	cell.ShowContainers(tel.Registry, self, cfg.Metrics.ExcludeContainer)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return evacuateOnSignal(ctx, self) })
	group.Go(func() error { return self.Run(ctx) })
	//nolint:contextcheck // one log line
	tel.Started(slog.String("cell_id", cfg.Cell.ID), slog.String("zone", cfg.Cell.Zone), slog.String("grpc", self.Addr()))
	return group.Wait()
}

// evacuateOnSignal empties the cell when SIGUSR1 comes.
func evacuateOnSignal(ctx context.Context, self *cell.Cell) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	select {
	case <-ctx.Done():
	case <-signals:
		self.Evacuate()
	}
	return nil
}

// openEngine opens the container engine of the cell and gives it to the executor's section.
func openEngine(ctx context.Context, cfg *Config, log *slog.Logger) (*containerd.Backend, error) {
	cfg.Garden.CellID, cfg.Garden.Log = cfg.Cell.ID, log
	engine, err := containerd.New(ctx, cfg.Garden)
	if err != nil {
		return nil, fmt.Errorf("opening the container engine: %w", err)
	}
	cfg.Executor.CellID, cfg.Executor.Engine, cfg.Executor.Log = cfg.Cell.ID, engine, log
	return engine, nil
}

// cleanMachine removes what the cell owns on this machine: containers, networks, rules, images and state. No rep may run.
func cleanMachine(ctx context.Context, cfg Config, log *slog.Logger) error {
	engine, err := openEngine(ctx, &cfg, log)
	if err != nil {
		return err
	}
	// What the executor knows goes first; the engine then removes what is left, and the traces of all.
	if err := errors.Join(executor.Clean(ctx, cfg.Executor), engine.Clean(ctx), engine.Close()); err != nil {
		return fmt.Errorf("cleaning cell %q: %w", cfg.Cell.ID, err)
	}
	log.InfoContext(ctx, "cleaned", "cell_id", cfg.Cell.ID)
	return nil
}

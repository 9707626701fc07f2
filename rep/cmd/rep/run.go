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
	"time"

	"diego.internal/executor"
	"diego.internal/executor/garden/containerd"
	"diego.internal/locket/lockclient"
	"diego.internal/rep/internal/api"
	"diego.internal/rep/internal/applog"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/presence"
	"diego.internal/rep/internal/reconcile"
	"diego.internal/rep/internal/translate"
	"diego.internal/rep/internal/work"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// healthService is the name under which the gRPC health of a rep is asked for.
const healthService = "rep.v1"

// guidLength is how much of a random UUID names a container; with longer names hostnames and interface names would not fit.
const guidLength = 28

// errEvacuated ends a rep whose cell is empty. It is a success.
var errEvacuated = errors.New("the cell is evacuated")

func run(ctx context.Context, args []string) error {
	clean := slices.Contains(args, "-clean")
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "-clean" })
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("rep", cfg.Config)
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	if clean {
		return cleanMachine(ctx, cfg, tel.Log)
	}
	source, err := identity(cfg)
	if err != nil {
		return err
	}

	cfg.Garden.CellID, cfg.Garden.Log = cfg.Cell.ID, tel.Log
	engine, err := containerd.New(ctx, cfg.Garden)
	if err != nil {
		return fmt.Errorf("opening the container engine: %w", err)
	}
	defer func() { _ = engine.Close() }()
	cfg.Executor.CellID, cfg.Executor.Engine, cfg.Executor.Log = cfg.Cell.ID, engine, tel.Log
	exec, err := executor.Open(ctx, cfg.Executor)
	if err != nil {
		return fmt.Errorf("opening the executor: %w", err)
	}
	defer exec.Close()

	bbs, err := grpcclient.Dial(cfg.BBS, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1", Telemetry: tel})
	if err != nil {
		return fmt.Errorf("dialling the bbs: %w", err)
	}
	defer func() { _ = bbs.Close() }()
	locket, err := grpcclient.Dial(cfg.Locket, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleLocket}, HealthService: "locket.v1", Telemetry: tel})
	if err != nil {
		return fmt.Errorf("dialling locket: %w", err)
	}
	defer func() { _ = locket.Close() }()

	finder := &applog.Finder{List: exec.ListContainers, Keep: cfg.Executor.LogRetention, Most: 1000}
	evacuator := evacuation.New(evacuation.Config{Timeout: cfg.Evacuation.Timeout, Poll: min(cfg.Evacuation.Interval, time.Second), List: exec.ListContainers, Log: tel.Log})
	duration := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "rep_bulk_sync_duration_seconds", Help: "Duration of complete rounds that compared containers with records.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
	})
	tel.Registry.MustRegister(duration)
	reconciler := reconcile.New(reconcile.Config{
		CellID: cfg.Cell.ID, Zone: cfg.Cell.Zone, Executor: exec,
		BBS: reconcile.BBS{
			Tasks: bbsv1.NewTasksClient(bbs), TaskCell: bbsv1.NewTaskCellClient(bbs), ActualLRPs: bbsv1.NewActualLRPsClient(bbs),
			Cell: bbsv1.NewActualLRPCellClient(bbs), Evacuation: bbsv1.NewEvacuationClient(bbs),
		},
		Interval: cfg.Reconcile.Interval, EvacuationInterval: cfg.Evacuation.Interval, Width: cfg.Reconcile.Width,
		Evacuating: evacuator.Evacuating, EvacuationStarted: evacuator.Started(),
		Log: tel.Log, Deleted: finder.Retire, Observe: func(d time.Duration) { duration.Observe(d.Seconds()) },
	})
	evacuator.Abandon = reconciler.Abandon

	server, err := grpcserver.New(grpcserver.Options{Source: source, Allow: allow, Telemetry: tel, Listen: cfg.GRPC.Listen})
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	cell := describe(cfg, server.Addr(), slices.Collect(maps.Keys(cfg.Garden.RootFS)))
	register(ctx, server, services{cell: cell, exec: exec, evacuator: evacuator, reconciler: reconciler, finder: finder, log: tel.Log})
	collect(tel, exec, reconciler, evacuator)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return tel.Run(ctx) })
	group.Go(func() error { return exec.Run(ctx) })
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return beginOnSignal(ctx, evacuator) })
	group.Go(func() error { return evacuator.Run(ctx) })
	registration := lockclient.NewPresence(lockclient.PresenceConfig{
		Key: cfg.Cell.ID, Owner: cfg.Cell.ID, TTL: cfg.Presence.TTL, Incarnation: time.Now().UnixNano(),
		Value: presenceValue(cell, exec), Backend: lockclient.NewLocket(locket), Log: tel.Log,
	})
	group.Go(func() error {
		if err := firstSync(ctx, reconciler, tel.Log); err != nil {
			return nil // ctx ended
		}
		server.SetServing(healthService, true)
		// From here on the auction may find this cell.
		return registration.Run(ctx)
	})
	group.Go(func() error { return reconciler.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-evacuator.Done():
			registration.SetReleaseOnStop(true)
			return errEvacuated
		}
	})
	tel.AddReadiness("presence", func() (any, error) {
		if !registration.Held() {
			return nil, errors.New("the presence of the cell is not held")
		}
		return map[string]string{"owner": registration.Owner()}, nil
	})
	tel.Started(slog.String("cell_id", cfg.Cell.ID), slog.String("zone", cfg.Cell.Zone), slog.String("grpc", server.Addr()), slog.String("config", config.Digest(args)))
	if err := group.Wait(); err != nil && !errors.Is(err, errEvacuated) {
		return err
	}
	return nil
}

// identity loads the certificate, which must name this cell, since the BBS believes nothing else.
func identity(cfg Config) (*mtls.Source, error) {
	source, err := mtls.Load(cfg.GRPC.TLS)
	if err != nil {
		return nil, fmt.Errorf("loading certificates: %w", err)
	}
	if id := source.Identity(); id.Role != mtls.RoleCell || id.Name != cfg.Cell.ID {
		return nil, fmt.Errorf("loading certificates: %s is for %s, not for cell %q", cfg.GRPC.TLS.Certificate, id, cfg.Cell.ID)
	}
	return source, nil
}

// allow says who may call what. The auctioneer places, the BBS stops, operators look and evacuate.
var allow = grpcserver.Table{ //nolint:gochecknoglobals // a constant in all but type
	"/rep.v1.Auction/State":   {mtls.RoleAuctioneer, mtls.RoleOperator},
	"/rep.v1.Auction/Perform": {mtls.RoleAuctioneer},
	"/rep.v1.Instances/":      {mtls.RoleBBS},
	"/rep.v1.Operation/":      {mtls.RoleOperator},
	"/rep.v1.Logs/":           {mtls.RoleOperator},
}

func describe(cfg Config, listening string, preloaded []string) api.Cell {
	cell := api.Cell{
		ID: cfg.Cell.ID, Zone: cfg.Cell.Zone, Index: cfg.Cell.Index, Address: cfg.Cell.Address, Providers: work.Providers(preloaded),
		PlacementTags: cfg.Cell.PlacementTags, OptionalTags: cfg.Cell.OptionalPlacementTags, StartingContainerCap: cfg.Cell.MaxStarting,
	}
	if cell.Address == "" {
		cell.Address = listening
	}
	return cell
}

type services struct {
	cell       api.Cell
	exec       *executor.Client
	evacuator  *evacuation.Evacuator
	reconciler *reconcile.Reconciler
	finder     *applog.Finder
	log        *slog.Logger
}

func register(ctx context.Context, server *grpcserver.Server, s services) {
	performer := &work.Performer{
		CellID: s.cell.ID, Executor: s.exec, Evacuating: s.evacuator.Evacuating, NewGUID: newGUID, Log: s.log,
		RootFS: func(uri string) bool { return work.Supports(s.cell.Providers, uri) },
	}
	repv1.RegisterAuctionServer(server.GRPC(), &api.Auction{Cell: s.cell, Executor: s.exec, Performer: performer, Evacuator: s.evacuator})
	repv1.RegisterInstancesServer(server.GRPC(), &api.Instances{Executor: s.exec, Log: s.log, Delete: func(c executor.Container) { s.reconciler.DeleteSoon(ctx, c) }})
	repv1.RegisterOperationServer(server.GRPC(), &api.Operation{Executor: s.exec, Evacuator: s.evacuator, Report: time.Second, Stopping: ctx.Done()})
	repv1.RegisterLogsServer(server.GRPC(), &api.Logs{Executor: s.exec, Finder: s.finder, Stopping: ctx.Done()})
}

func newGUID() string { return uuid.NewString()[:guidLength] }

// presenceValue words the presence anew for each renewal, because the capacity is measured.
func presenceValue(cell api.Cell, exec *executor.Client) func() []byte {
	return func() []byte {
		value, err := presence.Value(&workloadv1.CellPresence{
			CellId: cell.ID, RepAddress: cell.Address, Zone: cell.Zone, Capacity: translate.Capacity(exec.TotalResources()),
			RootfsProviders: cell.Providers, PlacementTags: cell.PlacementTags, OptionalPlacementTags: cell.OptionalTags, Version: config.BuildVersion(),
		})
		if err != nil { // only text that is not UTF-8, which YAML does not yield
			return nil
		}
		return value
	}
}

// firstSync tells the BBS what was found at start, before the cell offers itself. It tries until it succeeds or ctx ends.
func firstSync(ctx context.Context, reconciler *reconcile.Reconciler, log *slog.Logger) error {
	pause := 100 * time.Millisecond
	for complained := false; ; complained = true {
		err := reconciler.Sync(ctx)
		if err == nil {
			reconciler.Drain()
			return nil
		}
		if !complained && ctx.Err() == nil {
			log.WarnContext(ctx, "first-round-waits", "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
			pause = min(2*pause, 2*time.Second)
		}
	}
}

// beginOnSignal starts the evacuation when SIGUSR1 comes.
func beginOnSignal(ctx context.Context, evacuator *evacuation.Evacuator) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	select {
	case <-ctx.Done():
	case <-signals:
		evacuator.Begin()
	}
	return nil
}

// collect publishes what operators watch of a cell.
func collect(tel *telemetry.Telemetry, exec *executor.Client, reconciler *reconcile.Reconciler, evacuator *evacuation.Evacuator) {
	gauge := func(name, help string, value func() float64) {
		tel.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("capacity_total_memory_mebibytes", "Memory that the cell offers.", func() float64 { return float64(exec.TotalResources().MemoryMB) })
	gauge("capacity_total_disk_mebibytes", "Disk that the cell offers.", func() float64 { return float64(exec.TotalResources().DiskMB) })
	gauge("capacity_total_containers", "Containers that the cell offers.", func() float64 { return float64(exec.TotalResources().Containers) })
	gauge("capacity_remaining_memory_mebibytes", "Memory that is not reserved.", func() float64 { return float64(exec.RemainingResources().MemoryMB) })
	gauge("capacity_remaining_disk_mebibytes", "Disk that is not reserved.", func() float64 { return float64(exec.RemainingResources().DiskMB) })
	gauge("capacity_remaining_containers", "Containers that are not reserved.", func() float64 { return float64(exec.RemainingResources().Containers) })
	gauge("container_count", "Containers in any state.", func() float64 { return float64(len(exec.ListContainers())) })
	gauge("cell_unhealthy", "1 while the container engine fails its check.", func() float64 {
		if healthy, _ := exec.Healthy(); healthy {
			return 0
		}
		return 1
	})
	tel.AddReadiness("garden", func() (any, error) {
		_, err := exec.Healthy()
		return nil, err
	})
	tel.AddReadiness("bulk_sync", func() (any, error) {
		at, problem := reconciler.LastRound()
		detail := map[string]string{"last": at.Format(time.RFC3339)}
		if problem != "" {
			return detail, errors.New(problem)
		}
		return detail, nil
	})
	tel.AddReadiness("evacuation", func() (any, error) {
		if evacuator.Evacuating() {
			return evacuator.Progress(), errors.New("the cell is evacuating")
		}
		return nil, nil
	})
}

// cleanMachine removes what the cell owns on this machine: containers, networks, rules, images and state. No rep may run.
func cleanMachine(ctx context.Context, cfg Config, log *slog.Logger) error {
	cfg.Garden.CellID, cfg.Garden.Log = cfg.Cell.ID, log
	engine, err := containerd.New(ctx, cfg.Garden)
	if err != nil {
		return fmt.Errorf("opening the container engine: %w", err)
	}
	if err := errors.Join(engine.Clean(ctx), engine.Close()); err != nil {
		return err
	}
	if err := os.RemoveAll(cfg.Executor.StateDir); err != nil {
		return fmt.Errorf("removing the state of cell %q: %w", cfg.Cell.ID, err)
	}
	log.InfoContext(ctx, "cleaned", "cell_id", cfg.Cell.ID)
	return nil
}

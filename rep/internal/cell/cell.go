// Package cell puts one cell together: the executor on an engine, the reconciler, the evacuator, the services and the
// presence, in the order in which they start and stop. A process may hold any number of cells.
//
// It makes nothing that cells of a process can share or that says whether a cell is real: the engine, the connections, the
// certificate and the telemetry are given to it, and their life is the caller's.
package cell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"diego.internal/executor"
	"diego.internal/executor/garden"
	"diego.internal/locket/lockclient"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/rep/internal/api"
	"diego.internal/rep/internal/applog"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/holdings"
	"diego.internal/rep/internal/reconcile"
	"diego.internal/rep/internal/work"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// HealthService is the name under which the gRPC health of a rep is asked for.
const HealthService = "rep.v1"

// workers is how many goroutines the listener of a cell keeps for calls, which come seldom. A process may host a thousand cells.
const workers = 4

// ErrEvacuated is why Run returns when the cell has been emptied. It is a success.
var ErrEvacuated = errors.New("the cell is evacuated")

// Config of a Cell; what is not said to be optional is required.
type Config struct {
	Description Description
	// Source is the certificate of the cell, which must name it, since the BBS believes nothing else.
	Source *mtls.Source
	// Listen is host:port of the API; port 0 lets the system choose.
	Listen string
	// BBS is a connection under the cell's certificate.
	BBS grpc.ClientConnInterface
	// Claims is where the cell is present, the store of Presence.Backend under the cell's certificate.
	Claims lockclient.Backend
	// Engine runs the containers, Preloaded are the root filesystems that it has.
	Engine    garden.Client
	Preloaded []string
	// Executor is the section executor; New fills in what identifies the cell.
	Executor   executor.Config
	Presence   PresenceConfig
	Reconcile  ReconcileConfig
	Evacuation EvacuationConfig
	// Telemetry takes log lines, metrics and readiness. Cells that share a process share the registry but get a Telemetry
	// each, or the readiness of one would replace that of another.
	Telemetry *telemetry.Telemetry
	// Simulated lets operators make the cell forget its containers (rep.v1.Operation/Reset). Optional.
	Simulated bool
}

// Cell is one cell.
type Cell struct {
	cfg          Config
	log          *slog.Logger
	exec         *executor.Client
	holdings     *holdings.Holdings
	evacuator    *evacuation.Evacuator
	reconciler   *reconcile.Reconciler
	finder       *applog.Finder
	server       *grpcserver.Server
	self         api.Cell
	registration *lockclient.Presence
}

// New opens the executor, which takes up the containers of an earlier run, and the listener. It blocks until the engine
// answers or ctx ends. Run must follow, or Close.
func New(ctx context.Context, cfg Config) (*Cell, error) {
	if id := cfg.Source.Identity(); id.Role != mtls.RoleCell || id.Name != cfg.Description.ID {
		return nil, fmt.Errorf("opening cell %q: its certificate is for %s", cfg.Description.ID, id)
	}
	c := &Cell{cfg: cfg, log: cfg.Telemetry.Log}
	cfg.Executor.CellID, cfg.Executor.Engine, cfg.Executor.Log = cfg.Description.ID, cfg.Engine, c.log
	rounds, err := roundDuration(cfg.Telemetry.Registry)
	if err != nil {
		return nil, err
	}
	if c.exec, err = executor.Open(ctx, cfg.Executor); err != nil {
		return nil, fmt.Errorf("opening the executor: %w", err)
	}
	c.server, err = grpcserver.New(grpcserver.Options{Source: cfg.Source, Allow: allow, Telemetry: cfg.Telemetry, Listen: cfg.Listen, Workers: workers})
	if err != nil {
		c.exec.Close()
		return nil, fmt.Errorf("listening: %w", err)
	}
	c.self = describe(cfg, c.server.Addr())
	c.assemble(rounds)
	c.addReadiness(cfg.Telemetry)
	return c, nil
}

// assemble makes the parts that only think.
func (c *Cell) assemble(rounds prometheus.Observer) {
	cfg := c.cfg
	c.finder = &applog.Finder{List: c.exec.ListContainers, Keep: cfg.Executor.LogRetention, Most: 1000}
	c.holdings = holdings.New(c.exec)
	c.evacuator = evacuation.New(evacuation.Config{
		Timeout: cfg.Evacuation.Timeout, Poll: min(cfg.Evacuation.Interval, time.Second), Containers: c.holdings.All, Log: c.log,
	})
	c.reconciler = reconcile.New(reconcile.Config{
		CellID: c.self.ID, Zone: c.self.Zone, Executor: c.exec,
		BBS: reconcile.BBS{
			Tasks: bbsv1.NewTasksClient(cfg.BBS), TaskCell: bbsv1.NewTaskCellClient(cfg.BBS), ActualLRPs: bbsv1.NewActualLRPsClient(cfg.BBS),
			Cell: bbsv1.NewActualLRPCellClient(cfg.BBS), Evacuation: bbsv1.NewEvacuationClient(cfg.BBS),
			Watch: bbsv1.NewWatchClient(cfg.BBS), DesiredLRPs: bbsv1.NewDesiredLRPsClient(cfg.BBS),
		},
		Interval: cfg.Reconcile.Interval, EvacuationInterval: cfg.Evacuation.Interval, Width: cfg.Reconcile.Width,
		Evacuating: c.evacuator.Evacuating, EvacuationStarted: c.evacuator.Started(),
		Log: c.log, Deleted: c.finder.Retire, Observe: func(took time.Duration) { rounds.Observe(took.Seconds()) },
	})
	c.evacuator.Abandon, c.evacuator.Untold, c.evacuator.Told = c.reconciler.Abandon, c.reconciler.Untold, c.reconciler.Told
	c.registration = lockclient.NewPresence(lockclient.PresenceConfig{
		Key: c.self.ID, Owner: c.self.ID, TTL: cfg.Presence.TTL, Incarnation: time.Now().UnixNano(),
		Value: presenceValue(c.self, c.exec), Backend: cfg.Claims, Log: c.log,
	})
}

func describe(cfg Config, listening string) api.Cell {
	d := cfg.Description
	self := api.Cell{
		ID: d.ID, Zone: d.Zone, Index: d.Index, Address: d.Address, Providers: work.Providers(cfg.Preloaded, d.RootFSProviders),
		PlacementTags: d.PlacementTags, OptionalTags: d.OptionalPlacementTags, StartingContainerCap: d.MaxStarting,
	}
	if self.Address == "" {
		self.Address = listening
	}
	return self
}

// Addr is the address that the API listens at.
func (c *Cell) Addr() string { return c.server.Addr() }

// Evacuate begins to empty the cell and returns. It may be repeated.
func (c *Cell) Evacuate() { c.evacuator.Begin() }

// Present says whether the cell offers itself to the auction now.
func (c *Cell) Present() bool { return c.registration.Held() }

// Close lets go of the containers of a cell that is not to run. A cell whose Run has returned is closed.
func (c *Cell) Close() { c.exec.Close() }

// Run works until ctx ends, which stops no container and leaves the presence to its TTL, or until the cell is evacuated; it
// returns nil or ErrEvacuated then. Any other error means that the cell cannot work.
func (c *Cell) Run(ctx context.Context) error {
	defer c.Close()
	group, ctx := errgroup.WithContext(ctx)
	c.register(ctx)
	group.Go(func() error { return c.exec.Run(ctx) })
	group.Go(func() error { return c.server.Run(ctx) })
	group.Go(func() error { return c.reconciler.Run(ctx) })
	group.Go(func() error { return c.beEvacuated(ctx) })
	group.Go(func() error { return c.offer(ctx) })
	return group.Wait()
}

// offer makes the cell known once the BBS knows what it holds.
func (c *Cell) offer(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.reconciler.Synced():
	}
	// From here on the auction may find this cell.
	c.server.SetServing(HealthService, true)
	return c.registration.Run(ctx)
}

// beEvacuated waits for the end of an evacuation. An empty cell disappears at once instead of after its TTL.
func (c *Cell) beEvacuated(ctx context.Context) error {
	if err := c.evacuator.Run(ctx); err != nil {
		return err
	}
	select {
	case <-c.evacuator.Done():
		c.registration.SetReleaseOnStop(true)
		return ErrEvacuated
	default:
		return nil
	}
}

package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"diego.internal/auctioneer/internal/api"
	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/batch"
	"diego.internal/auctioneer/internal/cells"
	"diego.internal/locket/lockclient"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// healthService is SERVING on the active auctioneer only.
const healthService = "auctioneer.v1"

// allow says who may call what.
var allow = grpcserver.Table{
	"/auctioneer.v1.Auctions/":     {mtls.RoleBBS},
	"/auctioneer.v1.Explanations/": {mtls.RoleOperator},
}

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("auctioneer", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return err
	}
	source, err := mtls.Load(cfg.GRPC.TLS)
	if err != nil {
		return err
	}
	stores := lockclient.NewStores(cfg.StoresConfig, source, tel)
	defer func() { _ = stores.Close() }()
	claims, err := stores.Open(cfg.Lock.Backend)
	if err != nil {
		return err
	}
	bbs, err := grpcclient.Dial(cfg.BBS, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1", Telemetry: tel,
		Once: []string{bbsv1.Placement_RejectTasks_FullMethodName},
	})
	if err != nil {
		return err
	}
	defer func() { _ = bbs.Close() }()
	server, err := grpcserver.New(grpcserver.Options{Source: source, Allow: allow, Telemetry: tel, Listen: cfg.GRPC.Listen})
	if err != nil {
		return err
	}

	// Everything can be reached from the start; only the holder of the lock works.
	var master mastership
	l := leader{cfg: cfg, tel: tel, bbs: bbs, server: server}
	l.queue, l.history = batch.NewQueue(cfg.Queue.Limit), batch.NewHistory()
	l.fleet = newFleet(cfg.Cells, bbs, source, tel)
	defer l.fleet.Close()
	tel.AddReadiness("cells", func() (any, error) { return l.fleet.Summary(), nil })
	auctioneerv1.RegisterAuctionsServer(server.GRPC(), api.NewAuctions(l.queue, master.held))
	auctioneerv1.RegisterExplanationsServer(server.GRPC(), api.NewExplanations(api.ExplanationsConfig{
		History: l.history, Queue: l.queue, Fleet: l.fleet, Options: l.options(), Active: master.held,
	}))
	server.SetServing("", true)
	server.SetServing(healthService, false)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tel.Run(ctx) })
	g.Go(func() error { return source.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		lock, err := lockclient.Acquire(ctx, lockclient.LockConfig{
			Key: "auctioneer", Owner: cfg.Lock.Owner, TTL: cfg.Lock.TTL, Value: []byte(server.Addr()),
			Backend: claims, Log: tel.Log, Metrics: tel.Registry, Readiness: tel.AddReadiness,
		})
		switch {
		case ctx.Err() != nil && err != nil:
			return nil //nolint:nilerr // asked to stop while waiting
		case err != nil:
			return err
		}
		master.lock.Store(lock)
		return l.run(ctx, lock)
	})
	tel.Started() //nolint:contextcheck // one log line
	return g.Wait()
}

// leader is the part of the process that runs while it holds the lock.
type leader struct {
	cfg     Config
	tel     *telemetry.Telemetry
	bbs     *grpc.ClientConn
	server  *grpcserver.Server
	queue   *batch.Queue
	history *batch.History
	fleet   *cells.Fleet
}

// run works until ctx ends or the lock is lost. At the end of ctx the lock is released
// only after the work has stopped, so that there are never two auctioneers.
func (l *leader) run(ctx context.Context, lock *lockclient.Lock) error {
	return lock.While(ctx, func(ctx context.Context) error { return l.work(ctx, lock.Valid) })
}

// work serves and places until ctx ends.
func (l *leader) work(ctx context.Context, active func() bool) error {
	placement := bbsv1.NewPlacementClient(l.bbs)
	reports := batch.NewReports(placement, l.tel.Log)
	loop := batch.NewLoop(batch.Config{
		Fleet: l.fleet, Queue: l.queue, Reports: reports, History: l.history, Options: l.options(),
		StateMaxAge: l.cfg.Cells.StateMaxAge, StaleLimit: l.cfg.Cells.StaleLimit, CommitDeadline: l.cfg.Cells.SoftDeadline,
		Active: active, Log: l.tel.Log, Registry: l.tel.Registry,
	})

	l.server.SetServing(healthService, true)
	defer l.server.SetServing(healthService, false)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return loop.Run(ctx) })
	g.Go(func() error { return reports.Run(ctx) })
	g.Go(func() error { return batch.Recover(ctx, placement, l.queue, l.tel.Log) })
	g.Go(func() error {
		<-ctx.Done()
		l.fleet.Close() // breaks off the calls that the loop waits for
		return nil
	})
	return g.Wait()
}

func (l *leader) options() auction.Options {
	return auction.Options{
		StartingWeight: l.cfg.Placement.StartingContainerWeight,
		BinPackWeight:  l.cfg.Placement.BinPackFirstFitWeight,
		InFlightLimit:  l.cfg.Placement.StartingContainerCountMaximum,
	}
}

// newFleet makes the view of the cells. Each must prove by its certificate that it is
// the cell that its presence names.
func newFleet(cfg CellsConfig, bbs *grpc.ClientConn, source *mtls.Source, tel *telemetry.Telemetry) *cells.Fleet {
	return cells.New(cells.Config{
		Lister: bbsv1.NewCellsClient(bbs),
		Connect: func(cellID, address string) (cells.Connection, error) {
			conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
				Source: source, Server: mtls.Peer{Role: mtls.RoleCell, Name: cellID}, Telemetry: tel,
			})
			if err != nil {
				return cells.Connection{}, fmt.Errorf("dialing cell %q: %w", cellID, err)
			}
			return cells.Connect(conn), nil
		},
		StateTimeout: cfg.StateTimeout, PerformTimeout: cfg.PerformTimeout,
		SoftDeadline: cfg.SoftDeadline, StaleLimit: cfg.StaleLimit, Workers: cfg.Workers,
		Log: tel.Log, Registry: tel.Registry,
	})
}

// mastership tells whether this process is the auctioneer.
type mastership struct {
	lock atomic.Pointer[lockclient.Lock]
}

func (m *mastership) held() bool {
	lock := m.lock.Load()
	return lock != nil && lock.Valid()
}

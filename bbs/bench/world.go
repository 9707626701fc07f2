package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/codec"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
	"diego.internal/servicekit/telemetry"
)

const (
	callers  = 50
	watchers = 100
	cells    = 1000
	// operators is how many connections the callers share that are not cells.
	operators = 4

	trustDomain = "bench.internal"
	startLimit  = 30 * time.Second
	// presenceTTL is the longest that locket allows, presenceRenewal well within it.
	presenceTTL     = 5 * time.Minute
	presenceRenewal = 2 * time.Minute
)

type worldConfig struct {
	folder      string
	profiles    string // folder; "" for none
	n           int    // LRPs
	bbs, locket string // databases
}

// world is a BBS and everybody whom it needs and who calls it.
type world struct {
	cfg        worldConfig
	n          int
	ca         *authority.Authority
	locket     *process
	bbs        *process   // the active one
	started    []*process // all BBSs, the newest last
	auctioneer string     // address
	cancel     context.CancelFunc
	background sync.WaitGroup

	operators []*grpc.ClientConn
	cellConns []*grpc.ClientConn
	others    []*grpc.ClientConn
}

// startWorld returns a world that is to be stopped even if there is an error.
func startWorld(ctx context.Context, cfg worldConfig) (*world, error) {
	w := &world{cfg: cfg, n: cfg.n, cancel: func() {}}
	limited, done := context.WithTimeoutCause(ctx, 4*startLimit, errors.New("the world took too long to start"))
	defer done()
	for _, step := range []func(context.Context) error{
		w.prepare, w.startAuctioneer, w.startLocket, w.registerCells, w.startFirst, w.connect,
	} {
		if err := step(limited); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (w *world) prepare(ctx context.Context) error {
	var err error
	if w.ca, err = authority.New(trustDomain, 24*time.Hour); err != nil {
		return err
	}
	if err := authority.WriteFile(w.caFile(), w.ca.PEM(), 0o600); err != nil {
		return err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	if err := os.WriteFile(filepath.Join(w.cfg.folder, "key"), []byte(hex.EncodeToString(secret)), 0o600); err != nil {
		return err
	}
	return build(ctx, w.cfg.folder)
}

func (w *world) caFile() string { return filepath.Join(w.cfg.folder, "ca.crt") }

// issue makes the certificate of somebody.
func (w *world) issue(role, name string) (mtls.Config, error) {
	base := filepath.Join(w.cfg.folder, role+"-"+name)
	files := mtls.Config{Certificate: base + ".crt", Key: base + ".key"}
	err := w.ca.Issue(authority.Leaf{Identity: mtls.Identity{TrustDomain: trustDomain, Role: role, Name: name}, Lifetime: 12 * time.Hour}, files)
	files.CA = w.caFile()
	return files, err
}

// dial connects somebody to a server. It is gRPC without what the product's client adds, balancing, retries and metrics, and with
// small buffers, because callers and callee share the processors.
func (w *world) dial(ctx context.Context, role, name, server, address string) (*grpc.ClientConn, error) {
	files, err := w.issue(role, name)
	if err != nil {
		return nil, err
	}
	source, err := mtls.Load(files)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(source.ClientConfig(mtls.Peer{Role: server}))),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcserver.MaxMessage), grpc.ForceCodecV2(codec.New())),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithReadBufferSize(8<<10), grpc.WithWriteBufferSize(8<<10))
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", server, err)
	}
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return nil, errors.Join(fmt.Errorf("connecting %s-%s to %s: %w", role, name, server, context.Cause(ctx)), conn.Close())
		}
	}
	return conn, nil
}

// acceptAll is an auctioneer that accepts every auction and places nothing.
type acceptAll struct {
	auctioneerv1.UnimplementedAuctionsServer
}

func (acceptAll) RequestLRPAuctions(context.Context, *auctioneerv1.RequestLRPAuctionsRequest) (*auctioneerv1.RequestLRPAuctionsResponse, error) {
	return &auctioneerv1.RequestLRPAuctionsResponse{}, nil
}

func (w *world) startAuctioneer(ctx context.Context) error {
	files, err := w.issue(mtls.RoleAuctioneer, "")
	if err != nil {
		return err
	}
	source, err := mtls.Load(files)
	if err != nil {
		return err
	}
	server, err := grpcserver.New(grpcserver.Options{
		Source: source, Allow: grpcserver.Table{"/auctioneer.v1.Auctions/": {mtls.RoleBBS}}, Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
	})
	if err != nil {
		return err
	}
	auctioneerv1.RegisterAuctionsServer(server.GRPC(), acceptAll{})
	server.SetServing("auctioneer.v1", true)
	w.auctioneer = server.Addr()
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	w.background.Go(func() { _ = server.Run(serving) }) // its end is the end of the world
	return nil
}

// startLocket starts the lock service and waits until it serves.
func (w *world) startLocket(ctx context.Context) error {
	var err error
	w.locket, err = w.spawn(ctx, "locket", mtls.RoleLocket, w.cfg.locket, "")
	return err
}

// spawn starts a process of the product with the sections that all have.
func (w *world) spawn(ctx context.Context, name, program, database, more string) (*process, error) {
	files, err := w.issue(program, "")
	if err != nil {
		return nil, err
	}
	listen, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	debug, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, err := spawn(name, filepath.Join(w.cfg.folder, program), fmt.Sprintf(`
debug: {listen: %q}
grpc: {listen: %q, tls: {ca: %q, certificate: %q, key: %q}}
database: {connection_string: %q}
%s`, debug, listen, files.CA, files.Certificate, files.Key, database, more))
	if err != nil {
		return nil, err
	}
	p.address, p.debug = listen, debug
	return p, nil
}

// registerCells makes the presences of all cells, without which the BBS would take their instances for lost, and keeps them.
func (w *world) registerCells(ctx context.Context) error {
	conn, err := w.dial(ctx, mtls.RoleOperator, "locket", mtls.RoleLocket, w.locket.address)
	if err != nil {
		return fmt.Errorf("%w: %s", err, w.locket.lastLines())
	}
	w.others = append(w.others, conn)
	client := locketv1.NewLocketClient(conn)
	err = w.locket.poll(ctx, func() (bool, error) { return lockCell(ctx, client, 0) == nil, nil })
	if err == nil {
		err = lockCells(ctx, client)
	}
	if err != nil {
		return fmt.Errorf("registering the cells: %w", err)
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	before := w.cancel
	w.cancel = func() { cancel(); before() }
	w.background.Go(func() {
		ticker := time.NewTicker(presenceRenewal)
		defer ticker.Stop()
		for {
			select {
			case <-keeping.Done():
				return
			case <-ticker.C:
				_ = lockCells(keeping, client) // an expired cell shows as a row that differs, or fails
			}
		}
	})
	return nil
}

func lockCells(ctx context.Context, client locketv1.LocketClient) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(callers)
	for i := range cells {
		g.Go(func() error { return lockCell(ctx, client, i) })
	}
	return g.Wait()
}

func lockCell(ctx context.Context, client locketv1.LocketClient, i int) error {
	value, err := protojson.Marshal(&workloadv1.CellPresence{
		CellId: cellName(i), RepAddress: "127.0.0.1:1", Zone: "z1",
		Capacity: &workloadv1.CellCapacity{MemoryMb: 1 << 20, DiskMb: 1 << 20, Containers: 1000},
	})
	if err != nil {
		return err
	}
	_, err = client.Lock(ctx, &locketv1.LockRequest{
		Claim: &locketv1.Claim{Key: cellName(i), Owner: cellName(i), Value: string(value), Type: locketv1.ClaimType_CLAIM_TYPE_PRESENCE},
		Ttl:   durationpb.New(presenceTTL), Incarnation: 1,
	})
	return err
}

// startBBS starts one more BBS; the first becomes active, others are standbys.
func (w *world) startBBS(ctx context.Context, name, convergence string) (*process, error) {
	p, err := w.spawn(ctx, name, mtls.RoleBBS, w.cfg.bbs, fmt.Sprintf(`
locket: {addresses: [%q]}
auctioneer: {addresses: [%q]}
lock: {owner: %q}
encryption: {active_key: bench, keys: [{label: bench, file: %q}]}
convergence: {interval: %s}
`, w.locket.address, w.auctioneer, name, filepath.Join(w.cfg.folder, "key"), convergence))
	if err == nil {
		w.started = append(w.started, p)
	}
	return p, err
}

func (w *world) startFirst(ctx context.Context) error {
	var err error
	if w.bbs, err = w.startBBS(ctx, "bbs-1", "30s"); err != nil {
		return err
	}
	conn, err := w.dialBBS(ctx, w.bbs, "first")
	if err != nil {
		return fmt.Errorf("%w: %s", err, w.bbs.lastLines())
	}
	return w.bbs.poll(ctx, func() (bool, error) {
		_, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
		return err == nil, nil
	})
}

func (w *world) dialBBS(ctx context.Context, p *process, operator string) (*grpc.ClientConn, error) {
	conn, err := w.dial(ctx, mtls.RoleOperator, operator, mtls.RoleBBS, p.address)
	if err == nil {
		w.others = append(w.others, conn)
	}
	return conn, err
}

// connect makes the connections of all callers, so that no pass pays for handshakes.
func (w *world) connect(ctx context.Context) error {
	w.operators, w.cellConns = make([]*grpc.ClientConn, operators), make([]*grpc.ClientConn, cells)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(callers)
	for i := range w.operators {
		g.Go(func() (err error) {
			w.operators[i], err = w.dial(ctx, mtls.RoleOperator, fmt.Sprint("bench-", i), mtls.RoleBBS, w.bbs.address)
			return err
		})
	}
	for i := range w.cellConns {
		g.Go(func() (err error) {
			w.cellConns[i], err = w.dial(ctx, mtls.RoleCell, cellName(i), mtls.RoleBBS, w.bbs.address)
			return err
		})
	}
	return g.Wait()
}

// disconnect ends the connections of all callers.
func (w *world) disconnect() {
	for _, conns := range [...][]*grpc.ClientConn{w.operators, w.cellConns, w.others} {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close() // nothing is under way
			}
		}
	}
	w.operators, w.cellConns, w.others = nil, nil, nil
}

// stop ends everything.
func (w *world) stop() error {
	var errs []error
	for _, p := range w.started {
		errs = append(errs, p.stop())
	}
	w.cancel()
	w.disconnect()
	w.background.Wait()
	if w.locket != nil {
		errs = append(errs, w.locket.stop())
	}
	return errors.Join(errs...)
}

// Package simulationtest is what surrounds an auctioneer, for its tests: cells, a BBS and a
// locket that keep their state in memory and speak the real protocol over mutual TLS.
// They refuse what the real ones refuse; how they fail is up to the test.
package simulationtest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"diego.internal/auctioneer/internal/cells"
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// World is one installation. Everything in it stops with the test.
type World struct {
	tb        testing.TB
	Authority *mtlstest.Authority
	BBS       *BBS
	Locket    *Locket
	// Source is the certificate of an auctioneer.
	Source *mtls.Source

	mu    sync.Mutex
	cells map[string]*Cell
}

// New makes a world without cells.
func New(tb testing.TB) *World {
	tb.Helper()
	w := &World{tb: tb, Authority: mtlstest.NewAuthority(tb), cells: map[string]*Cell{}}
	w.Source = w.Authority.Source(mtls.Identity{Role: mtls.RoleAuctioneer})
	w.BBS = &BBS{world: w, Failures: map[string]string{}, Rejections: map[string][]string{}}
	w.BBS.Address = w.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1", grpcserver.Table{
		"/bbs.v1.Cells/": {mtls.RoleAuctioneer}, "/bbs.v1.Placement/": {mtls.RoleAuctioneer},
	}, func(r grpc.ServiceRegistrar) {
		bbsv1.RegisterCellsServer(r, w.BBS)
		bbsv1.RegisterPlacementServer(r, w.BBS)
	})
	w.Locket = &Locket{locks: map[string]*locketv1.Held{}}
	w.Locket.Address = w.serve(mtls.Identity{Role: mtls.RoleLocket}, "locket.v1", grpcserver.Table{
		"/locket.v1.Locket/": {mtls.RoleAuctioneer},
	}, func(r grpc.ServiceRegistrar) { locketv1.RegisterLocketServer(r, w.Locket) })
	return w
}

// AddCells adds n standard cells: cell i is named cell-NNN and in zone i mod 2.
func (w *World) AddCells(n int) []*Cell {
	w.tb.Helper()
	out := make([]*Cell, n)
	for i := range out {
		id := fmt.Sprintf("cell-%03d", i)
		c := newCell(id, fmt.Sprintf("z%d", i%2), i)
		c.Address = w.serve(mtls.Identity{Role: mtls.RoleCell, Name: id}, "rep.v1", grpcserver.Table{
			"/rep.v1.Auction/": {mtls.RoleAuctioneer},
		}, func(r grpc.ServiceRegistrar) { repv1.RegisterAuctionServer(r, c) })
		w.mu.Lock()
		w.cells[id] = c
		w.mu.Unlock()
		out[i] = c
	}
	return out
}

// RemoveCell ends the presence of a cell; its process lives on.
func (w *World) RemoveCell(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cells, id)
}

// serve runs a server until the end of the test and returns its address.
func (w *World) serve(id mtls.Identity, service string, allow grpcserver.Table, register func(grpc.ServiceRegistrar)) string {
	w.tb.Helper()
	server, err := grpcserver.New(grpcserver.Options{
		Source: w.Authority.Source(id), Allow: allow, Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
	})
	require.NoError(w.tb, err)
	register(server.GRPC())
	server.SetServing(service, true)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	w.tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.tb.Errorf("serving %s: %v", service, err)
		}
	})
	return server.Addr()
}

// DialBBS connects to the BBS as the auctioneer.
func (w *World) DialBBS() *grpc.ClientConn {
	w.tb.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{w.BBS.Address}}, grpcclient.Options{
		Source: w.Source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1",
	})
	require.NoError(w.tb, err)
	w.tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// DialAuctioneers connects in the given role to whichever of the auctioneers is active.
func (w *World) DialAuctioneers(role string, addresses ...string) *grpc.ClientConn {
	w.tb.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: addresses}, grpcclient.Options{
		Source: w.Authority.Source(mtls.Identity{Role: role, Name: nameOf[role]}), Server: mtls.Peer{Role: mtls.RoleAuctioneer},
		HealthService: "auctioneer.v1",
	})
	require.NoError(w.tb, err)
	w.tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// nameOf has the roles whose identities need a name.
var nameOf = map[string]string{mtls.RoleOperator: "ann"}

// Connect opens a connection to a cell, as cells.Config wants it.
func (w *World) Connect(cellID, address string) (cells.Connection, error) {
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
		Source: w.Source, Server: mtls.Peer{Role: mtls.RoleCell, Name: cellID},
	})
	if err != nil {
		return cells.Connection{}, err
	}
	return cells.Connect(conn), nil
}

// Package lockettest runs locket servers for tests: the real service, over mutual TLS, on a real
// database. It does not run the process; package main of cmd/locket adds configuration and signals.
package lockettest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"

	"diego.internal/locket/internal/api"
	"diego.internal/locket/internal/store"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgrestest"
	"diego.internal/servicekit/telemetry"
)

// Migrate makes the schema of locket, for postgrestest.New.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error { return store.Migrate(ctx, pool) }

// Config says what to start a server with. What is zero is made.
type Config struct {
	CA       *mtlstest.Authority
	Database string // connection string of a migrated database
	Listen   string // default 127.0.0.1:0; give the Addr of a stopped server to start it again
}

// Server is a running locket. It stops at the end of the test at the latest.
type Server struct {
	CA       *mtlstest.Authority
	Database string
	addr     string
	cancel   context.CancelCauseFunc
	done     chan error
	pool     *pgxpool.Pool
}

var errStopped = errors.New("stopped by the test")

// Start runs a server, which begins to serve as soon as its database answers.
func Start(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if cfg.CA == nil {
		cfg.CA = mtlstest.NewAuthority(tb)
	}
	if cfg.Database == "" {
		cfg.Database = postgrestest.URL(postgrestest.New(tb, Migrate))
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	tel := telemetry.Discard()
	pool, err := postgres.Open(tb.Context(), postgres.Config{ConnectionString: cfg.Database})
	if err != nil {
		tb.Fatalf("opening the database of a locket: %v", err)
	}
	st := store.New(store.Config{Pool: pool, Log: tel.Log, Metrics: tel.Registry})
	server, err := grpcserver.New(grpcserver.Options{
		Source: cfg.CA.Source(mtls.Identity{Role: mtls.RoleLocket}), Allow: api.Access(), Telemetry: tel, Listen: cfg.Listen,
	})
	if err != nil {
		pool.Close()
		tb.Fatalf("starting a locket: %v", err)
	}
	api.Register(server.GRPC(), st)
	server.SetServing(api.HealthService, false)

	ctx, cancel := context.WithCancelCause(context.WithoutCancel(tb.Context()))
	s := &Server{CA: cfg.CA, Database: cfg.Database, addr: server.Addr(), cancel: cancel, done: make(chan error, 2), pool: pool}
	go func() { s.done <- server.Run(ctx) }()
	go func() { s.done <- st.Run(ctx, func(ok bool) { server.SetServing(api.HealthService, ok) }) }()
	tb.Cleanup(func() { s.Stop(tb) })
	return s
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.addr }

// Stop ends the server, as a signal would. It may be repeated.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	if s.pool == nil {
		return
	}
	s.cancel(errStopped)
	for range cap(s.done) {
		if err := <-s.done; err != nil {
			tb.Errorf("running a locket: %v", err)
		}
	}
	s.pool.Close()
	s.pool = nil
}

// Dial connects as id to the servers, which must have one CA. The connection is closed at the end of
// the test.
func Dial(tb testing.TB, id mtls.Identity, servers ...*Server) *grpc.ClientConn {
	tb.Helper()
	var cfg grpcclient.Config
	for _, s := range servers {
		cfg.Addresses = append(cfg.Addresses, s.Addr())
	}
	conn, err := grpcclient.Dial(cfg, grpcclient.Options{
		Source: servers[0].CA.Source(id), Server: mtls.Peer{Role: mtls.RoleLocket}, HealthService: api.HealthService,
		Telemetry: telemetry.Discard(),
	})
	if err != nil {
		tb.Fatalf("dialing locket: %v", err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Errorf("closing a connection to locket: %v", err)
		}
	})
	return conn
}

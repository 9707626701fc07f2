// Package natstest runs a real NATS server with mutual TLS inside a test, for the router and for the route emitters that talk to it.
package natstest

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// Server is a NATS server that can be stopped and started again on its port.
type Server struct {
	tb        testing.TB
	authority *mtlstest.Authority
	source    *mtls.Source
	port      int
	running   *server.Server
}

// Start runs a server whose certificate comes from authority, until the test ends.
func Start(tb testing.TB, authority *mtlstest.Authority) *Server {
	tb.Helper()
	s := &Server{tb: tb, authority: authority, source: authority.Source(mtls.Identity{Role: mtls.RoleNATS}), port: server.RANDOM_PORT}
	s.Restart()
	tb.Cleanup(s.Stop)
	return s
}

// Restart starts the stopped server, on the port it had.
func (s *Server) Restart() {
	s.tb.Helper()
	cfg := s.source.ServerConfig()
	running, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: s.port, NoLog: true, NoSigs: true,
		TLS: true, TLSVerify: true, TLSConfig: cfg, TLSTimeout: 5,
	})
	require.NoError(s.tb, err, "making a nats server")
	running.Start()
	require.True(s.tb, running.ReadyForConnections(10*time.Second), "nats server does not accept connections")
	s.running = running
	addr, ok := running.Addr().(*net.TCPAddr)
	require.True(s.tb, ok, "nats listens on %v", running.Addr())
	s.port = addr.Port
}

// Stop ends the server and with it all connections. Stopping twice does nothing.
func (s *Server) Stop() {
	if s.running == nil {
		return
	}
	s.running.Shutdown()
	s.running.WaitForShutdown()
	s.running = nil
}

// Disconnect cuts the clients whose name begins with prefix; they may come back at once.
func (s *Server) Disconnect(prefix string) {
	s.tb.Helper()
	all, err := s.running.Connz(nil)
	require.NoError(s.tb, err)
	cut := 0
	for _, c := range all.Conns {
		if strings.HasPrefix(c.Name, prefix) {
			require.NoError(s.tb, s.running.DisconnectClientByID(c.Cid))
			cut++
		}
	}
	require.Positive(s.tb, cut, "no client is called %s", prefix)
}

// Address is the "host:port" of the server.
func (s *Server) Address() string {
	return s.running.Addr().String()
}

// Connect returns a connection of its own with a certificate for role, closed when the test ends.
func (s *Server) Connect(role string) *nats.Conn {
	s.tb.Helper()
	source := s.authority.Source(mtls.Identity{Role: role})
	nc, err := nats.Connect("tls://"+s.Address(), nats.Secure(source.ClientConfig(mtls.Peer{Role: mtls.RoleNATS})))
	require.NoError(s.tb, err, "connecting to nats")
	s.tb.Cleanup(nc.Close)
	return nc
}

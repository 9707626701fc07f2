package simulated

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
)

func TestDialAnswersHealthChecks(t *testing.T) {
	t.Parallel()
	engine := New(Config{})
	c, err := engine.Create(t.Context(), garden.ContainerSpec{Handle: "h"})
	require.NoError(t, err)
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	tcp := healthcheck.TCP(engine.Dial, info.ContainerIP, 8080, time.Second)
	http := healthcheck.NewHTTP(engine.Dial).Probe(info.ContainerIP, 8080, "/health", time.Second)
	require.ErrorContains(t, tcp(t.Context()), "connection refused", "no process runs")

	p, err := c.Run(t.Context(), garden.ProcessSpec{ID: "p", Path: "x"}, garden.ProcessIO{})
	require.NoError(t, err)
	require.NoError(t, tcp(t.Context()))
	require.NoError(t, http(t.Context()))
	require.NoError(t, http(t.Context()), "each check has a connection of its own")

	require.NoError(t, p.Signal(t.Context(), garden.SignalKill))
	require.ErrorContains(t, http(t.Context()), "connection refused", "the process has ended")
	require.NoError(t, engine.Destroy(t.Context(), "h"))
	_, err = engine.Dial(t.Context(), "tcp", net.JoinHostPort(info.ContainerIP, "8080"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestConnThatNobodyAsks(t *testing.T) {
	t.Parallel()
	engine := New(Config{})
	c, err := engine.Create(t.Context(), garden.ContainerSpec{Handle: "h"})
	require.NoError(t, err)
	_, err = c.Run(t.Context(), garden.ProcessSpec{ID: "p", Path: "x"}, garden.ProcessIO{})
	require.NoError(t, err)
	info, err := c.Info(t.Context())
	require.NoError(t, err)
	conn, err := engine.Dial(t.Context(), "tcp", net.JoinHostPort(info.ContainerIP, "1"))
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	require.NoError(t, conn.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed, "closing ends a read")
	_, err = conn.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

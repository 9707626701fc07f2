package lockclient_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/consultest"
	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
	"diego.internal/locket/lockettest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgrestest"
)

var operator = mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}

// lockets starts n servers on one database.
func lockets(t *testing.T, n int) []*lockettest.Server {
	t.Helper()
	cfg := lockettest.Config{CA: mtlstest.NewAuthority(t), Database: postgrestest.URL(postgrestest.New(t, lockettest.Migrate))}
	var servers []*lockettest.Server
	for range n {
		servers = append(servers, lockettest.Start(t, cfg))
	}
	return servers
}

// Through a connection to two servers, so that each call may land on either.
func TestLocketIsABackend(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) lockclient.Backend {
		t.Helper()
		return lockclient.NewLocket(lockettest.Dial(t, operator, lockets(t, 2)...))
	})
}

// All cases share a server, under prefixes of their own.
func TestConsulIsABackend(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{SessionTTLMin: time.Second})
	var stores atomic.Int64
	backendtest.Run(t, func(t *testing.T) lockclient.Backend {
		t.Helper()
		cfg := server.Client()
		cfg.Prefix = fmt.Sprintf("suite-%d/", stores.Add(1))
		return consulBackend(t, cfg)
	})
}

func consulBackend(t *testing.T, cfg lockclient.ConsulConfig) lockclient.Backend {
	t.Helper()
	require.NoError(t, cfg.Validate())
	backend, closeIdle, err := lockclient.NewConsul(cfg)
	require.NoError(t, err)
	t.Cleanup(closeIdle)
	return backend
}

func TestMemoryIsABackend(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(*testing.T) lockclient.Backend { return backendtest.NewMemory() })
}

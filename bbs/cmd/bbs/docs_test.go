package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockettest"
	"diego.internal/servicekit/docstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgrestest"
)

func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	docstest.Configuration[Config](t, "bbs")
}

// TestMetricsAreDocumented runs the whole process until it has registered everything.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	locket := lockettest.Start(t, lockettest.Config{})
	tls := locket.CA.Issue(mtls.Identity{Role: mtls.RoleBBS})
	key, file := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "bbs.yml")
	require.NoError(t, os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600))
	debug := docstest.FreeAddress(t)
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
log: {level: error}
debug: {listen: %q}
grpc: {listen: "127.0.0.1:0", tls: {ca: %s, certificate: %s, key: %s}}
database: {connection_string: %q}
locket: {addresses: [%q]}
auctioneer: {addresses: ["127.0.0.1:1"]}
lock: {owner: bbs-1}
encryption: {active_key: a, keys: [{label: a, file: %s}]}
`, debug, tls.CA, tls.Certificate, tls.Key, postgrestest.URL(postgrestest.New(t, nil)), locket.Addr(), key)), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-config", file}) }()
	names := docstest.FetchMetrics(t, debug, "lock_held")
	stop()
	require.NoError(t, <-ended)
	docstest.Metrics(t, names, "gRPC servers", "gRPC clients", "Databases", "Locks", "bbs")
}

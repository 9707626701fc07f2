package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/docstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgrestest"
)

func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	docstest.Configuration[Config](t, "locket")
}

// TestMetricsAreDocumented runs the whole process until it has registered everything.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	tls := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleLocket})
	debug, file := docstest.FreeAddress(t), filepath.Join(t.TempDir(), "locket.yml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
log: {level: error}
debug: {listen: %q}
grpc: {listen: "127.0.0.1:0", tls: {ca: %s, certificate: %s, key: %s}}
database: {connection_string: %q}
`, debug, tls.CA, tls.Certificate, tls.Key, postgrestest.URL(postgrestest.New(t, nil)))), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-config", file}) }()
	names := docstest.FetchMetrics(t, debug, "request_latency_seconds") // of the server, which comes after the store
	stop()
	require.NoError(t, <-ended)
	docstest.Metrics(t, names, "gRPC servers", "Databases", "locket")
}

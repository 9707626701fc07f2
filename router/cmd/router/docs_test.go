package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/docstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	docstest.Configuration[Config](t, "router")
}

// TestMetricsAreDocumented runs the whole process. NATS is not there, which no metric depends on.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleRouter})
	debug := docstest.FreeAddress(t)
	file := write(t, fmt.Sprintf(`
log: {level: error}
debug: {listen: %q}
nats: {addresses: ["127.0.0.1:1"]}
tls: {ca: %s, certificate: %s, key: %s}
drain: {wait: 0s, timeout: 1s}
`, debug, files.CA, files.Certificate, files.Key))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-config", file}) }()
	names := docstest.FetchMetrics(t, debug, "access_log_failures")
	stop()
	require.NoError(t, <-ended)
	docstest.Metrics(t, names, "router")
}

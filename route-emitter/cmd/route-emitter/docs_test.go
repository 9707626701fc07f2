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
	docstest.Configuration[Config](t, "route-emitter")
}

// TestMetricsAreDocumented runs the whole process in both modes. Its peers are not there, which no metric depends on.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell-1"})
	tests := map[string]struct {
		mode, last string
		headings   []string
	}{
		"of a cell":    {"cell_id: cell-1", "address_collisions", []string{"gRPC clients", "route-emitter"}},
		"of all cells": {"locket: {addresses: [\"127.0.0.1:1\"]}\nlock: {owner: one}", "lock_held", []string{"gRPC clients", "Locks", "route-emitter"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			debug := docstest.FreeAddress(t)
			file := write(t, fmt.Sprintf(`
log: {level: error}
debug: {listen: %q}
bbs: {addresses: ["127.0.0.1:1"]}
nats: {addresses: ["127.0.0.1:1"]}
tls: {ca: %s, certificate: %s, key: %s}
%s
`, debug, files.CA, files.Certificate, files.Key, test.mode))
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, []string{"-config", file}) }()
			names := docstest.FetchMetrics(t, debug, test.last)
			stop()
			require.NoError(t, <-ended)
			docstest.Metrics(t, names, test.headings...)
		})
	}
}

package main

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/auctioneer/internal/simulationtest"
	"diego.internal/servicekit/docstest"
)

func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	docstest.Configuration[Config](t, "auctioneer")
}

// TestMetricsAreDocumented runs the whole process until it has registered everything.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	debug, file := docstest.FreeAddress(t), writeConfig(t, world, freeAddress(t), "first")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(text, "debug: {listen: \""+debug+"\"}\n"...), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-config", file}) }()
	names := docstest.FetchMetrics(t, debug, "auctioneer_performs_unanswered_total") // of the loop, which the lock lets begin
	stop()
	require.NoError(t, <-ended)
	docstest.Metrics(t, names, "gRPC servers", "gRPC clients", "Locks", "auctioneer")
}

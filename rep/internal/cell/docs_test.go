package cell

import (
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	"diego.internal/servicekit/docstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// TestMetricsAreDocumented registers what a rep with one cell does.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.New("rep", telemetry.Config{Debug: telemetry.DebugConfig{Listen: "127.0.0.1:0"}})
	require.NoError(t, err)
	mtlstest.NewAuthority(t).Source(mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"}).Observe(tel)
	c := metricsCell(t)
	AwaitEngine(tel, &executor.Stall{})
	_, err = roundDuration(tel.Registry)
	require.NoError(t, err)
	ShowMetrics(tel.Registry, func() []*Cell { return []*Cell{c} })
	ShowContainers(tel.Registry, c, nil)
	names, err := tel.MetricNames()
	require.NoError(t, err)
	docstest.Metrics(t, names, "rep")
}

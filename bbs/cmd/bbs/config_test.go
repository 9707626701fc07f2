package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// load reads a configuration with the sections that are required, and more.
func load(t *testing.T, more string) (Config, error) {
	t.Helper()
	tls := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleBBS})
	text := `
grpc: {tls: {ca: ` + tls.CA + `, certificate: ` + tls.Certificate + `, key: ` + tls.Key + `}}
database: {connection_string: "host=/nowhere"}
locket: {addresses: ["127.0.0.1:1"]}
auctioneer: {addresses: ["127.0.0.1:2"]}
encryption: {active_key: a, keys: [{label: a, file: /keys/a}]}
` + more
	if !strings.Contains(more, "lock:") {
		text += "\nlock: {owner: bbs-1}\n"
	}
	file := filepath.Join(t.TempDir(), "bbs.yml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return config.Load[Config]([]string{"-config", file})
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, "")
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0:8889", cfg.GRPC.Listen)
	require.Equal(t, 30*time.Second, cfg.Convergence.Interval)
	require.Equal(t, 30*time.Second, cfg.Tasks.Kick)
	require.Equal(t, 2*time.Minute, cfg.Tasks.ExpireCompleted)
	require.Equal(t, 30*time.Minute, cfg.Tasks.ExpirePending)
	require.Equal(t, int32(3), cfg.Tasks.MaxRetries)
	require.InDelta(t, 0.5, cfg.Convergence.BrakeShare, 0)
	require.Equal(t, time.Hour, cfg.Watch.MinAge)
	require.Equal(t, int64(1_000_000), cfg.Watch.MinEvents)
	require.Equal(t, 5*time.Second, cfg.Lock.TTL)
}

func TestConfigWantsTheStoresThatItChooses(t *testing.T) {
	t.Parallel()
	for _, section := range []string{"presences: {backend: consul}", "lock: {owner: bbs-1, backend: consul}"} {
		_, err := load(t, section)
		require.ErrorContains(t, err, "consul: is missing", section)
	}
}

func TestConfigNamesAllProblems(t *testing.T) {
	t.Parallel()
	_, err := load(t, `
convergence: {interval: 0s, brake_share: 2}
tasks: {max_retries: 0}
writer: {max_bach: 3}
watch: {bookmark: 1m}
presences: {backend: etcd}
`)
	require.Error(t, err)
	for _, want := range []string{"interval", "brake_share", "max_bach", "max_retries", "bookmark", "backend"} {
		require.ErrorContains(t, err, want)
	}
}

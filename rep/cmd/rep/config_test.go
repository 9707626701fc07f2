package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

const whole = `
cell: {id: cell-1, zone: z1}
grpc: {listen: "127.0.0.1:0", tls: {ca: $ca, certificate: $certificate, key: $key}}
bbs: {addresses: ["127.0.0.1:8889"]}
locket: {addresses: ["127.0.0.1:8891"]}
executor: {state_dir: /var/vcap/executor}
garden:
  state_folder: /var/vcap/garden
  external_ip: 10.0.0.1
  init_binary: /usr/bin/garden-init
  logger_binary: /usr/bin/garden-logger
  preloaded_rootfs: {cflinuxfs4: /var/vcap/cflinuxfs4}
`

func load(t *testing.T, text string, flags ...string) (Config, error) {
	t.Helper()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"})
	text = strings.NewReplacer("$ca", files.CA, "$certificate", files.Certificate, "$key", files.Key).Replace(text)
	file := filepath.Join(t.TempDir(), "rep.yml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return config.Load[Config](append([]string{"-config", file}, flags...))
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, whole)
	require.NoError(t, err)
	require.Equal(t, 5*time.Second, cfg.Presence.TTL)
	require.Equal(t, 30*time.Second, cfg.Reconcile.Interval)
	require.Equal(t, 10*time.Minute, cfg.Evacuation.Timeout)
	require.Equal(t, []string{"docker"}, cfg.Cell.RootFSProviders)
	require.Equal(t, []string{"container_cpu_entitlement_percent"}, cfg.Metrics.ExcludeContainer)
	require.Equal(t, 15*time.Second, cfg.Executor.MetricsInterval)
	require.Equal(t, 10*time.Second, cfg.Evacuation.Interval)
	require.Equal(t, 10*time.Second, cfg.Executor.GraceTime, "the executor's section has the executor's defaults")
	_, err = load(t, whole, "-check")
	require.ErrorIs(t, err, config.ErrDone)
}

// TestConfigNamesEveryMistake makes all of them at once.
func TestConfigNamesEveryMistake(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer(
		"id: cell-1, zone: z1", `id: "cell 1", rootfs_providers: [oci], index: -1, max_starting: -2, address: nowhere, colour: red`,
		"state_dir: /var/vcap/executor", "state_dir: here, grace_time: 1s, volumes: {driver_folders: [there], timeout: -1s}",
	).Replace(whole) + "presence: {ttl: 1s}\nreconcile: {interval: -1s, width: 0}\nevacuation: {timeout: 0s}\nmetrics: {exclude_container: [container_color]}\n"
	_, err := load(t, text)
	require.ErrorContains(t, err, "colour")
	_, err = load(t, strings.Replace(text, ", colour: red", "", 1))
	for _, want := range []string{"id:", "zone", "index", "max_starting", "address", "state_dir", "grace_time", `driver_folders: "there"`, "interval and timeout must be positive", `have "oci"`, "container_color", "ttl", "interval", "width", "timeout"} {
		require.ErrorContains(t, err, want)
	}
}

// TestConfigChoosesTheStoreOfThePresence takes either store, and wants to be told where it is.
func TestConfigChoosesTheStoreOfThePresence(t *testing.T) {
	t.Parallel()
	_, err := load(t, whole+"presence: {backend: consul}\n")
	require.ErrorContains(t, err, "consul: is missing")
	_, err = load(t, whole+"presence: {backend: etcd}\n")
	require.ErrorContains(t, err, "backend")
	_, err = load(t, strings.Replace(whole, "locket: {addresses: [\"127.0.0.1:8891\"]}\n", "", 1))
	require.ErrorContains(t, err, "locket: is missing")
	cfg, err := load(t, strings.Replace(whole, "locket: {addresses: [\"127.0.0.1:8891\"]}\n",
		"consul: {address: \"https://127.0.0.1:8501\", tls: {ca: $ca, certificate: $certificate, key: $key}}\npresence: {backend: consul}\n", 1))
	require.NoError(t, err)
	require.Equal(t, lockclient.KindConsul, cfg.Presence.Backend)
}

// TestConfigWantsAnAddressThatOthersCanReach refuses to publish 0.0.0.0.
func TestConfigWantsAnAddressThatOthersCanReach(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:1801", ":1801", "[::]:1801"} {
		everywhere := strings.Replace(whole, "127.0.0.1:0", listen, 1)
		_, err := load(t, everywhere)
		require.ErrorContains(t, err, "cell.address", listen)
		_, err = load(t, strings.Replace(everywhere, "zone: z1", `zone: z1, address: "cell-1.internal:1801"`, 1))
		require.NoError(t, err, listen)
	}
}

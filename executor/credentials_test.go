package executor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

// cellCA writes a CA that is valid for so long by the clock of the test.
func cellCA(t *testing.T, validity time.Duration) InstanceIdentity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cell ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	ca := InstanceIdentity{CACertificate: filepath.Join(dir, "ca.crt"), CAKey: filepath.Join(dir, "ca.key")}
	require.NoError(t, os.WriteFile(ca.CACertificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(ca.CAKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	return ca
}

func TestContainersGetCertificates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var spec garden.ContainerSpec
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnCreate = func(s garden.ContainerSpec) (time.Duration, error) { spec = s; return 0, nil }
		})
		c.cfg.InstanceIdentity = cellCA(t, 240*time.Hour)
		c.open()
		defer func() { c.stop() }()
		app := process("/app", "APP")
		c.run("i", RunInfo{Action: &app, CertificateProperties: CertificateProperties{OrganizationalUnit: []string{"app:a", "space:s"}}})
		synctest.Wait()
		record := c.get("i")
		require.Equal(t, StateRunning, record.State)
		require.Contains(t, spec.Env, garden.EnvVar{Name: "CF_INSTANCE_CERT", Value: "/etc/cf-instance-credentials/instance.crt"})
		require.Contains(t, spec.Env, garden.EnvVar{Name: "CF_INSTANCE_KEY", Value: "/etc/cf-instance-credentials/instance.key"})
		i := slices.IndexFunc(spec.BindMounts, func(m garden.BindMount) bool { return m.DstPath == "/etc/cf-instance-credentials" })
		require.GreaterOrEqual(t, i, 0)
		require.True(t, spec.BindMounts[i].ReadOnly)
		dir := spec.BindMounts[i].SrcPath
		leaf := func() *x509.Certificate {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "instance.crt"), filepath.Join(dir, "instance.key"))
			require.NoError(t, err)
			return pair.Leaf
		}
		first := leaf()
		require.Equal(t, "i", first.Subject.CommonName)
		require.ElementsMatch(t, []string{"app:a", "space:s"}, first.Subject.OrganizationalUnit)
		require.Equal(t, record.Net.InternalIP, first.IPAddresses[0].String())

		time.Sleep(23 * time.Hour) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, first.SerialNumber, leaf().SerialNumber, "an hour is left")
		c.restart()
		time.Sleep(32 * time.Minute) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		second := leaf()
		require.NotEqual(t, first.SerialNumber, second.SerialNumber, "replaced half an hour before its end, after an adoption too")
		require.Equal(t, first.Subject.String(), second.Subject.String())
		require.Equal(t, first.IPAddresses, second.IPAddresses)

		require.NoError(t, os.WriteFile(c.cfg.InstanceIdentity.CAKey, nil, 0o600))
		time.Sleep(24 * time.Hour) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.NotEqual(t, second.SerialNumber, leaf().SerialNumber, "a damaged file does not stop a running cell")
		require.Equal(t, int64(2), c.client.Counters().Credentials.Succeeded.Load())
		require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
		require.NoDirExists(t, dir)
	})
}

func TestContainersWithoutCertificates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var spec garden.ContainerSpec
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnCreate = func(s garden.ContainerSpec) (time.Duration, error) { spec = s; return 0, nil }
		}).open()
		defer func() { c.stop() }()
		app := process("/app", "APP")
		c.run("i", RunInfo{Action: &app})
		synctest.Wait()
		require.Equal(t, StateRunning, c.get("i").State)
		require.Empty(t, spec.BindMounts)
		// A cell that gets a CA later does not touch containers that could not see a certificate.
		c.cfg.InstanceIdentity = cellCA(t, 240*time.Hour)
		c.restart()
		synctest.Wait()
		require.Equal(t, StateRunning, c.get("i").State)
		require.NoDirExists(t, filepath.Join(c.client.credentialsDir(), "i"))
	})
}

func TestCertificatesThatCannotBeMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil)
		c.cfg.InstanceIdentity = cellCA(t, time.Hour)
		c.open()
		defer func() { c.stop() }()
		app := process("/app", "APP")
		require.NoError(t, os.RemoveAll(c.client.credentialsDir()))
		require.NoError(t, os.WriteFile(c.client.credentialsDir(), nil, 0o600))
		c.run("i", RunInfo{Action: &app})
		synctest.Wait()
		require.Equal(t, Result{Failed: true, Retryable: true, FailureReason: "failed to create credentials directory"}, c.get("i").Result)
		require.NoError(t, os.Remove(c.client.credentialsDir()))
		time.Sleep(time.Hour) //nolint:forbidigo // the clock of the bubble
		c.run("j", RunInfo{Action: &app})
		synctest.Wait()
		require.Contains(t, c.get("j").Result.FailureReason, "failed to create container: issuing an instance identity: the ca has ended")
		require.True(t, c.get("j").Result.Retryable)
	})
}

func TestInstanceIdentityIsChecked(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		cfg  InstanceIdentity
		want string
	}{
		"off":                     {cfg: InstanceIdentity{Validity: time.Hour}},
		"a certificate alone":     {cfg: InstanceIdentity{CACertificate: "/ca", Validity: time.Hour}, want: "need each other"},
		"a relative path":         {cfg: InstanceIdentity{CACertificate: "ca", CAKey: "/k", Validity: time.Hour}, want: `ca_certificate "ca" is not an absolute path`},
		"too short to be rotated": {cfg: InstanceIdentity{Validity: time.Second}, want: "validity 1s is below 1m0s"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.cfg.Validate()
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.want)
		})
	}
	cfg := Config{CellID: "c", Engine: simulated.New(simulated.Config{}), StateDir: t.TempDir()}
	cfg.InstanceIdentity = InstanceIdentity{CACertificate: "/nowhere", CAKey: "/nowhere"}
	_, err := Open(t.Context(), cfg)
	require.ErrorContains(t, err, "reading the instance identity ca")
}

// TestRealCertificates reads what a process of a real container reads, as a user that is not root. It does not run beside
// other tests: machines of one process would have one name and one network.
func TestRealCertificates(t *testing.T) {
	m := newMachine(t)
	m.stop()
	m.cfg.InstanceIdentity = cellCA(t, 240*time.Hour)
	m.cfg.SelfCheck.RootFS = "preloaded:busybox"
	m.start()
	await(t, "the engine to pass its check with a real container", func() bool { ok, _ := m.client.Healthy(); return ok })
	left, err := m.backend.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(t, err)
	require.Empty(t, left, "the check leaves nothing")
	script := `cat "$CF_INSTANCE_CERT" "$CF_INSTANCE_KEY" || exit 1
		echo x > "$CF_INSTANCE_KEY" && exit 2
		first=$(readlink -f "$CF_INSTANCE_CERT"); echo waiting
		while [ ! -e "$CF_INSTANCE_CERT" ] || [ "$first" = "$(readlink -f "$CF_INSTANCE_CERT")" ]; do sleep 0.2; done; cat "$CF_INSTANCE_CERT" >/dev/null && exit 3`
	m.run("app", RunInfo{Action: new(shell("APP", script))})
	await(t, "certificate to be read", func() bool { return slices.Contains(m.lines("app"), "APP OUT waiting") })
	var read strings.Builder
	for _, line := range m.lines("app") {
		if text, ok := strings.CutPrefix(line, "APP OUT "); ok {
			fmt.Fprintln(&read, text)
		}
	}
	pair, err := tls.X509KeyPair([]byte(read.String()), []byte(read.String()))
	require.NoError(t, err, "the process read: %s", read.String())
	require.Equal(t, m.await("app", StateRunning).Net.InternalIP, pair.Leaf.IPAddresses[0].String())

	// A pair that has vanished is due at once; the process sees the new one through its mount.
	dir := filepath.Join(m.cfg.StateDir, "credentials", "app")
	m.stop()
	newest, err := os.Readlink(filepath.Join(dir, "..newest"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, newest, "instance.crt")))
	m.start()
	require.Equal(t, "APP: Exited with status 3", m.await("app", StateCompleted).Result.FailureReason, "log: %q", m.lines("app"))
	require.NoError(t, m.client.DeleteContainer(context.Background(), "app"))
	require.NoDirExists(t, dir)
}

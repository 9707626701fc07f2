package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/url"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

func TestParseIdentity(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		uri    string
		want   mtls.Identity
		wantOK bool
	}{
		"role only":       {uri: "spiffe://cf/bbs", want: mtls.Identity{TrustDomain: "cf", Role: "bbs"}, wantOK: true},
		"role and name":   {uri: "spiffe://cf/cell/z1-a", want: mtls.Identity{TrustDomain: "cf", Role: "cell", Name: "z1-a"}, wantOK: true},
		"another scheme":  {uri: "https://cf/bbs"},
		"no trust domain": {uri: "spiffe:///bbs"},
		"no role":         {uri: "spiffe://cf/"},
		"an empty name":   {uri: "spiffe://cf/cell/"},
		"a deeper path":   {uri: "spiffe://cf/cell/a/b"},
		"a query":         {uri: "spiffe://cf/bbs?x=1"},
		"a user":          {uri: "spiffe://me@cf/bbs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(test.uri)
			require.NoError(t, err)
			got, err := mtls.ParseIdentity(u)
			require.Equal(t, test.wantOK, err == nil, "ParseIdentity(%q) = %v", test.uri, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,20}`)
		id := mtls.Identity{TrustDomain: word.Draw(t, "domain"), Role: word.Draw(t, "role")}
		if rapid.Bool().Draw(t, "named") {
			id.Name = word.Draw(t, "name")
		}
		u, err := url.Parse(id.String())
		require.NoError(t, err)
		got, err := mtls.ParseIdentity(u)
		require.NoError(t, err)
		require.Equal(t, id, got)
	})
}

// handshake connects a client and a server over a pipe and returns the error of each.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			err = conn.(*tls.Conn).HandshakeContext(t.Context())
			_, _ = conn.Write([]byte("x")) // TLS 1.3: the client learns of a refusal when it reads
			_ = conn.Close()
		}
		done <- err
	}()
	conn, err := (&tls.Dialer{Config: client}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	return <-done, err
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	bbs, cell := ca.Source(mtls.Identity{Role: mtls.RoleBBS}), ca.Source(mtls.Identity{Role: mtls.RoleCell, Name: "a"})

	serverErr, clientErr := handshake(t, bbs.ServerConfig(), cell.ClientConfig(mtls.Peer{Role: mtls.RoleBBS}))
	require.NoError(t, serverErr)
	require.NoError(t, clientErr)

	_, clientErr = handshake(t, bbs.ServerConfig(), cell.ClientConfig(mtls.Peer{Role: mtls.RoleLocket}))
	require.ErrorContains(t, clientErr, `want role "locket"`)

	old := cell.ClientConfig(mtls.Peer{Role: mtls.RoleBBS})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, clientErr = handshake(t, bbs.ServerConfig(), old)
	require.ErrorContains(t, clientErr, "protocol version")
}

func TestIssuedCertificateServesHostNameChecks(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	nats := ca.Source(mtls.Identity{Role: mtls.RoleNATS}, mtlstest.Hosts("nats.test", "127.0.0.1"))
	emitter := ca.Source(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "a"})
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.PEM()))
	foreign := emitter.ClientConfig(mtls.Peer{})
	foreign.InsecureSkipVerify, foreign.VerifyConnection, foreign.RootCAs = false, nil, roots
	serverErr, clientErr := handshake(t, nats.ServerConfig(), foreign)
	require.NoError(t, serverErr)
	require.NoError(t, clientErr)
}

func TestSourceReload(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	id := mtls.Identity{Role: mtls.RoleBBS}
	files := ca.Issue(id, mtlstest.Lifetime(time.Minute))
	source, err := mtls.Load(files)
	require.NoError(t, err)
	serial := func() string {
		t.Helper()
		cert, err := source.ServerConfig().GetCertificate(nil)
		require.NoError(t, err)
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	require.Equal(t, first, serial(), "unchanged files are not read again")

	ca.Issue(id, mtlstest.InPlace(files))
	second := serial()
	require.NotEqual(t, first, second, "the next handshake uses the new certificate")

	// A key without its certificate is what a rotation looks like half way.
	key, err := os.ReadFile(files.Key)
	require.NoError(t, err)
	other, err := os.ReadFile(ca.Issue(id).Key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files.Key, other, 0o600))
	require.Equal(t, second, serial(), "a pair that does not fit is not taken up")
	detail, err := source.Readiness()
	require.NoError(t, err)
	require.NotEmpty(t, warning(detail))
	require.NoError(t, os.WriteFile(files.Key, key, 0o600))
	require.Equal(t, second, serial())

	ca.Issue(mtls.Identity{Role: mtls.RoleLocket}, mtlstest.InPlace(files))
	require.Equal(t, second, serial(), "a process does not become somebody else")
	require.NoError(t, os.Remove(files.CA))
	require.Equal(t, second, serial(), "missing files change nothing")
}

func TestSourceRunTakesUpChanges(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	id := mtls.Identity{Role: mtls.RoleBBS}
	files := ca.Issue(id, mtlstest.Lifetime(time.Minute))
	source, err := mtls.Load(files)
	require.NoError(t, err)
	tel := telemetry.Discard()
	source.Observe(tel)
	source.Observe(tel) // again, as a server and several clients do
	ca.Issue(id, mtlstest.InPlace(files), mtlstest.Lifetime(10*time.Hour))

	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		require.NoError(t, source.Run(ctx))
	})
	n, err := testutil.GatherAndCount(tel.Registry, "certificate_expiry_seconds")
	require.NoError(t, err)
	require.Equal(t, 2, n, "one series per file")
	detail, err := source.Readiness()
	require.NoError(t, err)
	require.Empty(t, warning(detail), "more than a third of its life is left")
}

func TestSourceReadinessOfAnExpiredCertificate(t *testing.T) {
	t.Parallel()
	_, err := mtlstest.NewAuthority(t).Source(mtls.Identity{Role: mtls.RoleBBS}, mtlstest.Expired()).Readiness()
	require.ErrorContains(t, err, "ended")
}

func TestLoadReportsBadFiles(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	tests := map[string]func(*mtls.Config){
		"a missing ca":          func(c *mtls.Config) { c.CA += "x" },
		"a ca that is none":     func(c *mtls.Config) { c.CA = c.Key },
		"a missing certificate": func(c *mtls.Config) { c.Certificate += "x" },
		"a key of another certificate": func(c *mtls.Config) {
			c.Key = ca.Issue(mtls.Identity{Role: mtls.RoleBBS}).Key
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := ca.Issue(mtls.Identity{Role: mtls.RoleBBS})
			spoil(&files)
			_, err := mtls.Load(files)
			require.Error(t, err)
		})
	}
	err := mtls.Config{CA: "/nowhere"}.Validate()
	for _, key := range []string{"ca: ", "certificate: is missing", "key: is missing"} {
		require.ErrorContains(t, err, key)
	}
}

// warning reads the warning out of a readiness detail as an operator does: in JSON.
func warning(detail any) string {
	encoded, err := json.Marshal(detail)
	if err != nil {
		return ""
	}
	var state struct {
		Warning string `json:"warning"`
	}
	if err := json.Unmarshal(encoded, &state); err != nil {
		return ""
	}
	return state.Warning
}

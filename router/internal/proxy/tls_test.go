package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/router/internal/registry"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// secureBackend serves HTTPS with a certificate for the DNS name san.
func secureBackend(t *testing.T, authority *mtlstest.Authority, san string, change func(*tls.Config)) string {
	t.Helper()
	files := authority.Issue(mtls.Identity{Role: mtls.RoleCell, Name: "instance"}, mtlstest.Hosts(san))
	pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Host)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func pool(t *testing.T, authority *mtlstest.Authority) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	require.True(t, p.AppendCertsFromPEM(authority.PEM()))
	return p
}

func TestProxyTLSBackends(t *testing.T) {
	t.Parallel()
	const san = "5f1c9a3e-0000-4000-8000-000000000001"
	tests := map[string]struct {
		backend func(r *rig, trusted *mtlstest.Authority) string
		change  func(*registry.Endpoint)
		status  int
		body    string
		metric  string
		evicted bool
	}{
		"the certificate names the instance": {
			backend: func(r *rig, a *mtlstest.Authority) string { return secureBackend(r.t, a, san, nil) },
			status:  200, body: "HTTP/1.1 app.example.com",
		},
		"http2 when the route asks for it": {
			backend: func(r *rig, a *mtlstest.Authority) string { return secureBackend(r.t, a, san, nil) },
			change:  func(e *registry.Endpoint) { e.Protocol = registry.ProtocolHTTP2 }, status: 200, body: "HTTP/2.0 app.example.com",
		},
		"the certificate names another instance": {
			backend: func(r *rig, a *mtlstest.Authority) string { return secureBackend(r.t, a, "somebody-else", nil) },
			status:  503, metric: "backend_invalid_id", evicted: true,
		},
		"the certificate comes from another CA": {
			backend: func(r *rig, _ *mtlstest.Authority) string {
				return secureBackend(r.t, mtlstest.NewAuthority(r.t), san, nil)
			},
			status: 526, metric: "backend_invalid_tls_cert", evicted: true,
		},
		"the backend does not speak TLS": {
			backend: func(r *rig, _ *mtlstest.Authority) string { return backend(r.t, named("plain")) },
			status:  525, metric: "backend_tls_handshake_failed", evicted: true,
		},
		"nobody listens any more": {
			backend: func(r *rig, _ *mtlstest.Authority) string { return deadAddress(r.t) },
			status:  502, metric: "bad_gateways", evicted: true,
		},
		"the backend demands a client certificate that the router has not": {
			backend: func(r *rig, a *mtlstest.Authority) string {
				return secureBackend(r.t, a, san, func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert; c.ClientCAs = pool(r.t, a) })
			},
			status: 496, metric: "backend_tls_handshake_failed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trusted := mtlstest.NewAuthority(t)
			r := newRig(t, func(c *Config, _ *registry.Config) { c.Backends.Roots = pool(t, trusted) })
			r.register("app.example.com", tc.backend(r, trusted), func(e *registry.Endpoint) {
				e.TLS, e.CertificateSAN = true, san
				if tc.change != nil {
					tc.change(e)
				}
			})
			res, body := r.do(http.MethodGet, nil)
			if res.StatusCode != tc.status {
				t.Errorf("status %d (%s), want %d", res.StatusCode, res.Header.Get("X-Cf-RouterError"), tc.status)
			}
			if tc.body != "" {
				require.Equal(t, tc.body, body)
			}
			if tc.metric != "" {
				require.InDelta(t, 1, r.metric(tc.metric), 0, tc.metric)
				require.Contains(t, res.Header.Get("X-Cf-RouterError"), "endpoint_failure (")
			}
			require.Equal(t, tc.evicted, r.table.Lookup("app.example.com", "") == nil, "endpoint removed")
		})
	}
}

func TestProxyRetriesAfterWrongIdentity(t *testing.T) {
	t.Parallel()
	trusted := mtlstest.NewAuthority(t)
	r := newRig(t, func(c *Config, _ *registry.Config) { c.Backends.Roots = pool(t, trusted) })
	for _, cert := range []string{"stranger", "wanted"} {
		r.register("app.example.com", secureBackend(t, trusted, cert, nil), func(e *registry.Endpoint) { e.TLS, e.CertificateSAN = true, "wanted" })
	}
	res, _ := r.do(http.MethodPost, nil)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, 1, r.table.Lookup("app.example.com", "").Len())
}

func TestProxyPresentsClientCertificate(t *testing.T) {
	t.Parallel()
	trusted := mtlstest.NewAuthority(t)
	files := trusted.Issue(mtls.Identity{Role: mtls.RoleRouter})
	r := newRig(t, func(c *Config, _ *registry.Config) {
		c.Backends.Roots = pool(t, trusted)
		c.Backends.ClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
			return &pair, err
		}
	})
	address := secureBackend(t, trusted, "san", func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert; c.ClientCAs = pool(t, trusted) })
	r.register("app.example.com", address, func(e *registry.Endpoint) { e.TLS, e.CertificateSAN = true, "san" })
	res, _ := r.do(http.MethodGet, nil)
	require.Equal(t, http.StatusOK, res.StatusCode)
}

// TestProxyVerifiesNextOwnerOfAddress registers another instance at the address of a verified one: the kept
// connection of the first must not serve the second.
func TestProxyVerifiesNextOwnerOfAddress(t *testing.T) {
	t.Parallel()
	trusted := mtlstest.NewAuthority(t)
	r := newRig(t, func(c *Config, _ *registry.Config) { c.Backends.Roots = pool(t, trusted) })
	address := secureBackend(t, trusted, "first", nil)
	as := func(san string) func(*registry.Endpoint) {
		return func(e *registry.Endpoint) { e.TLS, e.CertificateSAN, e.InstanceID = true, san, san }
	}
	r.register("app.example.com", address, as("first"))
	res, _ := r.do(http.MethodGet, nil)
	require.Equal(t, http.StatusOK, res.StatusCode)
	r.register("app.example.com", address, as("second"))
	res, _ = r.do(http.MethodGet, nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
}

func TestProxyHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Host)
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	r := newRig(t, nil)
	r.register("app.example.com", l.Addr().String(), func(e *registry.Endpoint) { e.Protocol = registry.ProtocolHTTP2 })
	res, body := r.do(http.MethodGet, nil)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "HTTP/2.0 app.example.com", body)
}

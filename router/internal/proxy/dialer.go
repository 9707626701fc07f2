package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"diego.internal/router/internal/registry"
)

// BackendConfig says how backends are connected to. Zero durations mean the default named with each field.
type BackendConfig struct {
	DialTimeout      time.Duration // 5 s
	HandshakeTimeout time.Duration // 10 s
	IdleTimeout      time.Duration // of kept connections; 90 s
	MaxIdle          int           // kept connections in all; 100
	// Roots verifies the certificates of TLS backends; nil means the system's.
	Roots *x509.CertPool
	// ClientCertificate is presented to TLS backends that ask for one; nil presents none.
	ClientCertificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
}

// connectError means that no usable connection to an endpoint came about, so that it saw no request.
type connectError struct {
	handshake bool // the TLS handshake failed; otherwise the address could not be dialled
	err       error
}

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// dialer sends requests to endpoints over kept connections. Connections belong to an instance, not to an address:
// one that was verified for an instance is never used for the next owner of its address.
type dialer struct {
	cfg   BackendConfig
	http1 *http.Transport
	http2 *http.Transport // over TLS, may fall back to HTTP/1.1
	h2c   *http.Transport // HTTP/2 without TLS
}

func newDialer(cfg BackendConfig) *dialer {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 90 * time.Second
	}
	if cfg.MaxIdle <= 0 {
		cfg.MaxIdle = 100
	}
	d := &dialer{cfg: cfg}
	d.http1 = d.transport(func(p *http.Protocols) { p.SetHTTP1(true) })
	d.http2 = d.transport(func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) })
	d.h2c = d.transport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	return d
}

func (d *dialer) transport(protocols func(*http.Protocols)) *http.Transport {
	var set http.Protocols
	protocols(&set)
	return &http.Transport{
		Protocols:             &set,
		DialContext:           d.dial,
		DialTLSContext:        d.dialTLS,
		DisableCompression:    true, // an answer passes as the backend encoded it
		MaxIdleConns:          d.cfg.MaxIdle,
		MaxIdleConnsPerHost:   d.cfg.MaxIdle,
		IdleConnTimeout:       d.cfg.IdleTimeout,
		ExpectContinueTimeout: time.Second,
	}
}

func (d *dialer) close() {
	for _, t := range []*http.Transport{d.http1, d.http2, d.h2c} {
		t.CloseIdleConnections()
	}
}

// roundTrip sends a request, whose context holds e, to e.
func (d *dialer) roundTrip(req *http.Request, e registry.Endpoint) (*http.Response, error) {
	req.URL.Host = connectionKey(e)
	req.URL.Scheme = "http"
	if e.TLS {
		req.URL.Scheme = "https"
	}
	t := d.http1
	if e.Protocol == registry.ProtocolHTTP2 && !isUpgrade(req) {
		t = d.h2c
		if e.TLS {
			t = d.http2
		}
	}
	return t.RoundTrip(req) //nolint:wrapcheck // classified by the caller
}

// connectionKey is the host by which the transports keep connections apart. It is not dialled and not sent.
func connectionKey(e registry.Endpoint) string {
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, e.InstanceID+"."+e.CertificateSAN+"."+e.Host)
	return net.JoinHostPort(strings.Trim(name, "."), strconv.Itoa(int(e.Port)))
}

// dial connects to the endpoint in ctx.
func (d *dialer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	e, ok := endpointOf(ctx)
	if !ok {
		return nil, errors.New("dialling without an endpoint")
	}
	conn, err := (&net.Dialer{Timeout: d.cfg.DialTimeout}).DialContext(ctx, network, e.Address())
	if err != nil {
		return nil, &connectError{err: err}
	}
	return conn, nil
}

// dialTLS connects to the endpoint in ctx and verifies that its certificate names the registered instance.
func (d *dialer) dialTLS(ctx context.Context, network, _ string) (net.Conn, error) {
	raw, err := d.dial(ctx, network, "")
	if err != nil {
		return nil, err
	}
	e, _ := endpointOf(ctx)
	cfg := &tls.Config{
		MinVersion:           tls.VersionTLS12,
		RootCAs:              d.cfg.Roots,
		ServerName:           e.CertificateSAN,
		GetClientCertificate: d.cfg.ClientCertificate,
		NextProtos:           []string{"http/1.1"},
	}
	if cfg.ServerName == "" {
		cfg.ServerName = e.Host
	}
	if e.Protocol == registry.ProtocolHTTP2 {
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.HandshakeTimeout, fmt.Errorf("handshake with %s took longer than %v", e.Address(), d.cfg.HandshakeTimeout))
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error says more
		return nil, &connectError{handshake: true, err: fmt.Errorf("handshaking with %s: %w", e.Address(), err)}
	}
	return conn, nil
}

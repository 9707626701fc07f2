package proxy

import (
	"crypto/tls"
	"log/slog"
	"path/filepath"
)

// suites are those of TLS 1.2; TLS 1.3 has its own, all of them good. Certificates of instances have elliptic keys, and those
// of an operator's own making may have RSA keys.
func suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
}

// terms are how one listener shakes hands.
type terms struct {
	credentials *credentials
	clients     *authorities // nil: anybody
	names       []string
	protocols   []string
}

// newTerms makes those of the listeners for routers and of those for other containers.
func newTerms(cfg Config, folder string, log *slog.Logger) (routers, containers *terms) {
	routers = &terms{credentials: &credentials{folder: filepath.Join(folder, IdentityFolder), log: log}}
	containers = &terms{credentials: &credentials{folder: filepath.Join(folder, C2CFolder), log: log}}
	if cfg.HTTP2 {
		routers.protocols = []string{"h2", "http/1.1"}
	}
	if cfg.ClientCertificates {
		routers.clients = &authorities{path: filepath.Join(folder, ClientCAFile), log: log}
		routers.names = cfg.SubjectAltNames
	}
	return routers, containers
}

// server is the configuration of a listener; what may change is asked for anew by every handshake.
func (t *terms) server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current() },
	}
}

func (t *terms) current() (*tls.Config, error) {
	certificate, err := t.credentials.newest()
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: suites(),
		Certificates: []tls.Certificate{*certificate},
		NextProtos:   t.protocols,
		// A resumed session would show no certificate, and so outlive the one that it began with.
		SessionTicketsDisabled: true,
	}
	if t.clients == nil {
		return cfg, nil
	}
	if cfg.ClientCAs, err = t.clients.newest(); err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return named(state, t.names) }
	return cfg, nil
}

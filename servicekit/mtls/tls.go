package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// ServerConfig returns the configuration of a server that demands a client certificate of one of the
// own CAs and of the own trust domain. Roles are checked per call, not here.
func (s *Source) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		// Verification is VerifyConnection's, because ClientCAs could not follow the files.
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.newest().certificate, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.verify(state, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// ClientConfig returns the configuration of a client that talks only to server, which must come from
// one of the own CAs and of the own trust domain.
func (s *Source) ClientConfig(server Peer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		// Go's own check wants a host name; ours wants an identity, in VerifyConnection.
		InsecureSkipVerify: true, //nolint:gosec // verified by VerifyConnection, chain included
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.newest().certificate, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := s.verify(state, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if !server.Matches(id) {
				return fmt.Errorf("the server is %v, want role %q and name %q", id, server.Role, server.Name)
			}
			return nil
		},
	}
}

// verify checks the chain of a peer against the newest CA bundle, and its trust domain. TLS calls it
// for resumed sessions too.
func (s *Source) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return Identity{}, errNoCertificate
	}
	m := s.newest()
	leaf, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: m.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("verifying the peer's certificate: %w", err)
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("verifying the peer's identity: %w", err)
	}
	if id.TrustDomain != m.identity.TrustDomain {
		return Identity{}, fmt.Errorf("the peer %v is of another trust domain than %v", id, m.identity)
	}
	return id, nil
}

// readRoots reads a bundle of CA certificates, and returns the one of them that ends first besides.
func readRoots(file string) (*x509.CertPool, *x509.Certificate, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the file is configured by the operator
	if err != nil {
		return nil, nil, fmt.Errorf("reading the ca bundle: %w", err)
	}
	pool := x509.NewCertPool()
	var first *x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the ca bundle %s: %w", file, err)
		}
		pool.AddCert(cert)
		if first == nil || cert.NotAfter.Before(first.NotAfter) {
			first = cert
		}
	}
	if first == nil {
		return nil, nil, errors.New("the ca bundle " + file + " holds no certificate")
	}
	return pool, first, nil
}

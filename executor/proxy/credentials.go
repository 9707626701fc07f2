package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"diego.internal/executor/identity"
)

// credentials is the certificate of a folder. It looks for a newer one when it is asked, which is at each handshake: that is
// sooner than any timer, and costs nothing while nobody connects.
type credentials struct {
	folder string
	log    *slog.Logger

	mu          sync.Mutex
	version     string // read last, successfully or not
	certificate *tls.Certificate
}

// newest returns the certificate that the folder shows, or the last one that could be read.
func (c *credentials) newest() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	version, err := identity.Version(c.folder)
	if err == nil && version != c.version {
		c.version = version
		var fresh *tls.Certificate
		if fresh, err = load(c.folder, version); err == nil {
			c.certificate = fresh
		} else if c.certificate != nil {
			c.log.Warn("reading-new-credentials-failed", slog.String("folder", filepath.Base(c.folder)), slog.Any("error", err))
		}
	}
	if c.certificate == nil {
		return nil, fmt.Errorf("no credentials: %w", err)
	}
	return c.certificate, nil
}

func load(folder, version string) (*tls.Certificate, error) {
	pair, err := identity.Read(folder, version)
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	return &certificate, nil
}

// authorities are those that vouch for clients, read again when the file changes.
type authorities struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen fs.FileInfo // of the file read last
	pool *x509.CertPool
}

func (a *authorities) newest() (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	info, err := os.Stat(a.path)
	// A file that is replaced is another one, whatever its time and size.
	if err == nil && (a.seen == nil || !os.SameFile(a.seen, info)) {
		a.seen = info
		var fresh *x509.CertPool
		if fresh, err = readClientCA(a.path); err == nil {
			a.pool = fresh
		} else if a.pool != nil {
			a.log.Warn("reading-new-client-ca-failed", slog.Any("error", err))
		}
	}
	if a.pool == nil {
		return nil, fmt.Errorf("no authorities for clients: %w", err)
	}
	return a.pool, nil
}

func readClientCA(path string) (*x509.CertPool, error) {
	content, err := ReadClientCA(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	return pool, nil
}

// ReadClientCA reads a file of certificates, at most MaxClientCA bytes, with at least one in it.
func ReadClientCA(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("looking for the authorities of clients: %w", err)
	}
	if info.Size() > MaxClientCA {
		return nil, fmt.Errorf("the authorities of clients in %s take %d bytes, more than %d", path, info.Size(), MaxClientCA)
	}
	content, err := os.ReadFile(path) //nolint:gosec // configured by the operator
	if err != nil {
		return nil, fmt.Errorf("reading the authorities of clients: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("reading the authorities of clients: no certificate in %s", path)
	}
	return content, nil
}

var errNobody = errors.New("the client's certificate has none of the names that are let in")

// named checks that the certificate of a client has exactly one of the names.
func named(state tls.ConnectionState, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return errNobody
	}
	leaf := state.PeerCertificates[0]
	own := slices.Concat(leaf.DNSNames, leaf.EmailAddresses)
	for _, address := range leaf.IPAddresses {
		own = append(own, address.String())
	}
	for _, uri := range leaf.URIs {
		own = append(own, uri.String())
	}
	if !slices.ContainsFunc(own, func(name string) bool { return slices.Contains(names, name) }) {
		return errNobody
	}
	return nil
}

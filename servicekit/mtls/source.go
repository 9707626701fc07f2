// Package mtls owns how processes prove who they are: mutual TLS 1.3 with a SPIFFE id in each
// certificate, files that are read again when they change, and the expiry of what is in use.
//
// Host names play no part: a peer is verified by its chain and its identity. What a role may do is
// not decided here but in the table of package grpcserver.
package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"diego.internal/servicekit/config"
)

// pollInterval is how often Run looks at the files. Handshakes look for themselves.
const pollInterval = time.Second

// Config names three PEM files. Certificate and key may be replaced one after the other: a pair that
// does not fit together is not taken up.
type Config struct {
	CA          string `yaml:"ca"`          // bundle of the CAs that peers may come from
	Certificate string `yaml:"certificate"` // own chain, leaf first, usable as server and client
	Key         string `yaml:"key"`
}

// Validate requires all three files to be named and readable.
func (c Config) Validate() error {
	return errors.Join(readable("ca", c.CA), readable("certificate", c.Certificate), readable("key", c.Key))
}

func readable(key, file string) error {
	if file == "" {
		return config.Invalid(key, "is missing")
	}
	f, err := os.Open(file) //nolint:gosec // the file is configured by the operator
	if err != nil {
		return config.Invalid(key, "%v", err)
	}
	return f.Close()
}

// material is one consistent reading of the files; it never changes.
type material struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	root        *x509.Certificate // of the CAs, the one that ends first
	identity    Identity
	stamps      [3]stamp
}

// stamp tells whether a file has been replaced or rewritten.
type stamp struct {
	info fs.FileInfo
}

func (s stamp) same(info fs.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, info) && s.info.ModTime().Equal(info.ModTime()) && s.info.Size() == info.Size()
}

// Source gives TLS configurations that follow the files. It is safe for concurrent use.
type Source struct {
	cfg     Config
	current atomic.Pointer[material]
	log     atomic.Pointer[slog.Logger]

	mu     sync.Mutex // one reload at a time
	failed error      // why the last reload was refused, nil if it was not

	warned time.Time // when Run last called out that the certificate ends
}

// Load reads the files. The certificate must carry a SPIFFE id; whether it is still valid is for peers to
// judge, so that a process with an expired one starts, says so, and recovers when it is replaced.
func Load(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg}
	s.log.Store(slog.New(slog.DiscardHandler))
	m, err := read(cfg)
	if err != nil {
		return nil, fmt.Errorf("loading the tls files: %w", err)
	}
	s.current.Store(m)
	return s, nil
}

// read takes the stamps before the content, so that a change in between is seen the next time.
func read(cfg Config) (*material, error) {
	m := &material{}
	var err error
	if m.stamps, err = stamps(cfg); err != nil {
		return nil, err
	}
	if m.certificate, err = tls.LoadX509KeyPair(cfg.Certificate, cfg.Key); err != nil {
		return nil, fmt.Errorf("reading %s and %s: %w", cfg.Certificate, cfg.Key, err)
	}
	leaf := m.certificate.Leaf
	if m.roots, m.root, err = readRoots(cfg.CA); err != nil {
		return nil, err
	}
	if m.identity, err = IdentityOf(leaf); err != nil {
		return nil, fmt.Errorf("reading %s: %w", cfg.Certificate, err)
	}
	return m, nil
}

func stamps(cfg Config) (out [3]stamp, err error) {
	for i, file := range [3]string{cfg.CA, cfg.Certificate, cfg.Key} {
		info, err := os.Stat(file)
		if err != nil {
			return out, fmt.Errorf("looking at a tls file: %w", err)
		}
		out[i] = stamp{info: info}
	}
	return out, nil
}

// Identity returns who the own certificate speaks for.
func (s *Source) Identity() Identity { return s.newest().identity }

// Run looks at the files until ctx ends, so that a change is taken up, reported and counted without
// waiting for a handshake, and calls out in the log a certificate that ends soon. It returns nil. Only one
// may run.
func (s *Source) Run(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.newest()
			s.warn(time.Now())
		}
	}
}

// newest returns what the files hold now, or the last good reading of them.
func (s *Source) newest() *material {
	m := s.current.Load()
	now, err := stamps(s.cfg)
	if err == nil && unchanged(m.stamps, now) {
		return m
	}
	return s.reload()
}

func unchanged(old, now [3]stamp) bool {
	for i := range old {
		if !old[i].same(now[i].info) {
			return false
		}
	}
	return true
}

// reload reads the files again. A reading that fails changes nothing; its reason is logged when it
// is a new one, and shown by Readiness.
func (s *Source) reload() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	if now, err := stamps(s.cfg); err == nil && unchanged(old.stamps, now) {
		s.failed = nil // another goroutine was first, or the old files are back
		return old
	}
	m, err := read(s.cfg)
	if err == nil && m.identity != old.identity {
		err = fmt.Errorf("the new certificate is of %v, this process is %v", m.identity, old.identity)
	}
	if err != nil {
		if s.failed == nil || s.failed.Error() != err.Error() {
			s.log.Load().Error("certificate-reload-refused", "error", err)
		}
		s.failed = err
		return old
	}
	s.failed = nil
	s.current.Store(m)
	s.log.Load().Info("certificate-reloaded", "identity", m.identity.String(), "expires", m.certificate.Leaf.NotAfter)
	return m
}

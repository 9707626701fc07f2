// Package mtlstest makes certificates for tests, with the same code that makes them for an
// installation.
package mtlstest

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
)

// TrustDomain is the trust domain of identities that name none.
const TrustDomain = "test.diego.internal"

// Authority is a CA that lives as long as its test.
type Authority struct {
	tb testing.TB
	ca *authority.Authority
}

// NewAuthority makes a CA. Two of them do not trust each other's certificates.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	ca, err := authority.New(TrustDomain, 24*time.Hour)
	if err != nil {
		tb.Fatalf("making a ca: %v", err)
	}
	return &Authority{tb: tb, ca: ca}
}

// Option changes what Issue makes.
type Option func(*issue)

type issue struct {
	leaf  authority.Leaf
	files mtls.Config
}

// Expired makes a certificate that ended a minute ago.
func Expired() Option { return func(i *issue) { i.leaf.Lifetime = -time.Minute } }

// Lifetime makes a certificate that ends after d; the usual is an hour.
func Lifetime(d time.Duration) Option { return func(i *issue) { i.leaf.Lifetime = d } }

// InPlace replaces the files of an earlier Issue, as a rotation does: key first, then certificate,
// each atomically, and the CA bundle.
func InPlace(files mtls.Config) Option { return func(i *issue) { i.files = files } }

// Hosts adds DNS names and IP addresses, for peers that check host names.
func Hosts(hosts ...string) Option {
	return func(i *issue) {
		for _, host := range hosts {
			if ip := net.ParseIP(host); ip != nil {
				i.leaf.Addresses = append(i.leaf.Addresses, ip)
			} else {
				i.leaf.DNSNames = append(i.leaf.DNSNames, host)
			}
		}
	}
}

// Issue writes a certificate for id, its key and the CA bundle into a temporary folder of the test.
// The trust domain may be left out.
func (a *Authority) Issue(id mtls.Identity, opts ...Option) mtls.Config {
	a.tb.Helper()
	if id.TrustDomain == "" {
		id.TrustDomain = TrustDomain
	}
	i := issue{leaf: authority.Leaf{Identity: id, Lifetime: time.Hour}}
	for _, opt := range opts {
		opt(&i)
	}
	if i.files == (mtls.Config{}) {
		dir := a.tb.TempDir()
		i.files = mtls.Config{
			CA:          filepath.Join(dir, "ca.crt"),
			Certificate: filepath.Join(dir, "tls.crt"),
			Key:         filepath.Join(dir, "tls.key"),
		}
	}
	if err := a.ca.Issue(i.leaf, i.files); err != nil {
		a.tb.Fatalf("issuing a certificate for %v: %v", id, err)
	}
	return i.files
}

// Source issues a certificate for id and loads it.
func (a *Authority) Source(id mtls.Identity, opts ...Option) *mtls.Source {
	a.tb.Helper()
	s, err := mtls.Load(a.Issue(id, opts...))
	if err != nil {
		a.tb.Fatalf("loading the certificate of %v: %v", id, err)
	}
	return s
}

// PEM returns the certificate of the CA, to build bundles of several CAs.
func (a *Authority) PEM() []byte { return a.ca.PEM() }

// Package authority makes certificates: a CA and the leafs that package mtls reads. It serves
// installations without a certificate store of their own, and tests. It does not revoke, renew or
// keep track of what it issued.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"diego.internal/servicekit/mtls"
)

// backdate is how long before now a certificate begins, for clocks that are behind ours.
const backdate = time.Hour

// Authority is a CA with its key in memory. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes a CA for a trust domain, with a new ECDSA P-256 key, valid from an hour ago for lifetime.
func New(trustDomain string, lifetime time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a ca key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: trustDomain + " ca"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leafs only
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a ca certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making a ca certificate: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// Open reads a CA that Write has written.
func Open(certFile, keyFile string) (*Authority, error) {
	certDER, err := readPEM(certFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	keyDER, err := readPEM(keyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("reading the ca %s: %w", certFile, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("reading the ca key %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the key %s is not that of the ca %s", keyFile, certFile)
	}
	return &Authority{cert: cert, key: key}, nil
}

// Write writes the CA, the key readable by the owner only.
func (a *Authority) Write(certFile, keyFile string) error {
	if err := writeKey(keyFile, a.key); err != nil {
		return err
	}
	return WriteFile(certFile, a.PEM(), 0o644)
}

// PEM returns the certificate of the CA, as a bundle that peers are verified with. Bundles of several
// CAs are these texts one after another.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Certificate returns the certificate of the CA.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Leaf says what to certify.
type Leaf struct {
	Identity  mtls.Identity
	Lifetime  time.Duration // from now; negative makes one that has expired
	DNSNames  []string      // only for peers that check host names
	Addresses []net.IP      // likewise
}

// Issue makes a key and a certificate for server and client use and writes them to the files that
// files names, together with the CA as bundle if files.CA is not "". Each file is replaced atomically.
func (a *Authority) Issue(leaf Leaf, files mtls.Config) error {
	if _, err := mtls.ParseIdentity(leaf.Identity.URL()); err != nil {
		return fmt.Errorf("issuing a certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key for %v: %w", leaf.Identity, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf.template(a), a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issuing a certificate for %v: %w", leaf.Identity, err)
	}
	// The bundle first: when the new certificate is in use, peers of the same CA are trusted already.
	if files.CA != "" {
		if err := WriteFile(files.CA, a.PEM(), 0o644); err != nil {
			return err
		}
	}
	if err := writeKey(files.Key, key); err != nil {
		return err
	}
	return WriteFile(files.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func (l Leaf) template(a *Authority) *x509.Certificate {
	now := time.Now()
	begin, end := now.Add(-backdate), now.Add(l.Lifetime)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	if end.Before(begin) {
		begin = end.Add(-backdate)
	}
	name := l.Identity.Role
	if l.Identity.Name != "" {
		name += "/" + l.Identity.Name
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    begin,
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     l.DNSNames,
		IPAddresses:  l.Addresses,
	}
	t.URIs = append(t.URIs, l.Identity.URL())
	return t
}

// serial returns 127 random bits; rand.Read of the standard library never fails.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	return WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func readPEM(file, kind string) ([]byte, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the file is configured by the operator
	if err != nil {
		return nil, fmt.Errorf("reading the ca: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s does not begin with a %s", file, kind)
	}
	return block.Bytes, nil
}

// WriteFile replaces a file in one step: readers see the old content or the new, never a part.
func WriteFile(file string, data []byte, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

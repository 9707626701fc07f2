// Package identity issues certificates of the cell's own intermediate CA, keeps a pair of certificate and key in a folder of
// the host that a container shows read-only, and says when it must be replaced. It does not know containers and starts no
// goroutine: the executor calls it when a container is built and when a certificate is due, and who runs in the container
// reads the pair through it.
package identity

import (
	"bytes"
	"crypto"
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
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Authority is the CA of a cell. Its methods may be called concurrently.
type Authority struct {
	certificateFile, keyFile string
	validity                 time.Duration

	mu     sync.Mutex
	loaded signer
}

// signer is what the two files say.
type signer struct {
	files       [2][]byte // as read
	certificate *x509.Certificate
	chain       []byte // PEM, the CA first
	key         crypto.Signer
}

// Subject of a certificate.
type Subject struct {
	// GUID is the common name and a DNS name. A subject without one is nobody: its certificate is good for no name, and whoever
	// is shown it turns away.
	GUID string
	// OrganizationalUnit such as "organization:…", "space:…", "app:…".
	OrganizationalUnit []string
	// Address at which the container is reached; nil names none.
	Address net.IP
	// Hostnames are further DNS names. Those that no certificate can hold, because they are not ASCII, are left out.
	Hostnames []string
}

// dnsNames are the names that a server is checked for, each once.
func (s Subject) dnsNames() []string {
	var names []string
	for _, name := range append([]string{s.GUID}, s.Hostnames...) {
		notASCII := func(r rune) bool { return r >= utf8.RuneSelf }
		if name != "" && !strings.ContainsFunc(name, notASCII) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Pair is a certificate, followed by its CA, and its key, both in PEM.
type Pair struct{ Certificate, Key []byte }

// Open reads a CA. The certificate's file begins with the CA's own and may go on with those that lead to a root; the key
// is in PKCS#8, PKCS#1 or SEC 1 form. Certificates are valid for validity.
func Open(certificateFile, keyFile string, validity time.Duration) (*Authority, error) {
	a := &Authority{certificateFile: certificateFile, keyFile: keyFile, validity: validity}
	if err := a.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

// Validity of the certificates to be issued.
func (a *Authority) Validity() time.Duration { return a.validity }

// Reload reads the files again, so that a CA can be replaced without a restart. After an error the CA stays as it was.
func (a *Authority) Reload() error {
	var files [2][]byte
	for i, path := range []string{a.certificateFile, a.keyFile} {
		var err error
		if files[i], err = os.ReadFile(path); err != nil { //nolint:gosec // configured by the operator
			return fmt.Errorf("reading the instance identity ca: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded.key != nil && slices.EqualFunc(files[:], a.loaded.files[:], bytes.Equal) {
		return nil
	}
	loaded, err := parse(files)
	if err != nil {
		return fmt.Errorf("reading the instance identity ca %s: %w", a.certificateFile, err)
	}
	a.loaded = loaded
	return nil
}

func parse(files [2][]byte) (signer, error) {
	s := signer{files: files}
	for rest := files[0]; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return signer{}, err
		}
		if s.certificate == nil {
			s.certificate = certificate
		}
		s.chain = append(s.chain, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	switch {
	case s.certificate == nil:
		return signer{}, errors.New("no certificate")
	case !s.certificate.IsCA:
		return signer{}, errors.New("the certificate is not that of a ca")
	}
	var err error
	if s.key, err = parseKey(files[1]); err != nil {
		return signer{}, err
	}
	public, ok := s.key.Public().(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !public.Equal(s.certificate.PublicKey) {
		return signer{}, errors.New("key and certificate do not belong together")
	}
	return s, nil
}

func parseKey(file []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // curve parameters stand before a key of SEC 1 form
		}
		if err != nil {
			return nil, fmt.Errorf("parsing the key: %w", err)
		}
		if signs, ok := key.(crypto.Signer); ok {
			return signs, nil
		}
		return nil, errors.New("the key cannot sign")
	}
	return nil, errors.New("no key")
}

// Issue makes a new key and a certificate for it, valid from now.
func (a *Authority) Issue(subject Subject, now time.Time) (Pair, error) {
	a.mu.Lock()
	ca := a.loaded
	a.mu.Unlock()
	if !now.Before(ca.certificate.NotAfter) {
		return Pair{}, fmt.Errorf("issuing an instance identity: the ca has ended at %v", ca.certificate.NotAfter)
	}
	// An elliptic key: many containers may start at once, and an RSA key of the same strength takes a thousand times longer.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("making an instance identity key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, a.template(ca, subject, now), ca.certificate, key.Public(), ca.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issuing an instance identity: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encoding an instance identity key: %w", err)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return Pair{
		Certificate: append(leaf, ca.chain...),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}, nil
}

func (a *Authority) template(ca signer, subject Subject, now time.Time) *x509.Certificate {
	end := now.Add(a.validity)
	if end.After(ca.certificate.NotAfter) {
		end = ca.certificate.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: subject.GUID, OrganizationalUnit: subject.OrganizationalUnit},
		DNSNames:     subject.dnsNames(),
		NotBefore:    now,
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if subject.Address != nil {
		t.IPAddresses = []net.IP{subject.Address}
	}
	return t
}

// serial returns 127 random bits; rand.Read of the standard library never fails.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

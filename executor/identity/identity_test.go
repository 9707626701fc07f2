package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// writeCA writes a self-signed CA with a key of any kind; encode says in which form the key is kept.
func writeCA(t *testing.T, key any, public any, end time.Time, block *pem.Block) (certificate, keyFile string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cell ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(t, err)
	dir := t.TempDir()
	certificate, keyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	require.NoError(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600))
	return certificate, keyFile
}

func newCA(t *testing.T, end time.Time) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return writeCA(t, k, k.Public(), end, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestIssue(t *testing.T) {
	t.Parallel()
	certificate, key := newCA(t, time.Now().Add(48*time.Hour))
	a, err := Open(certificate, key, 24*time.Hour)
	require.NoError(t, err)
	now := time.Now().Truncate(time.Second)
	units := []string{"organization:o", "space:s", "app:a"}
	pair, err := a.Issue(Subject{GUID: "guid-1", OrganizationalUnit: units, Address: net.IPv4(10, 0, 0, 7)}, now)
	require.NoError(t, err)

	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	require.NoError(t, err, "certificate and key belong together")
	require.Len(t, loaded.Certificate, 2, "the ca follows")
	leaf := loaded.Leaf
	require.Equal(t, "guid-1", leaf.Subject.CommonName)
	require.ElementsMatch(t, units, leaf.Subject.OrganizationalUnit)
	require.Equal(t, []string{"guid-1"}, leaf.DNSNames)
	require.Equal(t, "10.0.0.7", leaf.IPAddresses[0].String())
	require.True(t, now.Equal(leaf.NotBefore))
	require.Equal(t, 24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore))
	require.Equal(t, elliptic.P256(), leaf.PublicKey.(*ecdsa.PublicKey).Curve)
	require.Equal(t, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement, leaf.KeyUsage)

	roots := x509.NewCertPool()
	ca, err := os.ReadFile(certificate)
	require.NoError(t, err)
	require.True(t, roots.AppendCertsFromPEM(ca))
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}, DNSName: "guid-1"})
		require.NoError(t, err)
	}
	again, err := a.Issue(Subject{GUID: "guid-1"}, now)
	require.NoError(t, err)
	other, err := tls.X509KeyPair(again.Certificate, again.Key)
	require.NoError(t, err)
	require.NotEqual(t, leaf.SerialNumber, other.Leaf.SerialNumber)
	require.Empty(t, other.Leaf.IPAddresses)
}

func TestIssueEndsWithTheCA(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	certificate, key := newCA(t, end)
	a, err := Open(certificate, key, 24*time.Hour)
	require.NoError(t, err)
	pair, err := a.Issue(Subject{GUID: "g"}, time.Now())
	require.NoError(t, err)
	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	require.NoError(t, err)
	require.True(t, end.Equal(loaded.Leaf.NotAfter))
	_, err = a.Issue(Subject{GUID: "g"}, end)
	require.ErrorContains(t, err, "the ca has ended")
}

func TestOpenReadsKeysOfEveryForm(t *testing.T) {
	t.Parallel()
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sec1, err := x509.MarshalECPrivateKey(elliptical)
	require.NoError(t, err)
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	end := time.Now().Add(time.Hour)
	for name, write := range map[string]func(*testing.T) (string, string){
		"pkcs8": func(t *testing.T) (string, string) { t.Helper(); return newCA(t, end) },
		"sec1": func(t *testing.T) (string, string) {
			t.Helper()
			return writeCA(t, elliptical, elliptical.Public(), end, &pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
		},
		"pkcs1": func(t *testing.T) (string, string) {
			t.Helper()
			return writeCA(t, old, old.Public(), end, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(old)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate, key := write(t)
			a, err := Open(certificate, key, time.Hour)
			require.NoError(t, err)
			pair, err := a.Issue(Subject{GUID: "g"}, time.Now())
			require.NoError(t, err)
			_, err = tls.X509KeyPair(pair.Certificate, pair.Key)
			require.NoError(t, err)
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(time.Hour)
	certificate, key := newCA(t, end)
	_, otherKey := newCA(t, end)
	a, err := Open(certificate, key, time.Hour)
	require.NoError(t, err)
	leaf, err := a.Issue(Subject{GUID: "g"}, time.Now())
	require.NoError(t, err)
	dir := t.TempDir()
	leafFile, leafKey := filepath.Join(dir, "leaf.crt"), filepath.Join(dir, "leaf.key")
	require.NoError(t, os.WriteFile(leafFile, leaf.Certificate, 0o600))
	require.NoError(t, os.WriteFile(leafKey, leaf.Key, 0o600))
	tests := map[string]struct{ certificate, key, want string }{
		"a key of another ca":        {certificate, otherKey, "do not belong together"},
		"a certificate of a leaf":    {leafFile, leafKey, "is not that of a ca"},
		"a file without certificate": {key, key, "no certificate"},
		"a file without key":         {certificate, certificate, "no key"},
		"a missing file":             {certificate, filepath.Join(dir, "none"), "no such file"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(tc.certificate, tc.key, time.Hour)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	certificate, key := newCA(t, time.Now().Add(time.Hour))
	a, err := Open(certificate, key, time.Hour)
	require.NoError(t, err)
	issuer := func() []byte {
		pair, err := a.Issue(Subject{GUID: "g"}, time.Now())
		require.NoError(t, err)
		loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		require.NoError(t, err)
		return loaded.Certificate[1]
	}
	before := issuer()
	newCertificate, newKey := newCA(t, time.Now().Add(time.Hour))
	require.NoError(t, os.Rename(newCertificate, certificate))
	require.Error(t, a.Reload(), "half replaced")
	require.Equal(t, before, issuer())
	require.NoError(t, os.Rename(newKey, key))
	require.NoError(t, a.Reload())
	require.NotEqual(t, before, issuer())
}

func TestReplaceShowsBothFilesAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "guid")
	require.NoError(t, MakeFolder(dir))
	require.NoError(t, MakeFolder(dir), "it may be repeated")
	for _, content := range []string{"1", "2", "3"} {
		opened, _ := filepath.EvalSymlinks(filepath.Join(dir, CertificateFile))
		require.NoError(t, Replace(dir, Pair{Certificate: []byte("c" + content), Key: []byte("k" + content)}))
		for name, want := range map[string]string{CertificateFile: "c" + content, KeyFile: "k" + content} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, want, string(got))
			info, err := os.Stat(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o644), info.Mode())
		}
		if opened != "" {
			require.FileExists(t, filepath.Join(filepath.Dir(opened), KeyFile), "who has resolved the old folder finds the key of its certificate")
		}
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 5, "two names, the link, the newest pair and the one before it")
	require.ErrorIs(t, Replace(filepath.Join(dir, "none"), Pair{}), fs.ErrNotExist)
}

func TestDue(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	got := map[string]time.Duration{}
	for name, validity := range map[string]time.Duration{"a day": 24 * time.Hour, "just over 4 h": 4*time.Hour + time.Minute, "4 h": 4 * time.Hour, "8 min": 8 * time.Minute} {
		got[name] = due(begin, begin.Add(validity)).Sub(begin)
	}
	want := map[string]time.Duration{"a day": 23*time.Hour + 30*time.Minute, "just over 4 h": 3*time.Hour + 31*time.Minute, "4 h": 210 * time.Minute, "8 min": 7 * time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("due after (-want +got):\n%s", diff)
	}

	certificate, key := newCA(t, time.Now().Add(48*time.Hour))
	a, err := Open(certificate, key, 8*time.Hour)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "guid")
	_, err = Due(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, MakeFolder(dir))
	when, err := Due(dir)
	require.NoError(t, err)
	require.True(t, when.IsZero(), "no certificate yet")
	require.NoError(t, Replace(dir, Pair{Certificate: []byte("damaged")}))
	when, err = Due(dir)
	require.NoError(t, err)
	require.True(t, when.IsZero())
	now := time.Now().Truncate(time.Second)
	pair, err := a.Issue(Subject{GUID: "g"}, now)
	require.NoError(t, err)
	require.NoError(t, Replace(dir, pair))
	when, err = Due(dir)
	require.NoError(t, err)
	require.True(t, when.Equal(now.Add(7*time.Hour+30*time.Minute)), "due at %v", when)
}

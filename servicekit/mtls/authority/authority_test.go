package authority_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
)

func TestAuthorityWriteAndOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	ca, err := authority.New("cf", time.Hour)
	require.NoError(t, err)
	require.NoError(t, ca.Write(cert, key))
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	opened, err := authority.Open(cert, key)
	require.NoError(t, err)
	files := mtls.Config{CA: cert, Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	id := mtls.Identity{TrustDomain: "cf", Role: mtls.RoleCell, Name: "z1"}
	require.NoError(t, opened.Issue(authority.Leaf{Identity: id, Lifetime: time.Minute}, files))
	source, err := mtls.Load(files)
	require.NoError(t, err)
	require.Equal(t, id, source.Identity())
	info, err = os.Stat(files.Key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := filepath.Glob(filepath.Join(dir, "*.new-*"))
	require.NoError(t, err)
	require.Empty(t, left, "temporary files")
}

func TestOpenRefusesAKeyOfAnotherCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		ca, err := authority.New("cf", time.Hour)
		require.NoError(t, err)
		require.NoError(t, ca.Write(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")))
	}
	_, err := authority.Open(filepath.Join(dir, "a.crt"), filepath.Join(dir, "b.key"))
	require.ErrorContains(t, err, "is not that of the ca")
}

func TestIssueRefusesIdentitiesThatNobodyCouldRead(t *testing.T) {
	t.Parallel()
	ca, err := authority.New("cf", time.Hour)
	require.NoError(t, err)
	dir := t.TempDir()
	files := mtls.Config{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for name, id := range map[string]mtls.Identity{
		"no role":           {TrustDomain: "cf"},
		"no trust domain":   {Role: "bbs"},
		"a slash in a name": {TrustDomain: "cf", Role: "cell", Name: "a/b"},
	} {
		require.Error(t, ca.Issue(authority.Leaf{Identity: id, Lifetime: time.Hour}, files), name)
	}
}

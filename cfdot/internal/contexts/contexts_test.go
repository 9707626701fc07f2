package contexts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := write(t, "current: prod\ncontexts:\n- {name: prod, bbs: 'bbs:8889', ca: ca.crt, certificate: /etc/c.crt, key: c.key}\n- {name: test, bbs: 'b:1'}\n")
	file, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, "prod", file.Current)
	prod, err := file.Find("prod")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(filepath.Dir(path), "ca.crt"), prod.CA, "files are found beside the file")
	require.Equal(t, "/etc/c.crt", prod.Certificate)
	_, err = file.Find("nobody")
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorContains(t, err, `["prod" "test"]`)
	for _, none := range []string{"", filepath.Join(t.TempDir(), "none")} {
		file, err = Load(none)
		require.NoError(t, err)
		require.Empty(t, file.Contexts)
	}
	_, err = Load(write(t, ""))
	require.NoError(t, err)
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"contexts: [{name: a, color: red}]": "color",
		"contexts: [{bbs: 'b:1'}]":          "number 1 has no name",
		"contexts: [{name: a}, {name: a}]":  "twice",
		"contexts: 7":                       "contexts.yaml",
		"[":                                 "contexts.yaml",
	} {
		_, err := Load(write(t, text))
		require.ErrorContains(t, err, want, text)
	}
	_, err := Load(t.TempDir())
	require.Error(t, err, "a folder is no file")
}

func TestPath(t *testing.T) {
	t.Parallel()
	path := func(env map[string]string) string { return Path(func(name string) string { return env[name] }) }
	require.Equal(t, "/c.yaml", path(map[string]string{"CFDOT_CONTEXTS": "/c.yaml", "HOME": "/h"}))
	require.Equal(t, "/x/cfdot/contexts.yaml", path(map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}))
	require.Equal(t, "/h/.config/cfdot/contexts.yaml", path(map[string]string{"HOME": "/h"}))
	require.Empty(t, path(nil))
}

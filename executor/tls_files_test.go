package executor

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDownloadsFromAServerOfAPrivateAuthority(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(archiveOf(t, "app.txt", "content"))
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	c := newCell(t, nil)
	c.cfg.DownloadTLS = TLSFiles{CA: ca}
	c.open()
	defer func() { c.stop() }()
	c.run("i", RunInfo{Action: &Action{Download: &DownloadAction{From: server.URL, To: "/home/vcap", User: "vcap"}}})
	await(t, "container to complete", func() bool { return c.get("i").State == StateCompleted })
	require.Equal(t, Result{}, c.get("i").Result)
}

func TestTLSFiles(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	tests := map[string]struct {
		files TLSFiles
		want  string // of Validate, or else of load
	}{
		"a relative path":            {files: TLSFiles{CA: "ca.crt"}, want: `ca "ca.crt" is not an absolute path`},
		"a certificate without key":  {files: TLSFiles{Certificate: "/c"}, want: "certificate and key need each other"},
		"no such file":               {files: TLSFiles{CA: "/nowhere/ca.crt"}, want: "no such file"},
		"a file without certificate": {files: TLSFiles{CA: empty}, want: "has no certificate"},
		"a pair that is none":        {files: TLSFiles{Certificate: empty, Key: empty}, want: "reading certificate for downloads"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.files.Validate()
			if err == nil {
				_, err = tc.files.load()
			}
			require.ErrorContains(t, err, tc.want)
		})
	}
	none, err := TLSFiles{}.load()
	require.NoError(t, err)
	require.Nil(t, none)
}

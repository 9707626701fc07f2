package volume

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/volume/volumetest"
)

func TestReadSpec(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file, content string
		want          Spec
		problem       string
	}{
		"a socket by its address":       {file: "a.spec", content: "unix:///run/a.sock\n", want: Spec{Name: "a", Socket: "/run/a.sock"}},
		"tcp on this machine":           {file: "a.spec", content: "tcp://127.0.0.1:99", want: Spec{Name: "a", Host: "127.0.0.1:99"}},
		"http on this machine":          {file: "a.spec", content: "http://localhost:99", want: Spec{Name: "a", Host: "localhost:99"}},
		"json names the driver":         {file: "a.json", content: `{"Name":"b","Addr":"tcp://[::1]:99","UniqueVolumeIds":true}`, want: Spec{Name: "b", Host: "[::1]:99", UniqueVolumeIDs: true}},
		"a socket by itself":            {file: "a.sock", want: Spec{Name: "a", Socket: "a.sock"}},
		"plaintext to another machine":  {file: "a.spec", content: "tcp://10.0.0.1:99", problem: "without TLS it must be on this machine"},
		"plaintext by a name":           {file: "a.json", content: `{"Addr":"http://driver.example:99"}`, problem: "without TLS it must be on this machine"},
		"no port":                       {file: "a.spec", content: "tcp://127.0.0.1", problem: "missing port"},
		"no scheme":                     {file: "a.spec", content: "/run/a.sock", problem: "is not of unix, tcp, http or https"},
		"a relative socket":             {file: "a.spec", content: "unix://run/a.sock", problem: "names no socket by an absolute path"},
		"no JSON":                       {file: "a.json", content: `{`, problem: "reading the description"},
		"a name that is a path":         {file: "a.json", content: `{"Name":"../b","Addr":"unix:///a"}`, problem: "is not one"},
		"certificates are not believed": {file: "a.json", content: `{"Addr":"https://10.0.0.1:99","TLSConfig":{"InsecureSkipVerify":true}}`, problem: "by its certificate only"},
		"no authority":                  {file: "a.json", content: `{"Addr":"https://10.0.0.1:99","TLSConfig":{"CAFile":"/nowhere"}}`, problem: "no such file"},
		"no certificate":                {file: "a.json", content: `{"Addr":"https://10.0.0.1:99","TLSConfig":{"CertFile":"/nowhere"}}`, problem: "loading the certificate"},
		"too large":                     {file: "a.spec", content: strings.Repeat("a", maxSpec+1), problem: "not a small file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			path := filepath.Join(folder, test.file)
			require.NoError(t, os.WriteFile(path, []byte(test.content), 0o600))
			specs, problems := readSpecs([]string{folder, filepath.Join(folder, "missing")})
			if test.problem != "" {
				require.Empty(t, specs)
				require.ErrorContains(t, problems[path], test.problem)
				return
			}
			require.Empty(t, problems)
			test.want.file = path
			if test.want.Socket == "a.sock" {
				test.want.Socket = path
			}
			require.Equal(t, []Spec{test.want}, specs)
		})
	}
}

func TestReadSpecsTakesTheFirstOfAName(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		filepath.Join(one, "a.spec"): "tcp://127.0.0.1:1", filepath.Join(one, "a.json"): `{"Addr":"tcp://127.0.0.1:2"}`, filepath.Join(one, "a.sock"): "",
		filepath.Join(two, "a.json"): `{"Addr":"tcp://127.0.0.1:3"}`, filepath.Join(two, "b.spec"): "tcp://127.0.0.1:4",
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	specs, problems := readSpecs([]string{one, two})
	require.Empty(t, problems)
	require.Len(t, specs, 2)
	require.Equal(t, "127.0.0.1:2", specs[0].Host, "in one folder JSON tells most")
	require.Equal(t, "127.0.0.1:4", specs[1].Host)
}

// Each way of reaching a driver reaches it.
func TestDriversAreReached(t *testing.T) {
	t.Parallel()
	p := volumetest.New(t, false)
	folder := t.TempDir()
	socket := filepath.Join(folder, "socket.sock")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	overUnix := httptest.NewUnstartedServer(p)
	require.NoError(t, overUnix.Listener.Close())
	overUnix.Listener = listener
	overUnix.Start()
	t.Cleanup(overUnix.Close)
	overTLS := httptest.NewUnstartedServer(p)
	overTLS.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	overTLS.StartTLS()
	t.Cleanup(overTLS.Close)
	authority := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: overTLS.Certificate().Raw}), 0o600))
	describe := func(file, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600))
	}
	p.Describe(folder, "plain.spec", "tcp://%s")
	describe("unix.spec", "unix://"+socket)
	describe("tls.json", `{"Addr":"`+overTLS.URL+`","TLSConfig":{"CAFile":"`+authority+`"}}`)
	describe("stranger.json", `{"Addr":"`+overTLS.URL+`"}`)
	v, err := Open(t.Context(), Config{Dir: t.TempDir(), Folders: []string{folder}}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"plain", "socket", "tls", "unix"}, v.Drivers())
	require.Len(t, v.Problems(), 1)
	require.Contains(t, v.Problems()[0], "certificate")
}

func FuzzReadSpec(f *testing.F) {
	for _, content := range []string{"unix:///a", "tcp://127.0.0.1:1", `{"Name":"a","Addr":"https://a:1","TLSConfig":{}}`, "http://[::1%25a]:1", "tcp://:0"} {
		f.Add(true, content)
		f.Add(false, content)
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, asJSON bool, content string) {
		spec := Spec{Name: "a", file: folder}
		var err error
		if asJSON {
			err = spec.parseJSON([]byte(content))
		} else if err = spec.setAddress(content); err == nil {
			err = spec.checkPlaintext()
		}
		if err != nil {
			return
		}
		if !driverName.MatchString(spec.Name) || (spec.Socket == "") == (spec.Host == "") {
			t.Fatalf("%q gives %+v", content, spec)
		}
		if spec.Socket == "" && spec.TLS == nil && !strings.HasPrefix(spec.Host, "127.") && !strings.HasPrefix(spec.Host, "localhost:") && !strings.HasPrefix(spec.Host, "[") {
			t.Fatalf("%q is spoken to in plaintext at %q", content, spec.Host)
		}
	})
}

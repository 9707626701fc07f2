package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// buffer may be written to by a running process and read by its test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process runs the telemetry of a process until the test ends.
func process(t *testing.T, cfg Config) (*Telemetry, *buffer) {
	t.Helper()
	out := &buffer{}
	tel, err := newTelemetry("bbs", cfg, out)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tel.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return tel, out
}

func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(content)
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	tel, _ := process(t, Config{})
	url := "http://" + tel.DebugAddr()
	tel.Listening("grpc", "0.0.0.0:8889")
	var broken error
	tel.AddReadiness("lock", func() (any, error) { return map[string]any{"held": broken == nil}, broken })

	code, body := request(t, http.MethodGet, url+"/readyz", "")
	require.Equal(t, http.StatusOK, code, body)
	var s state
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	require.True(t, s.Accepting)
	require.Equal(t, runtime.Version(), s.Runtime)
	require.NotEmpty(t, s.Version)
	require.NotEmpty(t, s.Host)
	require.Contains(t, s.Addresses["grpc"], "127.0.0.1:8889", "every address of the machine")
	require.Equal(t, []string{tel.DebugAddr()}, s.Addresses["debug"])

	broken = errors.New("lost to b")
	code, body = request(t, http.MethodGet, url+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	s = state{}
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	require.Equal(t, []string{"lock: lost to b"}, s.Reasons)
	require.Equal(t, map[string]any{"held": false}, s.Checks["lock"].Detail)

	code, _ = request(t, http.MethodGet, url+"/healthz", "")
	require.Equal(t, http.StatusOK, code, "alive, though not ready")
}

func TestLogLevelChangesAtRunTime(t *testing.T) {
	t.Parallel()
	tel, out := process(t, Config{Log: LogConfig{Level: "info"}})
	url := "http://" + tel.DebugAddr() + "/log-level"
	tel.Log.Debug("hidden")
	code, body := request(t, http.MethodPut, url, "debug\n")
	require.Equal(t, http.StatusOK, code, body)
	tel.Log.Debug("shown")
	require.NotContains(t, out.String(), "bbs.hidden")
	require.Contains(t, out.String(), "bbs.shown")

	for _, bad := range []string{"", "loud", strings.Repeat("x", 1000)} {
		code, _ = request(t, http.MethodPut, url, bad)
		require.Equal(t, http.StatusBadRequest, code, "level %q", bad)
	}
	_, body = request(t, http.MethodGet, url, "")
	require.Contains(t, body, `"debug"`)
}

func TestMetricsAndProfiles(t *testing.T) {
	t.Parallel()
	tel, _ := process(t, Config{})
	tel.Log.Info("x")
	_, body := request(t, http.MethodGet, "http://"+tel.DebugAddr()+"/metrics", "")
	for _, name := range []string{
		"go_goroutines", "process_open_fds", "go_build_info", `application_info{component="bbs"`, `log_lines_total{level="info"} 1`, "log_bytes_total",
	} {
		require.Contains(t, body, name)
	}
	code, body := request(t, http.MethodGet, "http://"+tel.DebugAddr()+"/debug/pprof/goroutine?debug=1", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, "goroutine profile")
}

func TestStarted(t *testing.T) {
	t.Parallel()
	cfg := Config{}
	cfg.SetFileDigest("abc")
	tel, out := process(t, cfg)
	tel.Started(slog.String("zone", "z1"))
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	for _, part := range []string{`"message":"bbs.started"`, `"version":`, `"config_digest":"abc"`, `"zone":"z1"`, tel.DebugAddr()} {
		require.Contains(t, out.String(), part)
	}
	_, body := request(t, http.MethodGet, "http://"+tel.DebugAddr()+"/readyz", "")
	require.Contains(t, body, `"config_digest": "abc"`)
	_, body = request(t, http.MethodGet, "http://"+tel.DebugAddr()+"/metrics", "")
	require.Contains(t, body, `application_info{component="bbs",config_digest="abc"`)
}

func TestNewReportsATakenAddress(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	_, err = newTelemetry("bbs", Config{Debug: DebugConfig{Listen: taken.Addr().String()}}, io.Discard)
	require.ErrorContains(t, err, "debug listener")
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.Error(t, (&LogConfig{Level: "loud"}).Validate())
	require.NoError(t, (&LogConfig{Level: "warn"}).Validate())
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:80": true, "localhost:80": true, "": true, "0.0.0.0:80": false, ":80": false, "10.0.0.1:80": false, "x": false,
	} {
		require.Equal(t, ok, (&DebugConfig{Listen: address}).Validate() == nil, "listen %q", address)
	}
	err := (&TraceConfig{Endpoint: "h:1", SampleRatio: 2}).Validate()
	for _, key := range []string{"sample_ratio", "ca: ", "certificate: ", "key: "} {
		require.ErrorContains(t, err, key)
	}
	require.NoError(t, (&TraceConfig{}).Validate())
}

func TestDiscardRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, Discard().Run(ctx))
}

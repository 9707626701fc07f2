package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/router/natstest"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "router.yml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// freeAddress is one that was free a moment ago. The listener's own port is only known from the log.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func request(ctx context.Context, url, host string) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	req.Host = host
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// TestRun is the whole process: a registration over NATS makes a real backend answer, an unregistration ends it.
func TestRun(t *testing.T) {
	t.Parallel()
	authority := mtlstest.NewAuthority(t)
	nats := natstest.Start(t, authority)
	files := authority.Issue(mtls.Identity{Role: mtls.RoleRouter})
	listen, status, debug, accessLog := freeAddress(t), freeAddress(t), freeAddress(t), filepath.Join(t.TempDir(), "access.log")
	path := write(t, fmt.Sprintf(`
listen: %s
status: {listen: %s, healthy_after: 0s}
debug: {listen: %q}
nats: {addresses: [%s]}
tls: {ca: %s, certificate: %s, key: %s}
access_log: {file: %s}
drain: {wait: 0s, timeout: 5s}
`, listen, status, debug, nats.Address(), files.CA, files.Certificate, files.Key, accessLog))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-config", path}) }()

	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	host, port, err := net.SplitHostPort(backend.Listener.Addr().String())
	require.NoError(t, err)
	message := []byte(fmt.Sprintf(`{"host":%q,"port":%s,"uris":["app.example.com"],"private_instance_id":"ig"}`, host, port))
	eventually := func(what string, url, host string, want int) {
		t.Helper()
		require.Eventually(t, func() bool { got, _ := request(t.Context(), url, host); return got == want }, 10*time.Second, 5*time.Millisecond, what)
	}
	eventually("healthy", "http://"+status+"/health", "", http.StatusOK)
	code, body := request(t.Context(), "http://"+debug+"/readyz", "")
	require.Equal(t, http.StatusOK, code, body)
	for _, address := range []string{listen, status, debug} {
		require.Contains(t, body, address, "every address that it listens on")
	}
	peer := nats.Connect(mtls.RoleRouteEmitter)
	require.NoError(t, peer.Publish("router.register", message))
	eventually("routable", "http://"+listen+"/", "app.example.com", http.StatusOK)
	code, body = request(t.Context(), "http://"+status+"/routes", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `"app.example.com"`)
	require.NoError(t, peer.Publish("router.unregister", message))
	eventually("not routable", "http://"+listen+"/", "app.example.com", http.StatusNotFound)

	cancel()
	require.NoError(t, <-done)
	f, err := os.Open(accessLog)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	require.True(t, lines.Scan())
	require.True(t, strings.HasPrefix(lines.Text(), "app.example.com - ["), lines.Text())
}

func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	authority := mtlstest.NewAuthority(t)
	files := authority.Issue(mtls.Identity{Role: mtls.RoleRouter})
	base := fmt.Sprintf("tls: {ca: %s, certificate: %s, key: %s}\n", files.CA, files.Certificate, files.Key)
	good := base + "nats: {addresses: [127.0.0.1:4222]}\n"
	tests := map[string]struct{ text, want string }{
		"no nats":                          {base, "addresses"},
		"a nats address without port":      {base + "nats: {addresses: [somewhere]}\n", "missing port"},
		"an unknown key":                   {good + "lissten: x\n", "lissten"},
		"an unknown algorithm":             {good + "requests: {balancing: random}\n", "round-robin or least-connection"},
		"routes open to other machines":    {good + "status: {listen: \"0.0.0.0:0\"}\n", "no loopback address"},
		"a user without password":          {good + "status: {user: x}\n", "password_file"},
		"a threshold below two intervals":  {good + "registration: {stale_threshold: 30s}\n", "twice"},
		"a fraction of a second":           {good + "registration: {minimum_register_interval: 1500ms}\n", "whole seconds"},
		"a drain longer than a stop":       {good + "drain: {wait: 20s, timeout: 900s}\n", "must not exceed 14s"},
		"no attempts":                      {good + "requests: {max_attempts: 0}\n", "at least 1"},
		"a local preference without zone":  {good + "requests: {zone_preference: locally-optimistic}\n", "zone"},
		"a backend key alone":              {good + "backends: {key: /x}\n", "certificate and key go together"},
		"a backend CA without certificate": {good + "backends: {ca: " + files.Key + "}\n", "no certificate in"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load[Config]([]string{"-config", write(t, tc.text)})
			require.ErrorContains(t, err, tc.want)
		})
	}
	_, err := config.Load[Config]([]string{"-config", write(t, good)})
	require.NoError(t, err, "the defaults are valid")
}

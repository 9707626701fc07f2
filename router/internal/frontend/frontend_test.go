package frontend

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/router/internal/registry"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// get returns status 0 and the error if there is no answer. It may be called from any goroutine.
func get(t *testing.T, url string, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	if change != nil {
		change(req)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

func always() time.Time { return time.Unix(1, 0) }

func TestHealthCheck(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var filled time.Time
	h := NewHealth(func() time.Time { return filled }, 20*time.Second)
	require.ErrorContains(t, h.Check(now), "nats was not reached")
	filled = now
	require.ErrorContains(t, h.Check(now.Add(19*time.Second)), "gathering routes for another 1s")
	require.NoError(t, h.Check(now.Add(20*time.Second)))
	h.Drain()
	require.ErrorContains(t, h.Check(now.Add(20*time.Second)), "draining")
}

func TestFrontendDrain(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	health := NewHealth(always, 0)
	l := listen(t)
	f := New(Config{
		Listener: l, Health: health, Log: slog.New(slog.DiscardHandler), DrainWait: 200 * time.Millisecond, DrainTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(entered)
				<-leave
			}
			_, _ = io.WriteString(w, "ok")
		}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	url := "http://" + l.Addr().String()
	slow := make(chan int, 1)
	go func() { s, _ := get(t, url+"/slow", nil); slow <- s }()
	<-entered
	cancel()
	require.Eventually(t, func() bool { return health.Check(time.Now()) != nil }, 5*time.Second, time.Millisecond, "health turns bad")
	status, _ := get(t, url, nil)
	require.Equal(t, http.StatusOK, status, "requests are still taken")
	require.Eventually(t, func() bool { s, _ := get(t, url, nil); return s == 0 }, 5*time.Second, 5*time.Millisecond, "the listener closes")
	select {
	case err := <-done:
		t.Fatalf("Run returned %v with a request open", err)
	default:
	}
	close(leave)
	require.Equal(t, http.StatusOK, <-slow, "the open request ends well")
	require.NoError(t, <-done)
}

func TestFrontendDrainTimeoutCutsRequests(t *testing.T) {
	t.Parallel()
	entered, cut := make(chan struct{}), make(chan struct{})
	l := listen(t)
	f := New(Config{
		Listener: l, Health: NewHealth(always, 0), Log: slog.New(slog.DiscardHandler), DrainTimeout: 50 * time.Millisecond,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			close(cut)
		}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	go func() { get(t, "http://"+l.Addr().String(), nil) }()
	<-entered
	cancel()
	require.NoError(t, <-done)
	<-cut
}

func TestFrontendReportsBrokenListener(t *testing.T) {
	t.Parallel()
	l := listen(t)
	require.NoError(t, l.Close())
	err := New(Config{Listener: l, Health: NewHealth(always, 0), Log: slog.New(slog.DiscardHandler)}).Run(t.Context())
	require.ErrorContains(t, err, "serving http")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	table := registry.New(registry.Config{})
	_, err := table.Register("app.example.com", registry.Endpoint{
		Host: "10.0.0.1", Port: 61001, TLS: true, CertificateSAN: "ig", InstanceID: "ig", Protocol: "http1", Tags: map[string]string{"a": "b"}, Zone: "z1",
	}, time.Now())
	require.NoError(t, err)
	health := NewHealth(always, 0)
	l := listen(t)
	s := NewStatus(StatusConfig{Listener: l, Health: health, Registry: table, Balancing: registry.RoundRobin, User: "status", Password: "right"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	url := "http://" + l.Addr().String()

	status, _ := get(t, url+"/health", nil)
	require.Equal(t, http.StatusOK, status)
	health.Drain()
	status, body := get(t, url+"/health", nil)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "draining\n", body)

	for name, login := range map[string][2]string{"nobody": {"", ""}, "wrong password": {"status", "wrong"}, "wrong user": {"other", "right"}} {
		status, body = get(t, url+"/routes", func(r *http.Request) { r.SetBasicAuth(login[0], login[1]) })
		require.Equal(t, http.StatusUnauthorized, status, name)
		require.NotContains(t, body, "10.0.0.1", name)
	}
	status, body = get(t, url+"/routes", func(r *http.Request) { r.SetBasicAuth("status", "right") })
	require.Equal(t, http.StatusOK, status)
	var got any
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	want := map[string]any{"app.example.com": []any{map[string]any{
		"address": "10.0.0.1:61001", "tls": true, "ttl": 120.0, "protocol": "http1", "tags": map[string]any{"a": "b"}, "availability_zone": "z1",
		"private_instance_id": "ig", "server_cert_domain_san": "ig", "load_balancing_algorithm": "round-robin",
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	cancel()
	require.NoError(t, <-done)
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/router/internal/access"
	"diego.internal/router/internal/registry"
)

// rig is a proxy with a real listener in front of it.
type rig struct {
	t       *testing.T
	table   *registry.Registry
	proxy   *Proxy
	metrics *prometheus.Registry
	log     *lockedBuffer
	url     string
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p) //nolint:wrapcheck // a test
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newRig(t *testing.T, change func(*Config, *registry.Config)) *rig {
	t.Helper()
	r := &rig{t: t, log: &lockedBuffer{}, metrics: prometheus.NewRegistry()}
	cfg, rules := Config{Log: slog.New(slog.DiscardHandler), Metrics: r.metrics, Access: access.New(r.log), RequestTimeout: 10 * time.Second}, registry.Config{Rand: func(int) int { return 0 }}
	if change != nil {
		change(&cfg, &rules)
	}
	r.table = registry.New(rules)
	cfg.Registry = r.table
	r.proxy = New(cfg)
	t.Cleanup(r.proxy.Close)
	front := httptest.NewServer(r.proxy)
	t.Cleanup(front.Close)
	r.url = front.URL
	return r
}

// register announces an endpoint at address under uri.
func (r *rig) register(uri, address string, change func(*registry.Endpoint)) registry.Endpoint {
	r.t.Helper()
	host, port, err := net.SplitHostPort(address)
	require.NoError(r.t, err)
	var n uint16
	_, err = fmt.Sscan(port, &n)
	require.NoError(r.t, err)
	e := registry.Endpoint{Host: host, Port: n, AppID: "app", InstanceID: "instance-" + port, InstanceIndex: "0", Protocol: registry.ProtocolHTTP1}
	if change != nil {
		change(&e)
	}
	_, err = r.table.Register(uri, e, time.Now())
	require.NoError(r.t, err)
	return e
}

// reply is what a client got.
type reply struct {
	StatusCode int
	Header     http.Header
}

// do sends a request for app.example.com and returns the answer and its body.
func (r *rig) do(method string, change func(*http.Request)) (reply, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+"/path/x?q=1;2", nil)
	require.NoError(r.t, err)
	req.Host = "app.example.com"
	if change != nil {
		change(req)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, res.Body.Close()) }()
	body, err := io.ReadAll(res.Body)
	require.NoError(r.t, err)
	return reply{res.StatusCode, res.Header}, string(body)
}

// backend serves h at an address of its own.
func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }
}

// deadAddress is one that refuses connections.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func TestProxyPassesRequestAndAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var got *http.Request
	var body []byte
	e := r.register("app.example.com", backend(t, func(w http.ResponseWriter, req *http.Request) {
		got = req
		body, _ = io.ReadAll(req.Body)
		w.Header().Set("X-Backend", "yes")
		w.Header().Set("X-Vcap-Request-Id", "not the router's")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "hello")
	}), func(e *registry.Endpoint) { e.InstanceIndex = "2" })
	res, text := r.do(http.MethodPost, func(req *http.Request) {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader("data")), 4
		for name, v := range map[string]string{
			"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.example.com", "Forwarded": "for=192.0.2.7",
			"X-Cf-Proxy-Signature": "forged", "X-Cf-Applicationid": "forged", "X-Cf-Instanceid": "forged", "Connection": "X-Hop", "X-Hop": "1",
		} {
			req.Header.Set(name, v)
		}
	})
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	require.Equal(t, "hello", text)
	require.Equal(t, "yes", res.Header.Get("X-Backend"))
	require.Equal(t, "data", string(body))
	require.Equal(t, "/path/x?q=1;2", got.RequestURI, "the query passes as it was written")
	require.Equal(t, "app.example.com", got.Host)
	require.Len(t, res.Header.Values("X-Vcap-Request-Id"), 1)
	require.Len(t, got.Header.Get("X-Request-Start"), 13, "milliseconds")
	want := map[string]string{
		"X-Forwarded-For": "192.0.2.7, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.example.com", "Forwarded": "for=192.0.2.7",
		"X-Cf-Proxy-Signature": "", "X-Cf-Applicationid": "app", "X-Cf-Instanceid": e.InstanceID, "X-Cf-Instanceindex": "2", "X-Hop": "",
		"X-Vcap-Request-Id": res.Header.Get("X-Vcap-Request-Id"),
	}
	have := map[string]string{}
	for name := range want {
		have[name] = got.Header.Get(name)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("headers at the backend (-want +got):\n%s", diff)
	}
}

func TestProxyAnswersItself(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		register  func(*rig)
		request   func(*http.Request)
		status    int
		error     string
		body      string
		metric    string
		configure func(*Config, *registry.Config)
	}{
		"an unknown route": {status: 404, error: "unknown_route", body: "Requested route ('app.example.com') does not exist.", metric: "rejected_requests"},
		"a route whose endpoints are gone": {
			configure: func(_ *Config, rc *registry.Config) { rc.EmptyPoolRetention = time.Hour },
			register: func(r *rig) {
				e := r.register("app.example.com", "127.0.0.1:1", nil)
				r.table.Unregister("app.example.com", e, time.Now())
			},
			status: 503, error: "no_endpoints",
		},
		"a backend that refuses": {register: func(r *rig) { r.register("app.example.com", deadAddress(r.t), nil) }, status: 502, error: "endpoint_failure (dial tcp", metric: "bad_gateways"},
		"a backend that does not speak HTTP": {
			register: func(r *rig) {
				r.register("app.example.com", rawBackend(r.t, func(c net.Conn, _ int) { _, _ = io.WriteString(c, "nonsense\r\n\r\n") }), nil)
			},
			status: 502, error: "endpoint_failure (",
		},
		"a backend that takes too long": {
			configure: func(c *Config, _ *registry.Config) { c.RequestTimeout = 50 * time.Millisecond },
			register: func(r *rig) {
				r.register("app.example.com", backend(r.t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }), nil)
			},
			status: 502, error: "endpoint_failure (the backend took longer", metric: "bad_gateways",
		},
		"a malformed instance header": {
			register: func(r *rig) { r.register("app.example.com", "127.0.0.1:1", nil) },
			request:  func(req *http.Request) { req.Header.Set("X-CF-APP-INSTANCE", "app") }, status: 400, error: "invalid_cf_app_instance_header",
		},
		"an unknown instance": {
			register: func(r *rig) { r.register("app.example.com", "127.0.0.1:1", nil) },
			request:  func(req *http.Request) { req.Header.Set("X-CF-APP-INSTANCE", "app:7") }, status: 400, error: "invalid_cf_app_instance_header",
		},
		"headers that are too large": {
			configure: func(c *Config, _ *registry.Config) { c.MaxHeaderBytes = 8192 },
			request:   func(req *http.Request) { req.Header.Set("X-Large", strings.Repeat("x", 8192)) }, status: 431, error: "max-request-size-exceeded", metric: "rejected_requests",
		},
		"a route bound to a route service": {
			register: func(r *rig) {
				r.register("app.example.com", "127.0.0.1:1", func(e *registry.Endpoint) { e.RouteServiceURL = "https://rs.example.com" })
			},
			status: 502, error: "route_service_unsupported",
		},
		"an upgrade on a route bound to a route service": {
			register: func(r *rig) {
				r.register("app.example.com", "127.0.0.1:1", func(e *registry.Endpoint) { e.RouteServiceURL = "https://rs.example.com" })
			},
			request: func(req *http.Request) {
				req.Header.Set("Upgrade", "websocket")
				req.Header.Set("Connection", "Upgrade")
			},
			status: 503, error: "route_service_unsupported",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.configure)
			if tc.register != nil {
				tc.register(r)
			}
			res, body := r.do(http.MethodGet, tc.request)
			if res.StatusCode != tc.status || !strings.HasPrefix(res.Header.Get("X-Cf-RouterError"), tc.error) || !strings.Contains(body, tc.body) {
				t.Errorf("status %d, X-Cf-RouterError %q, body %q; want %d, %q, %q", res.StatusCode, res.Header.Get("X-Cf-RouterError"), body, tc.status, tc.error, tc.body)
			}
			require.Contains(t, r.log.String(), `x_cf_routererror:"`+tc.error)
			if tc.metric != "" {
				require.InDelta(t, 1, r.metric(tc.metric), 0, tc.metric)
			}
		})
	}
}

// metric returns the value of a counter without labels.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	r.t.Fatalf("no metric %s", name)
	return 0
}

func TestProxyEmptyHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	res := r.raw("GET / HTTP/1.0\r\n\r\n")
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Equal(t, "empty_host", res.Header.Get("X-Cf-RouterError"))
}

// raw sends text as it is and reads the head of one answer.
func (r *rig) raw(text string) reply {
	r.t.Helper()
	conn := r.dial()
	_, err := io.WriteString(conn, text)
	require.NoError(r.t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(r.t, err)
	require.NoError(r.t, res.Body.Close())
	return reply{res.StatusCode, res.Header}
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(r.t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// rawBackend handles connections below HTTP, each after its request headers were read. n counts connections.
func rawBackend(t *testing.T, handle func(c net.Conn, n int)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					handle(c, n)
				}
			})
		}
	})
	return l.Addr().String()
}

func TestProxyRetries(t *testing.T) {
	t.Parallel()
	type setup func(r *rig) (accesses func() int)
	dead := func(r *rig) func() int {
		r.register("app.example.com", deadAddress(r.t), nil)
		return func() int { return 0 }
	}
	// rude reads the request and hangs up.
	rude := func(r *rig) func() int {
		var mu sync.Mutex
		count := 0
		r.register("app.example.com", rawBackend(r.t, func(net.Conn, int) { mu.Lock(); count++; mu.Unlock() }), nil)
		return func() int { mu.Lock(); defer mu.Unlock(); return count }
	}
	good := func(r *rig) func() int {
		r.register("app.example.com", backend(r.t, named("good")), nil)
		return func() int { return 0 }
	}
	tests := map[string]struct {
		endpoints []setup
		method    string
		header    string
		body      string
		want      int
		rude      int // requests that the first endpoint has seen
	}{
		"a refused connection is retried":                        {[]setup{dead, good}, http.MethodGet, "", "", 200, 0},
		"even with a body":                                       {[]setup{dead, good}, http.MethodPost, "", "data", 200, 0},
		"two refused connections are retried":                    {[]setup{dead, dead, good}, http.MethodPost, "", "data", 200, 0},
		"three attempts are all":                                 {[]setup{dead, dead, dead, good}, http.MethodGet, "", "", 502, 0},
		"it stops when all endpoints were tried":                 {[]setup{dead}, http.MethodGet, "", "", 502, 0},
		"an idempotent request that was hung up on is retried":   {[]setup{rude, good}, http.MethodGet, "", "", 200, 1},
		"another one is not, because it may have been processed": {[]setup{rude, good}, http.MethodPost, "", "", 502, 1},
		"unless its sender says that it is safe":                 {[]setup{rude, good}, http.MethodPost, "Idempotency-Key", "", 200, 1},
		"but never with a body that was partly sent":             {[]setup{rude, good}, http.MethodPost, "Idempotency-Key", "data", 502, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			var seen func() int
			for i, add := range tc.endpoints {
				s := add(r)
				if i == 0 {
					seen = s
				}
			}
			res, body := r.do(tc.method, func(req *http.Request) {
				if tc.header != "" {
					req.Header.Set(tc.header, "1")
				}
				if tc.body != "" {
					req.Body, req.ContentLength = io.NopCloser(strings.NewReader(tc.body)), int64(len(tc.body))
				}
			})
			if res.StatusCode != tc.want || seen() != tc.rude {
				t.Errorf("status %d (%s), first endpoint saw %d requests; want %d, %d", res.StatusCode, body, seen(), tc.want, tc.rude)
			}
			if tc.want == 200 {
				require.Equal(t, "good", body)
			}
		})
	}
}

func TestProxyPassesOverFailedEndpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config, _ *registry.Config) { c.MaxAttempts = 1 })
	r.register("app.example.com", deadAddress(t), nil)
	r.register("app.example.com", backend(t, named("good")), nil)
	var statuses []int
	for range 4 {
		res, _ := r.do(http.MethodGet, nil)
		statuses = append(statuses, res.StatusCode)
	}
	if diff := cmp.Diff([]int{502, 200, 200, 200}, statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestProxyInstanceHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i := range 3 {
		r.register("app.example.com", backend(t, named(fmt.Sprint("instance ", i))), func(e *registry.Endpoint) {
			e.InstanceIndex, e.Tags = fmt.Sprint(i), map[string]string{"process_id": "proc"}
		})
	}
	for _, tc := range []struct{ header, value, want string }{
		{"X-CF-APP-INSTANCE", "app:0", "instance 0"},
		{"X-CF-APP-INSTANCE", "app:2", "instance 2"},
		{"X-CF-PROCESS-INSTANCE", "proc:1", "instance 1"},
	} {
		for range 3 {
			_, body := r.do(http.MethodGet, func(req *http.Request) { req.Header.Set(tc.header, tc.value) })
			require.Equal(t, tc.want, body, "%s: %s", tc.header, tc.value)
		}
	}
	res, _ := r.do(http.MethodGet, func(req *http.Request) { req.Header.Set("X-CF-PROCESS-INSTANCE", "proc") })
	require.Equal(t, http.StatusOK, res.StatusCode)
	res, _ = r.do(http.MethodGet, func(req *http.Request) { req.Header.Set("X-CF-PROCESS-INSTANCE", "other") })
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
}

func TestProxyStickySession(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	byName := map[string]registry.Endpoint{}
	for _, name := range []string{"a", "b"} {
		byName[name] = r.register("app.example.com", backend(t, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/login" {
				http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "s", Path: "/app", Secure: true, MaxAge: 60})
			}
			_, _ = io.WriteString(w, name)
		}), nil)
	}
	request := func(path string, cookies ...*http.Cookie) (string, map[string]*http.Cookie) {
		res, body := r.do(http.MethodGet, func(req *http.Request) {
			req.URL.Path = path
			for _, c := range cookies {
				req.AddCookie(c)
			}
		})
		set := map[string]*http.Cookie{}
		for _, c := range (&http.Response{Header: res.Header}).Cookies() {
			set[c.Name] = c
		}
		return body, set
	}
	_, none := request("/plain")
	require.Empty(t, none, "without a session there is no cookie")
	name, set := request("/login")
	sticky := set["__VCAP_ID__"]
	require.NotNil(t, sticky)
	require.Equal(t, byName[name].InstanceID, sticky.Value)
	require.Equal(t, "/app", sticky.Path)
	require.True(t, sticky.Secure)
	require.Equal(t, 60, sticky.MaxAge)
	session := &http.Cookie{Name: "JSESSIONID", Value: "s"}
	for range 4 {
		got, again := request("/plain", session, sticky)
		require.Equal(t, name, got, "the session stays with its instance")
		require.Empty(t, again)
	}
	r.table.Unregister("app.example.com", byName[name], time.Now())
	other, moved := request("/plain", session, sticky)
	require.NotEqual(t, name, other)
	require.NotNil(t, moved["__VCAP_ID__"], "a new instance is named when the old one is gone")
	require.Equal(t, byName[other].InstanceID, moved["__VCAP_ID__"].Value)
}

func TestProxyConnectionLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(_ *Config, rc *registry.Config) { rc.MaxConnections = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	r.register("app.example.com", backend(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave }), nil)
	first := make(chan int, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url, nil)
		req.Host = "app.example.com"
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			first <- 0
			return
		}
		_ = res.Body.Close()
		first <- res.StatusCode
	}()
	<-entered
	res, _ := r.do(http.MethodGet, nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "Connection Limit Reached", res.Header.Get("X-Cf-RouterError"))
	require.InDelta(t, 1, r.metric("backend_exhausted_conns"), 0)
	close(leave)
	require.Equal(t, http.StatusOK, <-first)
}

func TestProxyUpgrade(t *testing.T) {
	t.Parallel()
	// The request timeout is shorter than the connection lives, which must not matter to it.
	r := newRig(t, func(c *Config, _ *registry.Config) { c.RequestTimeout = 100 * time.Millisecond })
	r.register("ws.example.com", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}), nil)
	conn := r.dial()
	_, err := io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: ws.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil) //nolint:bodyclose // a switched connection has no body
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	until := time.After(300 * time.Millisecond)
	for n := 0; ; n++ {
		line := fmt.Sprintf("message %d\n", n)
		_, err = io.WriteString(conn, line)
		require.NoError(t, err)
		got, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, line, got)
		select {
		case <-until:
			require.InDelta(t, 1, r.metric("websocket_upgrades"), 0)
			require.NoError(t, conn.Close())
			require.Eventually(t, func() bool { return strings.Contains(r.log.String(), `HTTP/1.1" 101 `) }, 5*time.Second, 5*time.Millisecond, "the log line comes when the connection ends")
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestProxyRefusedUpgradeIsCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.register("ws.example.com", backend(t, named("plain answer")), nil)
	res := r.raw("GET /x HTTP/1.1\r\nHost: ws.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.InDelta(t, 1, r.metric("websocket_failures"), 0)
}

func TestProxyClientGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	entered := make(chan struct{})
	e := r.register("app.example.com", backend(t, func(_ http.ResponseWriter, req *http.Request) { close(entered); <-req.Context().Done() }), nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	require.NoError(t, err)
	req.Host = "app.example.com"
	_, err = http.DefaultTransport.RoundTrip(req) //nolint:bodyclose // it fails
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), `HTTP/1.1" 499 `) }, 5*time.Second, 5*time.Millisecond)
	lease, err := r.table.Lookup("app.example.com", "").Pick(registry.Criteria{Prefer: e.InstanceID}, time.Now())
	require.NoError(t, err)
	lease.Release()
}

func TestProxyAccessLogAndMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	address := backend(t, named("0123456789"))
	r.register("app.example.com", address, nil)
	r.do(http.MethodPost, func(req *http.Request) {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader("body")), 4
		req.Header.Set("Authorization", "Bearer hidden")
		req.Header.Set("Cookie", "session=hidden")
		req.URL.RawQuery = "token=hidden"
	})
	require.Eventually(t, func() bool { return r.log.String() != "" }, 5*time.Second, time.Millisecond)
	line := r.log.String()
	require.Contains(t, line, `app.example.com - [`)
	require.Contains(t, line, `"POST /path/x HTTP/1.1" `)
	require.Contains(t, line, `"`+address+`"`)
	require.Contains(t, line, `app_id:"app" app_index:"0" instance_id:"instance-`)
	require.NotContains(t, line, "hidden")
	require.InDelta(t, 1, r.metric("total_requests"), 0)
	require.InDelta(t, 1, testutil.ToFloat64(r.proxy.metrics.responses.WithLabelValues("2xx")), 0)
}

func TestProxyStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	next := make(chan struct{})
	r.register("app.example.com", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "one\n")
		_ = http.NewResponseController(w).Flush()
		<-next
		_, _ = io.WriteString(w, "two\n")
	}), nil)
	conn := r.dial()
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReader(res.Body)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "one\n", line, "the first event arrives before the second is made")
	close(next)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "two\n", line)
}

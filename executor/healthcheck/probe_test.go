package healthcheck

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type probeCase struct {
	probe Probe
	want  string
}

func TestProbes(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("User-Agent") != "diego-healthcheck" || r.Header.Get("X-Forwarded-Proto") != "https":
			w.WriteHeader(http.StatusTeapot)
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case r.URL.Path == "/query" && r.URL.RawQuery != "a=b":
			w.WriteHeader(http.StatusBadRequest)
		case r.URL.Path == "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(server.Close)
	open := portOf(t, server.Listener.Addr())
	// A port that was just closed refuses.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := portOf(t, listener.Addr())
	require.NoError(t, listener.Close())
	dial := (&net.Dialer{}).DialContext
	web := NewHTTP(dial)
	refused := "127.0.0.1:" + strconv.Itoa(int(closed))
	tests := map[string]probeCase{
		"tcp to an open port":      {probe: TCP(dial, "127.0.0.1", open, time.Second)},
		"tcp to a closed port":     {probe: TCP(dial, "127.0.0.1", closed, time.Second), want: "failed to make TCP connection to " + refused + ": connection refused"},
		"http 200":                 {probe: web.Probe("127.0.0.1", open, "", time.Second)},
		"http with a query":        {probe: web.Probe("127.0.0.1", open, "/query?a=b", time.Second)},
		"http 500":                 {probe: web.Probe("127.0.0.1", open, "/bad", time.Second), want: "failed to make HTTP request to '/bad' on port " + strconv.Itoa(int(open)) + ": received status code 500 in "},
		"a redirect is no health":  {probe: web.Probe("127.0.0.1", open, "/moved", time.Second), want: "received status code 302 in "},
		"http that takes too long": {probe: web.Probe("127.0.0.1", open, "/slow", 50*time.Millisecond), want: "failed to make HTTP request to '/slow' on port " + strconv.Itoa(int(open)) + ": timed out after 0.05 seconds"},
		"http to a closed port":    {probe: web.Probe("127.0.0.1", closed, "/", time.Second), want: ": connection refused"},
		"http of a bad path":       {probe: web.Probe("127.0.0.1", open, "nowhere", time.Second), want: "failed to make HTTP request to 'nowhere'"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.probe(t.Context())
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, tc.kind(), KindOf(fmt.Errorf("wrapped: %w", err)))
		})
	}
}

func (c probeCase) kind() Kind {
	if strings.Contains(c.want, "TCP") {
		return KindTCP
	}
	return KindHTTP
}

func portOf(t *testing.T, address net.Addr) uint32 {
	t.Helper()
	tcp, ok := address.(*net.TCPAddr)
	require.True(t, ok)
	return uint32(tcp.Port)
}

// TestProbesOfAStarvedMachine has the machine wake a probe up long after its timeout: a failure counts only if it came in time.
func TestProbesOfAStarvedMachine(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	for name, tc := range map[string]struct {
		took     []time.Duration // of the attempts that time out, before one that succeeds
		attempts int
		fails    bool
	}{
		"an answer in time":                     {attempts: 1},
		"a failure in time":                     {took: []time.Duration{timeout}, attempts: 1, fails: true},
		"a failure that came late":              {took: []time.Duration{3 * timeout}, attempts: 2},
		"a failure that came late, and another": {took: []time.Duration{3 * timeout, timeout}, attempts: 2, fails: true},
		"nothing but late failures":             {took: []time.Duration{3 * timeout, 2 * timeout, 2 * timeout}, attempts: lateAttempts, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				probe := TCP(func(context.Context, string, string) (net.Conn, error) {
					attempts++
					if attempts <= len(tc.took) {
						time.Sleep(tc.took[attempts-1]) //nolint:forbidigo // the clock of the bubble
						return nil, context.DeadlineExceeded
					}
					client, server := net.Pipe()
					return client, server.Close()
				}, "10.0.0.1", 8080, timeout)
				err := probe(t.Context())
				require.Equal(t, tc.fails, err != nil, "%v", err)
				require.Equal(t, tc.attempts, attempts)
			})
		})
	}
}

package access

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func example() Record {
	return Record{
		Start: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Host: "app.example.com", Method: "GET", URI: "/path?token=secret", Protocol: "HTTP/1.1",
		Status: 200, BytesReceived: 3, BytesSent: 14, Referer: "https://user:secret@other.example.com/page?session=secret#secret", UserAgent: "curl/8",
		RemoteAddress: "192.0.2.1:5000", Backend: "10.0.0.1:61000", ForwardedFor: "192.0.2.1", ForwardedProto: "https", RequestID: "rid",
		ResponseTime: 1500 * time.Microsecond, RouterTime: 250 * time.Microsecond, AppID: "app", AppIndex: "0", InstanceID: "ig",
	}
}

func TestLogWrite(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*Record)
		want   string
	}{
		"a whole line": {func(*Record) {}, `app.example.com - [2026-01-02T03:04:05.000006000Z] "GET /path HTTP/1.1" 200 3 14 "https://other.example.com/page" "curl/8" ` +
			`"192.0.2.1:5000" "10.0.0.1:61000" x_forwarded_for:"192.0.2.1" x_forwarded_proto:"https" vcap_request_id:"rid" response_time:0.001500 ` +
			`gorouter_time:0.000250 app_id:"app" app_index:"0" instance_id:"ig" x_cf_routererror:"-"`},
		"what a client sends cannot break the line": {
			func(r *Record) {
				*r = Record{Start: r.Start, Host: "a b\n\"", Method: "GET", URI: "/", Protocol: "HTTP/1.1", UserAgent: "x\" app_id:\"y\nz"}
			},
			`a_b__ - [2026-01-02T03:04:05.000006000Z] "GET / HTTP/1.1" 0 0 0 "-" "x\" app_id:\"y\nz" "-" "-" x_forwarded_for:"-" x_forwarded_proto:"-" ` +
				`vcap_request_id:"-" response_time:0.000000 gorouter_time:0.000000 app_id:"-" app_index:"-" instance_id:"-" x_cf_routererror:"-"`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			r := example()
			tc.change(&r)
			require.NoError(t, New(&out).Write(r))
			if diff := cmp.Diff(tc.want+"\n", out.String()); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogNeverHoldsSecrets(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, New(&out).Write(example()))
	require.NotContains(t, out.String(), "secret")
}

func TestOpenAppends(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	for range 2 {
		l, closeLog, err := Open(path)
		require.NoError(t, err)
		require.NoError(t, l.Write(example()))
		require.NoError(t, closeLog())
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "\n"))

	_, _, err = Open(filepath.Join(path, "below-a-file"))
	require.ErrorContains(t, err, "opening the access log")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestLogReportsFailedWrites(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, New(broken{}).Write(example()), "disk full")
}

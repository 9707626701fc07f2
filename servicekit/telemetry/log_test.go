package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

// logger returns a logger at debug and a function that reads the lines logged so far.
func logger(t *testing.T) (log *slog.Logger, lines func() []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	h := newHandler("bbs", &out, slog.LevelDebug, newLineMetrics(prometheus.NewRegistry()))
	return slog.New(h), func() []map[string]any {
		t.Helper()
		var all []map[string]any
		for line := range strings.Lines(out.String()) {
			var decoded map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &decoded), "%s", line)
			all = append(all, decoded)
		}
		return all
	}
}

func data(t *testing.T, line map[string]any) map[string]any {
	t.Helper()
	d, ok := line["data"].(map[string]any)
	require.True(t, ok, "%v", line)
	return d
}

func TestLogShape(t *testing.T) {
	t.Parallel()
	log, lines := logger(t)
	log.Info("claimed", "cell_id", "z1")
	got := lines()[0]
	at, err := time.Parse(time.RFC3339Nano, got["timestamp"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	delete(got, "timestamp")
	want := map[string]any{"level": "info", "source": "bbs", "message": "bbs.claimed", "data": map[string]any{"cell_id": "z1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	log, lines := logger(t)
	log.Debug("a")
	log.Info("a")
	log.Warn("a")
	log.Error("a")
	var levels []any
	for _, line := range lines() {
		levels = append(levels, line["level"])
	}
	require.Equal(t, []any{"debug", "info", "info", "error"}, levels)
	require.Equal(t, "warn", data(t, lines()[2])["severity"], "a warning is no error, but can be told from info")
}

func TestLogAttributes(t *testing.T) {
	t.Parallel()
	ctx, trace := StartTrace(With(With(context.Background(), slog.String("caller", "cell/a")), slog.String("method", "m")))
	log, lines := logger(t)
	base := log.With("a", 1)
	// Two loggers from one: their attributes must not mix.
	one, two := base.With("b", "one").WithGroup("g"), base.With("b", "two")
	one.InfoContext(ctx, "x", "c", true)
	two.InfoContext(context.Background(), "y", slog.Group("h", slog.Duration("took", time.Second)), "err", errors.New("broke"))
	require.Equal(t, map[string]any{
		"caller": "cell/a", "method": "m", "trace_id": trace, "a": 1.0, "b": "one", "g": map[string]any{"c": true},
	}, data(t, lines()[0]))
	require.Equal(t, map[string]any{
		"a": 1.0, "b": "two", "h": map[string]any{"took": "1s"}, "err": "broke",
	}, data(t, lines()[1]))
}

type panicking struct{}

func (panicking) String() string { panic("no string") }

func TestLogHidesSecrets(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key   string
		value any
		want  any
	}{
		"a password":                         {key: "db_password", value: "s3cret", want: redacted},
		"an environment":                     {key: "environment", value: []string{"A=s3cret"}, want: redacted},
		"a token that is a number":           {key: "fencing_token", value: 7, want: 7.0},
		"the path of a secret":               {key: "password_file", value: "/etc/x", want: "/etc/x"},
		"the user part of a URL":             {key: "url", value: "postgres://u:s3cret@h/db", want: "postgres://" + redacted + "@h/db"},
		"the query of a signed URL":          {key: "url", value: "get https://h/x?sig=s3cret now", want: "get https://h/x?" + redacted + " now"},
		"a connection string in an error":    {key: "error", value: errors.New("host=h password=s3cret user=u"), want: "host=h password=" + redacted + " user=u"},
		"a secret inside a structure":        {key: "x", value: map[string]any{"a": map[string]string{"Password": "s3cret"}}, want: map[string]any{"a": map[string]any{"Password": redacted}}},
		"a private key":                      {key: "x", value: "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----", want: redacted},
		"a message, which may hold anything": {key: "x", value: wrapperspb.String("s3cret"), want: "<google.protobuf.StringValue>"},
		"bytes":                              {key: "x", value: []byte("s3cret"), want: "<6 bytes>"},
		"a value that cannot be shown":       {key: "x", value: panicking{}, want: "!PANIC: no string"},
		"a number that JSON does not have":   {key: "x", value: math.Inf(1), want: "+Inf"},
		"a function":                         {key: "x", value: func() {}, want: "<func()>"},
		"plain text":                         {key: "x", value: "the secretary", want: "the secretary"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, lines := logger(t)
			log.Info("x", test.key, test.value)
			require.Equal(t, test.want, data(t, lines()[0])[test.key])
		})
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Repeat(rapid.StringN(1, 40, -1).Draw(t, "part"), rapid.IntRange(1, 60).Draw(t, "times"))
		got := cut(s)
		require.LessOrEqual(t, utf8.RuneCountInString(got), maxString)
		if utf8.RuneCountInString(s) <= maxString {
			require.Equal(t, s, got)
			return
		}
		kept, marked := strings.CutSuffix(got, truncated)
		require.True(t, marked)
		require.True(t, strings.HasPrefix(s, kept))
		require.Equal(t, maxString, utf8.RuneCountInString(got))
	})
}

func TestFatal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	writeFatal(&out, "bbs", errors.New("broke"), 4, []byte("goroutine 1\nmain.go:7"))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "fatal", line["level"])
	require.Equal(t, "bbs.exiting", line["message"])
	require.Equal(t, map[string]any{"error": "broke", "exit_code": 4.0, "trace": []any{"goroutine 1", "main.go:7"}}, line["data"])
}

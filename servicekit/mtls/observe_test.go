package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSourceCallsOutTheEnd(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		leaf, root time.Duration   // lives of the certificate and its CA
		looks      []time.Duration // since the begin
		want       []string        // what each look says
	}{
		"a long one, 30 days before its end":        {365 * day, 3650 * day, []time.Duration{334 * day, 336 * day}, []string{"", "certificate-ends-soon"}},
		"a short one, in the last third":            {3 * day, 3650 * day, []time.Duration{47 * time.Hour, 49 * time.Hour}, []string{"", "certificate-ends-soon"}},
		"its CA":                                    {365 * day, 200 * day, []time.Duration{169 * day, 171 * day}, []string{"", "certificate-ends-soon"}},
		"again after a day, not before":             {365 * day, 3650 * day, []time.Duration{340 * day, 340*day + 23*time.Hour, 341 * day}, []string{"certificate-ends-soon", "", "certificate-ends-soon"}},
		"one that has ended, as an error":           {90 * day, 3650 * day, []time.Duration{90 * day}, []string{"certificate-has-ended"}},
		"one whose CA has ended, though it has not": {90 * day, 60 * day, []time.Duration{61 * day}, []string{"certificate-has-ended"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lines bytes.Buffer
			s := &Source{cfg: Config{Certificate: "tls.crt"}}
			s.log.Store(slog.New(slog.NewTextHandler(&lines, nil)))
			s.current.Store(&material{
				certificate: tls.Certificate{Leaf: &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(test.leaf)}},
				root:        &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(test.root)},
				identity:    Identity{TrustDomain: "cf", Role: RoleBBS},
			})
			for i, at := range test.looks {
				lines.Reset()
				s.warn(begin.Add(at))
				if test.want[i] == "" {
					require.Empty(t, lines.String(), "look %d", i)
					continue
				}
				require.Equal(t, 1, strings.Count(lines.String(), "\n"), "look %d", i)
				require.Contains(t, lines.String(), "msg="+test.want[i]+" ", "look %d", i)
				require.Contains(t, lines.String(), "file=tls.crt", "look %d", i)
				require.Equal(t, test.want[i] == "certificate-has-ended", strings.Contains(lines.String(), "level=ERROR"), "look %d", i)
			}
		})
	}
}

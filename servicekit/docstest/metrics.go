package docstest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/telemetry"
)

const (
	fetchPatience = 20 * time.Second
	fetchPause    = 20 * time.Millisecond
)

// FreeAddress returns a loopback address that was free a moment ago, for the debug listener of a process in a test.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	require.NoError(tb, listener.Close())
	return listener.Addr().String()
}

// FetchMetrics asks the debug listener of a process for its metrics, and waits until one of the given name is among
// them: the one that the process registers last.
func FetchMetrics(tb testing.TB, debugAddress, last string) []telemetry.MetricName {
	tb.Helper()
	var names []telemetry.MetricName
	require.Eventually(tb, func() bool {
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://"+debugAddress+"/metrics/names", nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		names = nil
		return json.NewDecoder(resp.Body).Decode(&names) == nil &&
			slices.ContainsFunc(names, func(n telemetry.MetricName) bool { return n.Name == last })
	}, fetchPatience, fetchPause, "the metrics of %s, %s among them", debugAddress, last)
	return names
}

// Metrics checks that docs/metrics.md describes, under the given headings and "Every process", every metric of a process
// with its labels, and nothing else. The metrics of the Go runtime and of the process, which have pages of their own
// elsewhere, are left out.
func Metrics(tb testing.TB, names []telemetry.MetricName, headings ...string) {
	tb.Helper()
	compareMetrics(tb, readPage(tb, "metrics.md"), names, append([]string{"Every process"}, headings...))
}

func compareMetrics(tb testing.TB, p page, names []telemetry.MetricName, headings []string) {
	tb.Helper()
	described := map[string][]string{}
	for _, heading := range headings {
		if len(p.tables[heading]) == 0 {
			assert.Fail(tb, fmt.Sprintf("docs/%s has no table under %q", p.name, heading))
		}
		for _, r := range p.tables[heading] {
			for _, name := range codes(r.cell(0)) {
				described[name] = codes(r.cell(1))
				if r.cell(2) == "" || r.cell(3) == "" {
					assert.Fail(tb, fmt.Sprintf("docs/%s: %s has no meaning, or nothing to do about it", p.name, name))
				}
			}
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name, "go_") || strings.HasPrefix(n.Name, "process_") || strings.HasPrefix(n.Name, "promhttp_") {
			continue
		}
		labels, ok := described[n.Name]
		delete(described, n.Name)
		slices.Sort(labels)
		switch {
		case !ok:
			assert.Fail(tb, fmt.Sprintf("docs/%s lacks %s (labels %v: %s) under %q", p.name, n.Name, n.Labels, n.Help, headings))
		case !slices.Equal(labels, n.Labels):
			assert.Fail(tb, fmt.Sprintf("docs/%s: %s has the labels %v, not %v", p.name, n.Name, n.Labels, labels))
		}
	}
	for name := range described {
		assert.Fail(tb, fmt.Sprintf("docs/%s describes %s under %q, which the process does not have", p.name, name, headings))
	}
}

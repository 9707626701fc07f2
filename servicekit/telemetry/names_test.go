package telemetry

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// unchecked describes nothing, as a collector does that does not know its labels beforehand.
type unchecked struct{}

func (unchecked) Describe(chan<- *prometheus.Desc) {}

func (unchecked) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("unchecked", "Not described.", []string{"b", "a"}, nil), prometheus.GaugeValue, 1, "1", "2")
}

func TestMetricNames(t *testing.T) {
	t.Parallel()
	tel, _ := process(t, Config{})
	tel.Registry.MustRegister(
		prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "refused_total", Help: `With "quotes", {braces} and \ more.`, ConstLabels: prometheus.Labels{"at": `"x", y={z}`},
		}, []string{"reason", "by"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "plain", Help: ""}),
		unchecked{},
	)
	_, body := request(t, http.MethodGet, "http://"+tel.DebugAddr()+"/metrics/names", "")
	var all []MetricName
	require.NoError(t, json.Unmarshal([]byte(body), &all), body)
	got := map[string]MetricName{}
	for _, n := range all {
		got[n.Name] = n
	}
	for _, want := range []MetricName{
		{Name: "refused_total", Labels: []string{"at", "by", "reason"}, Help: `With "quotes", {braces} and \ more.`},
		{Name: "plain"},
		{Name: "unchecked", Labels: []string{"a", "b"}, Help: "Not described."},
		{Name: "log_lines_total", Labels: []string{"level"}, Help: "Lines logged, by level."},
	} {
		if diff := cmp.Diff(want, got[want.Name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Name, diff)
		}
	}
}

package subscriber

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"diego.internal/router/internal/registry"
)

// metrics counts messages and shows the size and age of the table.
type metrics struct {
	registrations   *prometheus.CounterVec
	unregistrations prometheus.Counter
	rejected        prometheus.Counter
	pruned          prometheus.Counter
	dropped         prometheus.Gauge
	latency         prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, table *registry.Registry) *metrics {
	f := promauto.With(r)
	began := time.Now()
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "total_routes", Help: "URIs with at least one endpoint."}, func() float64 {
		return float64(table.Routes())
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "ms_since_last_registry_update", Help: "Milliseconds since the last registration or removal, or since the start if there was none."}, func() float64 {
		last := table.LastUpdate()
		if last.IsZero() {
			last = began
		}
		return float64(time.Since(last).Milliseconds())
	})
	return &metrics{
		registrations:   f.NewCounterVec(prometheus.CounterOpts{Name: "registry_message", Help: "Registrations by what they did to the table."}, []string{"action"}),
		unregistrations: f.NewCounter(prometheus.CounterOpts{Name: "unregistry_message", Help: "Unregistrations received."}),
		rejected:        f.NewCounter(prometheus.CounterOpts{Name: "rejected_messages", Help: "Messages that could not be used."}),
		pruned:          f.NewCounter(prometheus.CounterOpts{Name: "routes_pruned", Help: "Endpoints dropped because nobody registered them again."}),
		dropped:         f.NewGauge(prometheus.GaugeOpts{Name: "nats_dropped", Help: "Messages dropped because they came faster than they could be handled."}),
		latency:         f.NewHistogram(prometheus.HistogramOpts{Name: "route_registration_latency", Help: "Seconds from the change of an instance to its registration.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
	}
}

func (m *metrics) registered(o registry.Outcome) {
	action := "refresh"
	switch o {
	case registry.Added:
		action = "add"
	case registry.Replaced:
		action = "replace"
	case registry.Refreshed:
	}
	m.registrations.WithLabelValues(action).Inc()
}

package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts requests and how they ended.
type metrics struct {
	requests, rejected        prometheus.Counter
	responses                 *prometheus.CounterVec
	latency, lookup           prometheus.Histogram
	badGateways, exhausted    prometheus.Counter
	invalidID, handshake      prometheus.Counter
	invalidCertificate        prometheus.Counter
	upgrades, upgradeFailures prometheus.Counter
	evicted                   prometheus.Counter
	accessLogFailures         prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		requests:           counter("total_requests", "Requests received."),
		rejected:           counter("rejected_requests", "Requests answered by the router because they have no usable route."),
		responses:          f.NewCounterVec(prometheus.CounterOpts{Name: "responses", Help: "Responses by class of status."}, []string{"class"}),
		latency:            f.NewHistogram(prometheus.HistogramOpts{Name: "latency", Help: "Seconds from a request to the end of its response.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}),
		lookup:             f.NewHistogram(prometheus.HistogramOpts{Name: "route_lookup_time", Help: "Seconds to find the route of a request.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 10)}),
		badGateways:        counter("bad_gateways", "Requests that failed at their backend."),
		exhausted:          counter("backend_exhausted_conns", "Requests refused because all endpoints were at their connection limit."),
		invalidID:          counter("backend_invalid_id", "Requests that failed because the backend's certificate names another instance."),
		handshake:          counter("backend_tls_handshake_failed", "Requests that failed in the TLS handshake with the backend."),
		invalidCertificate: counter("backend_invalid_tls_cert", "Requests that failed because the backend's certificate is not trusted."),
		upgrades:           counter("websocket_upgrades", "Connections upgraded from HTTP."),
		upgradeFailures:    counter("websocket_failures", "Upgrades that the backend refused or that failed."),
		evicted:            counter("endpoints_evicted", "TLS endpoints removed because connecting to them failed."),
		accessLogFailures:  counter("access_log_failures", "Access log lines that could not be written."),
	}
}

// observe counts a finished request. Status 0 is a connection that ended before an answer began.
func (m *metrics) observe(status int, total time.Duration) {
	class := "xxx"
	if status >= 100 && status < 600 {
		class = strconv.Itoa(status/100) + "xx"
	}
	m.responses.WithLabelValues(class).Inc()
	m.latency.Observe(total.Seconds())
}

func (m *metrics) countFailure(a answer, err error) {
	switch a.status {
	case http.StatusBadGateway:
		m.badGateways.Inc()
	case statusHandshakeFailed, statusCertificateRequired:
		m.handshake.Inc()
	case statusUntrustedCertificate:
		m.invalidCertificate.Inc()
	case http.StatusServiceUnavailable:
		if a == answerLimit {
			m.exhausted.Inc()
		} else if failureStatus(err) == http.StatusServiceUnavailable {
			m.invalidID.Inc()
		}
	}
}

package grpcserver

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// metrics of all servers of a process.
type metrics struct {
	latency    *prometheus.HistogramVec
	streams    *prometheus.CounterVec
	inFlight   *prometheus.GaugeVec
	refused    *prometheus.CounterVec
	handshakes prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "request_latency_seconds", Help: "Time of unary calls, by method and code.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "code"}),
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "request_streams_total", Help: "Streams that have ended, by method and code.",
		}, []string{"method", "code"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "requests_in_flight", Help: "Calls and streams that run, by method.",
		}, []string{"method"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "requests_refused_total", Help: "Calls refused because of the caller's role, by method and role.",
		}, []string{"method", "role"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "handshakes_refused_total", Help: "Connections refused because of the peer's certificate, or broken off.",
		}),
	}
	// A process may have several servers; they share their metrics.
	err := errors.Join(
		register(reg, &m.latency), register(reg, &m.streams), register(reg, &m.inFlight),
		register(reg, &m.refused), register(reg, &m.handshakes),
	)
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of the grpc server: %w", err)
	}
	return m, nil
}

// register registers a collector, or takes the one that is registered already.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		existing, ok := already.ExistingCollector.(C)
		if !ok {
			return err
		}
		*c = existing
		return nil
	}
	return err
}

// maxCode is the highest code of gRPC.
const maxCode = codes.Unauthenticated

// observers are the metrics of one method, looked up once per code.
type observers struct {
	metrics  *metrics
	method   string
	inFlight prometheus.Gauge
	byCode   [maxCode + 1]atomic.Pointer[prometheus.Observer]
}

func (m *metrics) observers(method string) *observers {
	return &observers{metrics: m, method: method, inFlight: m.inFlight.WithLabelValues(method)}
}

func (o *observers) observe(code codes.Code, took time.Duration) {
	if code > maxCode {
		code = codes.Unknown
	}
	observer := o.byCode[code].Load()
	if observer == nil {
		found := o.metrics.latency.WithLabelValues(o.method, code.String())
		observer = &found
		o.byCode[code].Store(observer)
	}
	(*observer).Observe(took.Seconds())
}

func (o *observers) finished(code codes.Code) {
	o.metrics.streams.WithLabelValues(o.method, code.String()).Inc()
}

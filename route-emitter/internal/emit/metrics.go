package emit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"diego.internal/route-emitter/internal/routetable"
)

// metrics counts what is sent.
type metrics struct {
	registered, unregistered, synced prometheus.Counter
	http, internal                   prometheus.Counter
	dropped                          prometheus.Counter
}

func newMetrics(r prometheus.Registerer, e *Emitter) *metrics {
	f := promauto.With(r)
	began := time.Now()
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "nats_connected", Help: "1 while NATS is connected."}, func() float64 {
		if e.connected.Load() {
			return 1
		}
		return 0
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "seconds_since_last_emission", Help: "Seconds since everything was sent, or since the start if it never was."}, func() float64 {
		last := e.Status().LastEmission
		if last.IsZero() {
			last = began
		}
		return time.Since(last).Seconds()
	})
	return &metrics{
		registered:   counter("routes_registered", "Registrations sent because of a change."),
		unregistered: counter("routes_unregistered", "Unregistrations sent because of a change."),
		synced:       counter("routes_synced", "Registrations sent with the periodic emission."),
		http:         counter("http_route_nats_messages_emitted", "Messages to routers."),
		internal:     counter("internal_route_nats_messages_emitted", "Messages to service discovery."),
		dropped:      counter("nats_dropped", "Messages that could not be sent because NATS was away; the next emission makes up for them."),
	}
}

func (m *metrics) emitted(plane routetable.Plane) {
	if plane == routetable.PlaneInternal {
		m.internal.Inc()
		return
	}
	m.http.Inc()
}

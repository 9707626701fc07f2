package watch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics shows the table and the link to the BBS.
type metrics struct {
	sync       prometheus.Histogram
	collisions prometheus.Counter
}

func newMetrics(r prometheus.Registerer, w *Watcher) *metrics {
	f := promauto.With(r)
	began := time.Now()
	gauge := func(name, help string, value func(Status) float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(w.Status()) })
	}
	gauge("bbs_stream_connected", "1 while the event stream of the BBS is open.", func(s Status) float64 {
		if s.Connected {
			return 1
		}
		return 0
	})
	gauge("seconds_since_last_sync", "Seconds since the table was replaced by a snapshot, or since the start if it never was.", func(s Status) float64 {
		if s.LastSync.IsZero() {
			return time.Since(began).Seconds()
		}
		return time.Since(s.LastSync).Seconds()
	})
	gauge("routes_total", "Registrations for routers: pairs of route and endpoint.", func(s Status) float64 { return float64(s.Routes) })
	gauge("http_route_count", "The HTTP part of routes_total.", func(s Status) float64 { return float64(s.Routes) })
	gauge("internal_route_count", "Registrations for service discovery.", func(s Status) float64 { return float64(s.Internal) })
	return &metrics{
		sync:       f.NewHistogram(prometheus.HistogramOpts{Name: "route_emitter_sync_duration", Help: "Seconds from the request for a snapshot to the table made of it.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
		collisions: f.NewCounter(prometheus.CounterOpts{Name: "address_collisions", Help: "Instances that claimed an address which another one had."}),
	}
}

package cells

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetch  prometheus.Histogram
	failed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, f *Fleet) metrics {
	m := metrics{
		fetch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "auctioneer_fetch_states_duration_seconds", Help: "Time to have the states of all cells for a batch.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "auctioneer_failed_cell_state_requests_total", Help: "State calls that failed.",
		}),
	}
	known := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "auctioneer_cells", Help: "Cells that are known.",
	}, func() float64 { return float64(f.Summary().Known) })
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "auctioneer_open_cells", Help: "Cells that answer in time and take work.",
	}, func() float64 { return float64(f.Summary().Open) })
	reg.MustRegister(m.fetch, m.failed, known, open)
	return m
}

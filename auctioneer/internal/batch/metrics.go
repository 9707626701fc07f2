package batch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/auctioneer/internal/auction"
)

// metrics carries the spec's counters: started, failed and unknown auctions of
// instances and of tasks.
type metrics struct {
	lrpStarted, lrpFailed, lrpUnknown    prometheus.Counter
	taskStarted, taskFailed, taskUnknown prometheus.Counter
	duration, scheduling, wait           prometheus.Histogram
	size                                 prometheus.Histogram
	unanswered, reserved                 prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, q *Queue) metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	length := func(name, help string, read func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(read()) }))
	}
	length("auctioneer_queue_waiting", "Work that waits for the next batch.", func() int { n, _, _ := q.Lengths(); return n })
	length("auctioneer_queue_held", "Work that waits for starts to finish.", func() int { _, n, _ := q.Lengths(); return n })
	length("auctioneer_queue_taken", "Work that is being placed.", func() int { _, _, n := q.Lengths(); return n })
	seconds := prometheus.ExponentialBuckets(0.001, 2, 16)
	return metrics{
		lrpStarted:  counter("auctioneer_lrp_auctions_started_total", "Instances that a cell accepted."),
		lrpFailed:   counter("auctioneer_lrp_auctions_failed_total", "Instances that found no place."),
		lrpUnknown:  counter("auctioneer_lrp_auctions_unknown_total", "Instances whose cell did not say whether it took them; each is placed again."),
		taskStarted: counter("auctioneer_task_auctions_started_total", "Tasks that a cell accepted."),
		taskFailed:  counter("auctioneer_task_auctions_failed_total", "Tasks that found no place."),
		taskUnknown: counter("auctioneer_task_auctions_unknown_total", "Tasks whose cell did not say whether it took them; each is placed again."),
		duration:    histogram("auctioneer_batch_duration_seconds", "Time of a batch from its begin to the answers of the cells.", seconds),
		scheduling:  histogram("auctioneer_batch_scheduling_seconds", "Time of the decisions of a batch.", seconds),
		wait:        histogram("auctioneer_wait_duration_seconds", "Time from a request to the acceptance by a cell.", seconds),
		size:        histogram("auctioneer_batch_items", "Work decided by a batch.", prometheus.ExponentialBuckets(1, 4, 10)),
		reserved:    counter("auctioneer_requests_reserved_total", "Requests for work that a cell was about to begin with; it keeps that place."),
		unanswered:  counter("auctioneer_performs_unanswered_total", "Perform calls that a batch did not wait for."),
	}
}

func (m *metrics) started(kind auction.Kind, wait time.Duration) {
	pick(kind, m.lrpStarted, m.taskStarted).Inc()
	m.wait.Observe(wait.Seconds())
}

func (m *metrics) failed(kind auction.Kind)  { pick(kind, m.lrpFailed, m.taskFailed).Inc() }
func (m *metrics) unknown(kind auction.Kind) { pick(kind, m.lrpUnknown, m.taskUnknown).Inc() }

func pick(kind auction.Kind, lrp, task prometheus.Counter) prometheus.Counter {
	if kind == auction.Task {
		return task
	}
	return lrp
}

func (m *metrics) observe(b *run, total time.Duration) {
	m.duration.Observe(total.Seconds())
	m.scheduling.Observe(b.scheduling.Seconds())
	m.size.Observe(float64(b.items))
	m.unanswered.Add(float64(b.deferred))
}

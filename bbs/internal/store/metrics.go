package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/servicekit/fault"
)

// metrics of the store. Values that are known anyway are read when they are asked for.
type metrics struct {
	batchRequests prometheus.Histogram
	batchRows     prometheus.Histogram
	applySeconds  prometheus.Histogram
	commitSeconds prometheus.Histogram
	logBytes      prometheus.Counter
	refused       prometheus.Counter
	outages       prometheus.Counter
	overloaded    prometheus.Counter
	pruned        prometheus.Counter
	archiveReads  prometheus.Counter
	reloads       prometheus.Counter
	followErrors  prometheus.Counter
	fenced        prometheus.Counter
	resealed      prometheus.Counter
	// resealConflicts are values that somebody else changed between reading and replacing them.
	resealConflicts                prometheus.Counter
	refusals                       *prometheus.CounterVec
	comparedRows, comparisonErrors prometheus.Counter
	differences                    *prometheus.CounterVec
}

func newMetrics(s *Store, reg prometheus.Registerer) *metrics {
	histogram := func(name, help string, start float64, count int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, count),
		})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	m := &metrics{
		batchRequests: histogram("bbs_batch_requests", "Requests of one batch.", 1, 12),
		batchRows:     histogram("bbs_batch_rows", "Rows that one batch wrote.", 1, 16),
		applySeconds:  histogram("bbs_batch_apply_seconds", "Time to apply the requests of a batch in memory.", 1e-5, 16),
		commitSeconds: histogram("bbs_batch_commit_seconds", "Time to commit a batch in Postgres.", 1e-4, 16),
		logBytes:      counter("bbs_log_bytes_total", "Bytes written to batch_log."),
		refused:       counter("bbs_batches_refused_total", "Batches that Postgres refused."),
		outages:       counter("bbs_database_outages_total", "How often the outcome of a batch had to be looked up."),
		overloaded:    counter("bbs_writes_overloaded_total", "Writes refused because too many waited."),
		pruned:        counter("bbs_log_pruned_batches_total", "Batches removed from batch_log."),
		archiveReads:  counter("bbs_log_archive_reads_total", "Reads of batch_log for watchers that memory does not reach back for."),
		reloads:       counter("bbs_standby_reloads_total", "How often a standby had to load the tables again."),
		fenced:        counter("bbs_fenced_total", "Batches refused because another BBS has become active."),
		resealed:      counter("bbs_values_resealed_total", "Stored values that a rotation of keys sealed anew."),
		resealConflicts: counter("bbs_reseal_conflicts_total",
			"Stored values that changed while a rotation sealed them anew; they are looked at again."),
		comparedRows:     counter("bbs_compared_rows_total", "Rows of the tables that were compared with memory."),
		comparisonErrors: counter("bbs_comparison_errors_total", "Comparisons of memory with the tables that could not be completed."),
		differences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bbs_state_differences_total", Help: "Rows that were not the same in memory and in their table.",
		}, []string{"table", "kind"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bbs_writes_refused_total", Help: "Writes that the rules refused, by reason.",
		}, []string{"reason"}),
		followErrors: counter("bbs_standby_errors_total", "Failed attempts of a standby to follow the log."),
	}
	if reg == nil {
		return m
	}
	boolean := func(v bool) float64 {
		if v {
			return 1
		}
		return 0
	}
	reg.MustRegister(
		m.batchRequests, m.batchRows, m.applySeconds, m.commitSeconds, m.logBytes, m.refused, m.outages,
		m.overloaded, m.pruned, m.archiveReads, m.reloads, m.followErrors, m.fenced, m.refusals,
		m.resealed, m.resealConflicts, newRotationCollector(s), m.comparedRows, m.comparisonErrors, m.differences,
		gauge("bbs_active", "1 if this BBS is the active one.", func() float64 { return boolean(s.Active()) }),
		gauge("bbs_database_down", "1 while the active BBS has lost its database.", func() float64 { return boolean(s.Down()) }),
		gauge("bbs_revision", "Newest revision in memory.", func() float64 {
			if view := s.Committed(); view != nil {
				return float64(view.Revision())
			}
			return 0
		}),
		gauge("bbs_writes_waiting", "Writes that wait for a batch.", func() float64 { return float64(len(s.queue)) }),
		gauge("bbs_quarantined_records", "Rows that could not be read.", func() float64 { return float64(s.quarantine.count()) }),
		gauge("bbs_state_differences", "Rows that differed at the last comparison of memory with the tables.", func() float64 {
			_, n := s.LastComparison()
			return float64(n)
		}),
		gauge("bbs_watch_cursors", "Open watches.", func() float64 { _, _, n := s.watch.Stats(); return float64(n) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "bbs_watch_fell_behind_total", Help: "How often a slow watcher fell behind the recent batches and was served from the database.",
		}, func() float64 { return float64(s.watch.Behind()) }),
		gauge("bbs_watch_log_bytes", "Estimated memory of the recent batches.", func() float64 { _, n, _ := s.watch.Stats(); return float64(n) }),
	)
	return m
}

// reasonOf is the label of an error that a rule returned.
func reasonOf(err error) string {
	if reason := fault.Reason(err); reason != "" {
		return reason
	}
	return "UnknownError"
}

func (m *metrics) observeBatch(requests, rows int, apply, commit time.Duration) {
	m.batchRequests.Observe(float64(requests))
	m.batchRows.Observe(float64(rows))
	m.applySeconds.Observe(apply.Seconds())
	m.commitSeconds.Observe(commit.Seconds())
}

package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what an operator sees of the store. The gauges of held claims describe the database,
// so every server shows the same.
type metrics struct {
	activeLocks, activePresences        prometheus.Gauge
	oldestLock, oldestPresence          prometheus.Gauge
	locksExpired, presencesExpired      prometheus.Counter
	collisions, releasesRefused         *prometheus.CounterVec
	groupSize, watchLag                 prometheus.Histogram
	bridged, watchesCut, listenFailures prometheus.Counter
	watches, databaseUp                 prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		activeLocks:      gauge("active_locks", "Locks that are held, in the whole installation."),
		activePresences:  gauge("active_presences", "Presences that are held, in the whole installation."),
		oldestLock:       gauge("oldest_lock_renewal_seconds", "Age of the oldest last renewal of any lock."),
		oldestPresence:   gauge("oldest_presence_renewal_seconds", "Age of the oldest last renewal of any presence."),
		locksExpired:     counter("locks_expired_total", "Locks that this server found to have run out."),
		presencesExpired: counter("presences_expired_total", "Presences that this server found to have run out."),
		collisions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "claims_refused_total", Help: "Claims refused because another owner holds the key.",
		}, []string{"type"}),
		releasesRefused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "releases_refused_total", Help: "Releases refused because another owner holds the key.",
		}, []string{"type"}),
		watchLag: f.NewHistogram(prometheus.HistogramOpts{
			Name: "watch_lag_seconds", Help: "Time from a change, by the clock of the database, to its reading for the watches of this server.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		groupSize: f.NewHistogram(prometheus.HistogramOpts{
			Name: "claim_group_size", Help: "Claims and renewals that shared one statement.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		bridged:        counter("clock_gaps_bridged_total", "Gaps for which this server extended all claims: outages or steps of the clock."),
		watches:        gauge("watch_subscribers", "Watches that this server feeds."),
		watchesCut:     counter("watches_cut_total", "Watches ended by this server because it or they could not keep up."),
		listenFailures: counter("listen_failures_total", "Times the connection for notifications broke."),
		databaseUp:     gauge("database_up", "1 while the database answers this server."),
	}
}

func (m *metrics) held(locks, presences summary) {
	m.activeLocks.Set(float64(locks.Count))
	m.activePresences.Set(float64(presences.Count))
	m.oldestLock.Set(locks.Age)
	m.oldestPresence.Set(presences.Age)
}

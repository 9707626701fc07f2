package store

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// KeyRotation is how far the values under old keys are.
type KeyRotation struct {
	// ActiveLabel is that of the key that new values are sealed under.
	ActiveLabel string `json:"active_key"`
	// Known is set once the values have been counted.
	Known bool `json:"known"`
	// Left is how many values that can be read are still under each other label.
	Left map[string]int `json:"left,omitempty"`
	// Unreadable is how many values under each other label cannot be opened. They stay as they are.
	Unreadable map[string]int `json:"unreadable,omitempty"`
	// Removable are labels of the configuration that nothing needs any more.
	Removable []string `json:"removable,omitempty"`
}

// rotation is the state of Rotate that others look at.
type rotation struct {
	mu         sync.Mutex
	known      bool
	left       map[string]int
	unreadable map[string]int
}

// set replaces what is known.
func (r *rotation) set(left, unreadable map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known, r.left, r.unreadable = true, left, unreadable
}

// done takes away from what is left.
func (r *rotation) done(label string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left[label] = max(0, r.left[label]-n)
}

func (r *rotation) isUnreadable(label string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left[label] = max(0, r.left[label]-1)
	r.unreadable[label]++
}

// KeyRotation returns how far the values under old keys are; only the active BBS knows.
func (s *Store) KeyRotation() KeyRotation {
	r := &s.rotation
	r.mu.Lock()
	defer r.mu.Unlock()
	status := KeyRotation{ActiveLabel: s.keys.Active(), Known: r.known, Left: maps.Clone(r.left), Unreadable: maps.Clone(r.unreadable)}
	if r.known {
		for _, label := range s.keys.Labels() {
			if label != status.ActiveLabel && r.left[label] == 0 {
				status.Removable = append(status.Removable, label)
			}
		}
	}
	return status
}

// rotationCollector shows KeyRotation as metrics.
type rotationCollector struct {
	store            *Store
	left, unreadable *prometheus.Desc
}

func newRotationCollector(s *Store) *rotationCollector {
	return &rotationCollector{
		store:      s,
		left:       prometheus.NewDesc("bbs_values_under_old_keys", "Stored values that are sealed under another key than the active one, by its label.", []string{"label"}, nil),
		unreadable: prometheus.NewDesc("bbs_unreadable_values_under_old_keys", "Stored values under another key than the active one that cannot be opened.", []string{"label"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (r *rotationCollector) Describe(out chan<- *prometheus.Desc) { out <- r.left; out <- r.unreadable }

// Collect implements prometheus.Collector. A label of the configuration that nothing is under has 0.
func (r *rotationCollector) Collect(out chan<- prometheus.Metric) {
	status := r.store.KeyRotation()
	if !status.Known || !r.store.Active() {
		return
	}
	for _, label := range status.Removable {
		status.Left[label] = 0
	}
	for label, n := range status.Left {
		out <- prometheus.MustNewConstMetric(r.left, prometheus.GaugeValue, float64(n), label)
	}
	for label, n := range status.Unreadable {
		out <- prometheus.MustNewConstMetric(r.unreadable, prometheus.GaugeValue, float64(n), label)
	}
}

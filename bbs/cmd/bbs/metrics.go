package main

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/store"
	"diego.internal/servicekit/telemetry"
)

// observe shows the state as metrics and as readiness. What convergence has counted is that of its
// latest run.
func observe(tel *telemetry.Telemetry, st *store.Store, effects *effect.Effects) {
	tel.Registry.MustRegister(&stateCollector{store: st, effects: effects})
	tel.AddReadiness("store", func() (any, error) { return readiness(st) })
	tel.AddReadiness("effects", func() (any, error) { return effects.Waiting(), nil })
}

var errDatabaseLost = errors.New("the database is lost; it is being asked again")

func readiness(st *store.Store) (any, error) {
	detail := map[string]any{"active": st.Active()}
	if waits := st.StandbyWaits(); waits != "" && !st.Active() {
		detail["standby"] = waits
	}
	view := st.Committed()
	if view == nil {
		detail["state"] = "nothing loaded yet"
		return detail, nil
	}
	detail["revision"], detail["epoch"], detail["quarantined"] = view.Revision(), view.Epoch(), st.QuarantinedCount()
	if result, _ := st.LastComparison(); result != nil {
		detail["compared_with_tables"] = result
	}
	if st.Active() {
		detail["keys"] = st.KeyRotation()
	}
	if st.Down() {
		return detail, errDatabaseLost
	}
	return detail, nil
}

// stateCollector gathers what is known anyway when somebody asks for it.
type stateCollector struct {
	store   *store.Store
	effects *effect.Effects
}

// Describe sends nothing: the domains are not known beforehand.
func (c *stateCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	if !c.store.Active() {
		return // a standby would count the same things twice
	}
	status, waiting := c.effects.Status(), c.effects.Waiting()
	gauge := func(name, help string, value float64, labels ...string) {
		names := []string{"domain"}[:len(labels)]
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), prometheus.GaugeValue, value, labels...)
	}
	counter := func(name, help string, value int) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, float64(value))
	}
	now := time.Now()
	stats := status.Stats
	gauge("bbs_lrps_desired", "Sum of desired instances.", float64(stats.LRPsDesired))
	gauge("bbs_lrps_unclaimed", "Ordinary instances that wait for a cell.", float64(stats.LRPsUnclaimed))
	gauge("bbs_lrps_claimed", "Ordinary instances that start.", float64(stats.LRPsClaimed))
	gauge("bbs_lrps_running", "Ordinary instances that run.", float64(stats.LRPsRunning))
	gauge("bbs_crashed_actual_lrps", "Ordinary instances that wait for a restart.", float64(stats.LRPsCrashed))
	gauge("bbs_crashing_desired_lrps", "Desired LRPs with a crashed instance.", float64(stats.CrashingDesiredLRPs))
	gauge("bbs_lrps_missing", "Desired instances without a record.", float64(stats.LRPsMissing))
	gauge("bbs_lrps_extra", "Instances that nothing desires.", float64(stats.LRPsExtra))
	gauge("bbs_suspect_running_actual_lrps", "Running instances of lost cells.", float64(stats.SuspectRunning))
	gauge("bbs_suspect_claimed_actual_lrps", "Starting instances of lost cells.", float64(stats.SuspectClaimed))
	gauge("bbs_evacuating_actual_lrps", "Instances that wait for their replacement.", float64(stats.Evacuating))
	if stats.OldestUnclaimed > 0 {
		gauge("bbs_oldest_unclaimed_seconds", "For how long the oldest unclaimed instance waits.", now.Sub(time.Unix(0, stats.OldestUnclaimed)).Seconds())
	}
	gauge("bbs_tasks_pending", "Tasks that wait for a cell.", float64(stats.TasksPending))
	gauge("bbs_tasks_running", "Tasks that run.", float64(stats.TasksRunning))
	gauge("bbs_tasks_completed", "Tasks whose outcome nobody has taken.", float64(stats.TasksCompleted))
	gauge("bbs_tasks_resolving", "Tasks whose outcome somebody is taking.", float64(stats.TasksResolving))

	counter("bbs_convergence_runs_total", "Looks at everything.", status.Runs)
	gauge("bbs_convergence_duration_seconds", "Time of the latest look at everything.", status.Duration.Seconds())
	counter("bbs_convergence_lrps_acted_total", "Instances that convergence changed.", status.LRPsActed)
	counter("bbs_convergence_tasks_acted_total", "Tasks that convergence changed.", status.TasksActed)
	brake := 0.0
	if status.Brake {
		brake = 1
	}
	gauge("bbs_brake_engaged", "1 while convergence holds still because too many cells vanished.", brake)
	gauge("bbs_missing_cells", "Cells that were known lately and are not present.", float64(status.Missing))

	gauge("bbs_lrp_auctions_waiting", "Instances to be offered to the auctioneer.", float64(waiting.LRPAuctions))
	gauge("bbs_task_auctions_waiting", "Tasks to be offered to the auctioneer.", float64(waiting.TaskAuctions))
	gauge("bbs_callbacks_waiting", "Completion callbacks to be made.", float64(waiting.Callbacks))
	gauge("bbs_cells_with_orders", "Cells that have orders to be told.", float64(waiting.Cells))
	if view := c.store.Committed(); view != nil {
		for domain := range view.Domains() {
			if domain.Fresh(now) {
				gauge("bbs_domain_fresh", "1 while a domain is fresh.", 1, domain.Name)
			}
		}
	}
}

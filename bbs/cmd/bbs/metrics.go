package main

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/bbs/internal/converge"
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
	tel.AddReadiness("convergence", func() (any, error) { return convergence(st, effects.Status()), nil })
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

// convergenceState is what /readyz tells of convergence.
type convergenceState struct {
	LastRun  *time.Time `json:"last_run,omitempty"` // of the active one, if it has looked at everything yet
	Duration string     `json:"duration,omitempty"`
	Brake    bool       `json:"brake_engaged"`
	Present  int        `json:"present_cells"`
	Missing  int        `json:"missing_cells"`
}

func convergence(st *store.Store, status effect.Status) any {
	if !st.Active() {
		return "for the active bbs"
	}
	state := convergenceState{Brake: status.Brake, Present: status.Present, Missing: status.Missing}
	if !status.LastRun.IsZero() {
		last := status.LastRun.UTC()
		state.LastRun, state.Duration = &last, status.Duration.String()
	}
	return state
}

// stateCollector gathers what is known anyway when somebody asks for it.
type stateCollector struct {
	store   *store.Store
	effects *effect.Effects
}

// figures are one look at what is known.
type figures struct {
	now     time.Time
	stats   converge.Stats
	status  effect.Status
	waiting effect.Waiting
	counts  effect.Counts
}

// figure is a metric that is read from one look.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*figures) float64
}

func gauge(name, help string, read func(*figures) float64) figure {
	return figure{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, read}
}

func counter(name, help string, read func(*figures) float64) figure {
	return figure{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, read}
}

func number(read func(*figures) int) func(*figures) float64 {
	return func(f *figures) float64 { return float64(read(f)) }
}

func count(read func(effect.Counts) int64) func(*figures) float64 {
	return func(f *figures) float64 { return float64(read(f.counts)) }
}

// stateFigures are all but the domains.
var stateFigures = []figure{ //nolint:gochecknoglobals // a constant table
	gauge("bbs_lrps_desired", "Sum of desired instances.", number(func(f *figures) int { return f.stats.LRPsDesired })),
	gauge("bbs_lrps_unclaimed", "Ordinary instances that wait for a cell.", number(func(f *figures) int { return f.stats.LRPsUnclaimed })),
	gauge("bbs_lrps_claimed", "Ordinary instances that start.", number(func(f *figures) int { return f.stats.LRPsClaimed })),
	gauge("bbs_lrps_running", "Ordinary instances that run.", number(func(f *figures) int { return f.stats.LRPsRunning })),
	gauge("bbs_crashed_actual_lrps", "Ordinary instances that wait for a restart.", number(func(f *figures) int { return f.stats.LRPsCrashed })),
	gauge("bbs_crashing_desired_lrps", "Desired LRPs with a crashed instance.", number(func(f *figures) int { return f.stats.CrashingDesiredLRPs })),
	gauge("bbs_lrps_missing", "Desired instances without a record.", number(func(f *figures) int { return f.stats.LRPsMissing })),
	gauge("bbs_lrps_extra", "Instances that nothing desires.", number(func(f *figures) int { return f.stats.LRPsExtra })),
	gauge("bbs_suspect_running_actual_lrps", "Running instances of lost cells.", number(func(f *figures) int { return f.stats.SuspectRunning })),
	gauge("bbs_suspect_claimed_actual_lrps", "Starting instances of lost cells.", number(func(f *figures) int { return f.stats.SuspectClaimed })),
	gauge("bbs_evacuating_actual_lrps", "Instances that wait for their replacement.", number(func(f *figures) int { return f.stats.Evacuating })),
	gauge("bbs_oldest_unclaimed_seconds", "For how long the oldest unclaimed instance waits, 0 if none does.", func(f *figures) float64 {
		if f.stats.OldestUnclaimed == 0 {
			return 0
		}
		return f.now.Sub(time.Unix(0, f.stats.OldestUnclaimed)).Seconds()
	}),
	gauge("bbs_tasks_pending", "Tasks that wait for a cell.", number(func(f *figures) int { return f.stats.TasksPending })),
	gauge("bbs_tasks_running", "Tasks that run.", number(func(f *figures) int { return f.stats.TasksRunning })),
	gauge("bbs_tasks_completed", "Tasks whose outcome nobody has taken.", number(func(f *figures) int { return f.stats.TasksCompleted })),
	gauge("bbs_tasks_resolving", "Tasks whose outcome somebody is taking.", number(func(f *figures) int { return f.stats.TasksResolving })),

	counter("bbs_convergence_runs_total", "Looks at everything.", number(func(f *figures) int { return f.status.Runs })),
	counter("bbs_convergence_full_runs_total", "Looks at everything that could not leave out what is settled.", number(func(f *figures) int { return f.status.FullRuns })),
	gauge("bbs_convergence_lrps_looked_at", "Desired LRPs that the latest look at everything did not leave out.", number(func(f *figures) int { return f.status.Looked })),
	counter("bbs_convergence_missed_total", "Desired LRPs that were left out wrongly, as the next part of all LRPs has shown.", number(func(f *figures) int { return f.status.Missed })),
	gauge("bbs_convergence_duration_seconds", "Time of the latest look at everything.", func(f *figures) float64 { return f.status.Duration.Seconds() }),
	gauge("bbs_convergence_last_run_timestamp_seconds", "When everything was last looked at, in Unix time, 0 if it was not yet.", func(f *figures) float64 {
		if f.status.LastRun.IsZero() {
			return 0
		}
		return float64(f.status.LastRun.UnixMilli()) / 1e3
	}),
	counter("bbs_convergence_lrps_acted_total", "Instances that convergence changed.", number(func(f *figures) int { return f.status.LRPsActed })),
	counter("bbs_convergence_tasks_acted_total", "Tasks that convergence changed.", number(func(f *figures) int { return f.status.TasksActed })),
	gauge("bbs_brake_engaged", "1 while convergence holds still because too many cells vanished.", func(f *figures) float64 {
		if f.status.Brake {
			return 1
		}
		return 0
	}),
	gauge("bbs_missing_cells", "Cells that were known lately and are not present.", number(func(f *figures) int { return f.status.Missing })),

	gauge("bbs_lrp_auctions_waiting", "Instances to be offered to the auctioneer.", number(func(f *figures) int { return f.waiting.LRPAuctions })),
	gauge("bbs_task_auctions_waiting", "Tasks to be offered to the auctioneer.", number(func(f *figures) int { return f.waiting.TaskAuctions })),
	gauge("bbs_callbacks_waiting", "Completion callbacks to be made.", number(func(f *figures) int { return f.waiting.Callbacks })),
	gauge("bbs_cells_with_orders", "Cells that have orders to be told.", number(func(f *figures) int { return f.waiting.Cells })),
	counter("bbs_auction_requests_failed_total", "Requests that the auctioneer did not answer.", count(func(c effect.Counts) int64 { return c.AuctionRequestsFailed })),
	counter("bbs_auctions_refused_total", "Instances and tasks that the auctioneer would not queue.", count(func(c effect.Counts) int64 { return c.AuctionsRefused })),
	counter("bbs_cell_orders_failed_total", "Orders that a cell did not answer.", count(func(c effect.Counts) int64 { return c.OrdersFailed })),
	counter("bbs_cell_orders_refused_total", "Orders that a cell answered with an error.", count(func(c effect.Counts) int64 { return c.OrdersRefused })),
	counter("bbs_callbacks_delivered_total", "Tasks whose client was told of the completion.", count(func(c effect.Counts) int64 { return c.CallbacksDelivered })),
	counter("bbs_callbacks_failed_total", "Rounds of attempts after which the client was not told.", count(func(c effect.Counts) int64 { return c.CallbacksFailed })),
}

var domainFresh = prometheus.NewDesc("bbs_domain_fresh", "1 while a domain is fresh.", []string{"domain"}, nil)

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range stateFigures {
		out <- f.desc
	}
	out <- domainFresh
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(out chan<- prometheus.Metric) {
	if !c.store.Active() {
		return // a standby would count the same things twice
	}
	look := figures{now: time.Now(), status: c.effects.Status(), waiting: c.effects.Waiting(), counts: c.effects.Counts()}
	look.stats = look.status.Stats
	for _, f := range stateFigures {
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&look))
	}
	if view := c.store.Committed(); view != nil {
		for domain := range view.Domains() {
			if domain.Fresh(look.now) {
				out <- prometheus.MustNewConstMetric(domainFresh, prometheus.GaugeValue, 1, domain.Name)
			}
		}
	}
}

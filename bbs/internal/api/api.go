// Package api owns the gRPC services of the BBS: it checks what the rules of the messages cannot say,
// who may speak about what, and calls the rules in the writer. Its methods are thin.
//
// It does not own the rules (packages lrp and task), the state (package store), or what follows a
// commit (package effect).
package api

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/cells"
	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// errForeign refuses a cell that speaks about another one.
var errForeign = fault.New(codes.PermissionDenied, "PermissionDenied", "a cell may only speak about itself")

// errNotImplemented answers what a later release brings.
var errNotImplemented = fault.New(codes.Unimplemented, "Unimplemented", "this is not implemented yet")

// Cells lists who is present.
type Cells interface {
	List() []cells.Cell
}

// Effects is what the API asks of what follows commits.
type Effects interface {
	OverrideBrake(release bool, during time.Duration)
	Status() effect.Status
}

// SchemaStatus is what this process knows of the layout of the tables: the version that it was built for, the one that they had when
// it last looked, 0 before, and the one that a migration is under way to, 0 if none is.
type SchemaStatus struct{ BuiltFor, Version, MigratingTo int64 }

// Config of the API; all are required but the last four.
type Config struct {
	Store   *store.Store
	Cells   Cells
	Effects Effects
	Log     *slog.Logger
	// NewGUID makes a random guid. It must not block.
	NewGUID func() string
	// Instance is the name of this BBS among its peers.
	Instance string
	// Schema tells of the tables. It must not block.
	Schema func() SchemaStatus

	// MaxTaskRetries is how often a task may be rejected before it fails; 0 is 3.
	MaxTaskRetries int32
	// BookmarkInterval is how long a watch may be silent; 0 is 5 s.
	BookmarkInterval time.Duration
	// Clock tells the time; nil is time.Now.
	Clock func() time.Time
	// Metrics are registered here; nil registers none.
	Metrics prometheus.Registerer
}

// API is all services on one store.
type API struct {
	Config
	metrics *metrics
}

// Register adds all services to a server.
func Register(server grpc.ServiceRegistrar, cfg Config) {
	if cfg.MaxTaskRetries == 0 {
		cfg.MaxTaskRetries = 3
	}
	if cfg.BookmarkInterval == 0 {
		cfg.BookmarkInterval = 5 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	a := &API{Config: cfg, metrics: newMetrics(cfg.Metrics)}
	bbsv1.RegisterDomainsServer(server, &domains{API: a})
	bbsv1.RegisterTasksServer(server, &tasks{API: a})
	bbsv1.RegisterTaskCellServer(server, &taskCell{API: a})
	bbsv1.RegisterDesiredLRPsServer(server, &desiredLRPs{API: a})
	bbsv1.RegisterActualLRPsServer(server, &actualLRPs{API: a})
	bbsv1.RegisterActualLRPCellServer(server, &actualLRPCell{API: a})
	bbsv1.RegisterEvacuationServer(server, &evacuation{API: a})
	bbsv1.RegisterCellsServer(server, &cellList{API: a})
	bbsv1.RegisterPlacementServer(server, &placement{API: a})
	bbsv1.RegisterWatchServer(server, &watcher{API: a})
	bbsv1.RegisterMaintenanceServer(server, &maintenance{API: a})
}

// now is the time of a change, as precise as clients see it.
func (a *API) now() time.Time { return a.Clock().UTC().Truncate(time.Microsecond) }

// stamp is what a transition that may create a record takes from outside.
func (a *API) stamp() lrp.Stamp { return lrp.Stamp{Now: a.now(), Epoch: a.NewGUID()} }

// ownCell returns an error unless the caller is the cell that it speaks about.
func ownCell(ctx context.Context, cellID string) error {
	id, ok := mtls.PeerFromContext(ctx)
	if !ok || id.Role != mtls.RoleCell || id.Name != cellID {
		return errForeign.With("%s about cell %q", id, cellID)
	}
	return nil
}

// limitToOwnCell returns the cell that a reader is limited to: a cell sees its own only, whether it
// asks for that or for all.
func limitToOwnCell(ctx context.Context, asked string) (string, error) {
	id, _ := mtls.PeerFromContext(ctx)
	if id.Role != mtls.RoleCell {
		return asked, nil
	}
	if asked != "" && asked != id.Name {
		return "", errForeign.With("%s about cell %q", id, asked)
	}
	return id.Name, nil
}

// metrics count what tasks become, by cell.
type metrics struct {
	tasksStarted, tasksSucceeded, tasksFailed *prometheus.CounterVec
	secretsRead                               prometheus.Counter
	snapshots                                 *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	byCell := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"cell_id"})
	}
	m := &metrics{
		tasksStarted:   byCell("bbs_tasks_started_total", "Tasks that a cell was permitted to run."),
		tasksSucceeded: byCell("bbs_tasks_succeeded_total", "Tasks that a cell completed with success."),
		tasksFailed:    byCell("bbs_tasks_failed_total", "Tasks that a cell completed as failed."),
		secretsRead:    prometheus.NewCounter(prometheus.CounterOpts{Name: "bbs_secrets_read_total", Help: "Reads of secrets by clients."}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bbs_watch_snapshots_total", Help: "Snapshots sent to watchers, by reason.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.tasksStarted, m.tasksSucceeded, m.tasksFailed, m.secretsRead, m.snapshots)
	}
	return m
}

// Package cells owns what the BBS knows of cells: which are present and what they publish, as the lock
// service tells, and connections to them.
//
// It does not judge when a cell is lost (package converge), nor what to tell it (package effect).
package cells

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"diego.internal/bbs/internal/effect"
	"diego.internal/locket/lockclient"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Listener is told of cells that come and go, one event at a time and in order. It must not block.
type Listener interface {
	// CellsSynced says which cells are present, all of them.
	CellsSynced(present []string)
	CellArrived(id string)
	// CellExpired says that a cell went silent; inferred if nobody told so.
	CellExpired(id string, inferred bool)
	CellReleased(id string)
}

// Cell is one that is present. It must not be modified.
type Cell struct {
	Presence *workloadv1.CellPresence
	// Since when its present incarnation holds the presence.
	Since time.Time
}

// Config of a Registry; all are required but Metrics.
type Config struct {
	Backend  lockclient.Backend
	Listener Listener
	// Dial makes a lazy connection to the API of a cell.
	Dial    func(cellID, address string) (*grpc.ClientConn, error)
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Registry knows the cells that are present. It is safe for concurrent use.
type Registry struct {
	cfg    Config
	bad    prometheus.Counter
	mu     sync.RWMutex
	cells  map[string]*member
	synced bool
}

// member is a present cell and, once somebody asked for it, the connection to it.
type member struct {
	Cell
	conn *grpc.ClientConn
}

// NewRegistry returns a registry that knows no cell before Run.
func NewRegistry(cfg Config) *Registry {
	r := &Registry{cfg: cfg, cells: map[string]*member{}}
	r.bad = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "bbs_bad_presences_total", Help: "Presences of cells that could not be understood.",
	})
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(r.bad, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bbs_present_cells", Help: "Cells whose presence is held.",
		}, func() float64 { r.mu.RLock(); defer r.mu.RUnlock(); return float64(len(r.cells)) }))
	}
	return r
}

// Run follows the presences until ctx ends, and then closes all connections. It returns nil.
func (r *Registry) Run(ctx context.Context) error {
	_ = lockclient.WatchPresences(ctx, r.cfg.Backend, r.cfg.Log, r.handle) // it ends with ctx only
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, m := range r.cells {
		m.close()
		delete(r.cells, id)
	}
	return nil
}

func (r *Registry) handle(e lockclient.PresenceEvent) {
	switch e.Kind {
	case lockclient.Acquired, lockclient.Updated:
		if r.put(e.Held) && e.Kind == lockclient.Acquired {
			r.cfg.Log.Info("cell-arrived", "cell_id", e.Held.Key)
			r.cfg.Listener.CellArrived(e.Held.Key)
		}
	case lockclient.Released:
		if r.remove(e.Held.Key) {
			r.cfg.Log.Info("cell-released", "cell_id", e.Held.Key)
			r.cfg.Listener.CellReleased(e.Held.Key)
		}
	case lockclient.Expired:
		if r.remove(e.Held.Key) {
			r.cfg.Log.Warn("cell-expired", "cell_id", e.Held.Key, "inferred", e.Inferred)
			r.cfg.Listener.CellExpired(e.Held.Key, e.Inferred)
		}
	case lockclient.Synced:
		r.mu.Lock()
		r.synced = true
		present := make([]string, 0, len(r.cells))
		for id := range r.cells {
			present = append(present, id)
		}
		r.mu.Unlock()
		r.cfg.Listener.CellsSynced(present)
	}
}

// put stores what a cell publishes, and reports whether it is that of a cell.
func (r *Registry) put(held lockclient.Held) bool {
	presence, err := parse(held)
	if err != nil {
		r.bad.Inc()
		r.cfg.Log.Warn("presence-unreadable", "key", held.Key, "error", err)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.cells[held.Key]
	m := &member{Cell: Cell{Presence: presence, Since: held.AcquiredAt}}
	if old != nil {
		if old.Presence.GetRepAddress() == presence.GetRepAddress() {
			m.conn = old.conn
		} else {
			old.close()
		}
	}
	r.cells[held.Key] = m
	return true
}

func (r *Registry) remove(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.cells[id]
	if m == nil {
		return false
	}
	m.close()
	delete(r.cells, id)
	return true
}

func (m *member) close() {
	if m.conn != nil {
		_ = m.conn.Close() // calls under way end with an error of their own
	}
}

// parse reads and checks a presence.
func parse(held lockclient.Held) (*workloadv1.CellPresence, error) {
	presence := &workloadv1.CellPresence{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(held.Value, presence); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	switch {
	case presence.GetCellId() != held.Key:
		return nil, fmt.Errorf("cell %q is registered as %q", presence.GetCellId(), held.Key)
	case presence.GetRepAddress() == "":
		return nil, fmt.Errorf("rep_address is missing")
	case presence.GetCapacity().GetMemoryMb() <= 0 || presence.GetCapacity().GetContainers() <= 0 || presence.GetCapacity().GetDiskMb() < 0:
		return nil, fmt.Errorf("capacity %v makes no sense", presence.GetCapacity())
	}
	return presence, nil
}

// List returns the present cells in order of id.
func (r *Registry) List() []Cell {
	r.mu.RLock()
	defer r.mu.RUnlock()
	cells := make([]Cell, 0, len(r.cells))
	for _, m := range r.cells {
		cells = append(cells, m.Cell)
	}
	slices.SortFunc(cells, func(a, b Cell) int { return cmp.Compare(a.Presence.GetCellId(), b.Presence.GetCellId()) })
	return cells
}

// Synced reports whether it is known once which cells are present.
func (r *Registry) Synced() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.synced
}

// Instances returns a client of a cell's API for its instances. It does not wait for the connection.
//
// It returns effect.ErrNoCell if the cell is not present.
func (r *Registry) Instances(cellID string) (repv1.InstancesClient, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.cells[cellID]
	if m == nil {
		return nil, fmt.Errorf("cell %q: %w", cellID, effect.ErrNoCell)
	}
	if m.conn == nil {
		conn, err := r.cfg.Dial(cellID, m.Presence.GetRepAddress())
		if err != nil {
			return nil, fmt.Errorf("connecting to cell %q: %w", cellID, err)
		}
		m.conn = conn
	}
	return repv1.NewInstancesClient(m.conn), nil
}

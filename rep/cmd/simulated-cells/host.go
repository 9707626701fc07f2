package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/locket/lockclient"
	"diego.internal/rep/internal/cell"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

const mebibyte = 1 << 20

// host runs the cells of this process.
type host struct {
	cfg Config
	tel *telemetry.Telemetry

	mu    sync.Mutex
	cells map[string]*cell.Cell // by id; those that run now
}

func newHost(cfg Config, tel *telemetry.Telemetry) *host {
	return &host{cfg: cfg, tel: tel, cells: map[string]*cell.Cell{}}
}

// run starts the cells one after another and returns when all have ended: nil when ctx ended or every cell was evacuated
// for good, otherwise why a cell cannot work.
func (h *host) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range h.cfg.Cells.Count {
		description := h.cfg.Cells.describe(h.cfg.Cells.First + i)
		group.Go(func() error {
			if err := h.keep(ctx, description); err != nil {
				return fmt.Errorf("running cell %q: %w", description.ID, err)
			}
			return nil
		})
		if !pause(ctx, h.cfg.Cells.StartInterval) {
			break
		}
	}
	return group.Wait()
}

// keep runs one cell, again each time that it was evacuated.
func (h *host) keep(ctx context.Context, description cell.Description) error {
	source, err := mtls.Load(h.cfg.Certificates.of(description.ID)) // handshakes look for newer files
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}
	tel := h.telemetryOf(description.ID)
	bbs, err := dial(h.cfg.BBS, source, tel, mtls.RoleBBS, "bbs.v1")
	if err != nil {
		return err
	}
	defer func() { _ = bbs.Close() }()
	stores := lockclient.NewStores(h.cfg.StoresConfig, source, tel)
	defer func() { _ = stores.Close() }()
	claims, err := stores.Open(h.cfg.Presence.Backend)
	if err != nil {
		return err
	}
	for {
		err := h.once(ctx, cell.Config{Description: description, Source: source, BBS: bbs, Claims: claims, Telemetry: tel})
		if !errors.Is(err, cell.ErrEvacuated) {
			return err
		}
		after := h.cfg.Cells.RestartAfter
		if after == 0 || !pause(ctx, after) {
			return nil
		}
	}
}

func dial(cfg grpcclient.Config, source *mtls.Source, tel *telemetry.Telemetry, role, health string) (*grpc.ClientConn, error) {
	conn, err := grpcclient.Dial(cfg, grpcclient.Options{Source: source, Server: mtls.Peer{Role: role}, HealthService: health, Telemetry: tel})
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", role, err)
	}
	return conn, nil
}

// telemetryOf shares log and metrics. Readiness is the host's: a thousand cells would make a page that nobody can read.
func (h *host) telemetryOf(id string) *telemetry.Telemetry {
	own := telemetry.Discard()
	own.Log, own.Registry, own.Tracer = h.tel.Log.With(slog.String("cell_id", id)), h.tel.Registry, h.tel.Tracer
	return own
}

// once is the life of a cell on a machine of its own, which is gone afterwards.
func (h *host) once(ctx context.Context, cfg cell.Config) error {
	engine := simulated.New(h.machine(int(cfg.Description.Index)))
	cfg.Engine, cfg.Preloaded, cfg.Simulated = engine, h.cfg.Cells.RootFS, true
	cfg.Listen = net.JoinHostPort(h.cfg.Cells.Host, "0")
	cfg.Presence, cfg.Reconcile, cfg.Evacuation = h.cfg.Presence, h.cfg.Reconcile, h.cfg.Evacuation
	cfg.Executor = h.cfg.Executor
	cfg.Executor.Ephemeral, cfg.Executor.Dial = true, engine.Dial
	cfg.Executor.StateDir = filepath.Join(h.cfg.Executor.StateDir, cfg.Description.ID)
	cfg.Executor.MemoryMB, cfg.Executor.DiskMB = h.cfg.Cells.MemoryMB, h.cfg.Cells.DiskMB
	self, err := cell.New(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil // the start was cut off by our own end
		}
		return err
	}
	h.set(cfg.Description.ID, self)
	defer h.set(cfg.Description.ID, nil)
	return self.Run(ctx)
}

// machine makes networks that no other cell has, because routers tell endpoints apart by address.
func (h *host) machine(index int) simulated.Config {
	high, low := byte(index/256), byte(index%256) //nolint:gosec // below maxCells
	return simulated.Config{
		Capacity: garden.Capacity{
			MemoryInBytes: uint64(h.cfg.Cells.MemoryMB) * mebibyte, //nolint:gosec // positive, see Validate
			DiskInBytes:   uint64(h.cfg.Cells.DiskMB) * mebibyte,   //nolint:gosec // as above
			MaxContainers: h.cfg.Cells.Containers + 1,              // the executor keeps one for checks of the engine
		},
		ExternalIP: netip.AddrFrom4([4]byte{100, 64, high, low}).String(),
		Network:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, high<<4 | low>>4, low << 4, 0}), 20),
		OnCreate:   h.cfg.Behaviour.create,
		OnRun:      h.cfg.Behaviour.run,
	}
}

func (h *host) set(id string, c *cell.Cell) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c == nil {
		delete(h.cells, id)
		return
	}
	h.cells[id] = c
}

// list returns the cells that run.
func (h *host) list() []*cell.Cell {
	h.mu.Lock()
	defer h.mu.Unlock()
	cells := make([]*cell.Cell, 0, len(h.cells))
	for _, c := range h.cells {
		cells = append(cells, c)
	}
	return cells
}

// counts of cells for operators.
type counts struct {
	Configured int `json:"configured"`
	Running    int `json:"running"`
	Present    int `json:"present"`
}

// readiness is that of all cells together.
func (h *host) readiness() (any, error) {
	cells := h.list()
	c := counts{Configured: h.cfg.Cells.Count, Running: len(cells)}
	for _, each := range cells {
		if each.Present() {
			c.Present++
		}
	}
	if c.Present < c.Configured {
		return c, fmt.Errorf("%d of %d cells are present", c.Present, c.Configured)
	}
	return c, nil
}

// pause returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

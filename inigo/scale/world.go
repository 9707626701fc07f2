package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"diego.internal/deploy/cluster"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

const (
	domain = "scale"
	// perLRP instances make an LRP, but for the last one, which has the rest.
	perLRP = 5
	// instancesPerCell is what a cell offers. A run leaves room for those of lost and emptied cells.
	instancesPerCell = 400
	memoryMB         = 64
	// hosts are the processes that the cells live in. All have as many: one with fewer would start what it is given sooner, and be
	// given more for it. One at a time collects its garbage, and the cells of the others go on.
	hosts = 10
	// callers desire and remove at a time.
	callers = 50
	// stall is how long nothing at all may change before a step that waits gives up.
	stall = 2 * time.Minute
	poll  = 100 * time.Millisecond
)

// world is a running installation and what is known of it.
type world struct {
	options
	cluster *cluster.Cluster
	// hosts are the processes of the cells; the last one is the one to lose.
	hosts    []*cluster.Process
	operator *mtls.Source

	domains bbsv1.DomainsClient
	desired bbsv1.DesiredLRPsClient
	actual  bbsv1.ActualLRPsClient
	cells   bbsv1.CellsClient

	tail   *tail
	meter  *meter
	report *report

	conn   *grpc.ClientConn
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// newWorld starts everything, with all cells present and nothing desired.
func newWorld(ctx context.Context, o options) (*world, error) {
	began := time.Now()
	fmt.Printf("starting the control plane and %d simulated cells\n", o.cells)
	c, err := cluster.Start(ctx, cluster.Options{Folder: filepath.Join(o.folder, "c"), Bin: o.bin, Progress: os.Stdout})
	if err != nil {
		return nil, err
	}
	w := &world{options: o, cluster: c, report: &report{began: time.Now()}}
	if err := w.connect(ctx); err != nil {
		return nil, errors.Join(err, w.stop(ctx))
	}
	if err := w.startCells(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, c.Blame()), w.stop(ctx))
	}
	fmt.Printf("  %-32s %6.1f s\n", "all cells present", time.Since(began).Seconds())
	return w, nil
}

// connect makes the clients, and starts what observes until stop.
func (w *world) connect(ctx context.Context) error {
	observing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	var err error
	if w.operator, err = mtls.Load(w.cluster.Operator()); err != nil {
		return err
	}
	if w.conn, err = w.cluster.DialBBS(observing, w.cluster.Operator()); err != nil {
		return err
	}
	w.domains, w.desired = bbsv1.NewDomainsClient(w.conn), bbsv1.NewDesiredLRPsClient(w.conn)
	w.actual, w.cells = bbsv1.NewActualLRPsClient(w.conn), bbsv1.NewCellsClient(w.conn)
	w.tail = &tail{client: bbsv1.NewWatchClient(w.conn)}
	w.meter = newMeter(w.cluster)
	w.group.Go(func() { w.tail.run(observing) })
	w.group.Go(func() { w.sample(observing) })
	w.group.Go(func() { w.pulse(observing) })
	return nil
}

func (w *world) startCells(ctx context.Context) error {
	for i := range w.options.cells {
		// The certificates of a cell have its id as their name.
		if _, err := w.cluster.Issue(cellID(i), mtls.RoleCell, cellID(i)); err != nil {
			return err
		}
	}
	for i := range hosts {
		host, err := w.cluster.Add(cellsPrefix+strconv.Itoa(i), "simulated-cells", w.cellsConfig(i))
		if err == nil {
			err = yield(host)
		}
		if err != nil {
			return err
		}
		w.hosts = append(w.hosts, host)
	}
	if err := w.awaitCells(ctx, w.options.cells); err != nil {
		return err
	}
	_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
	return err
}

func cellID(i int) string { return "cell-" + strconv.Itoa(i) }

// yield has a process that hosts cells give way to the control plane. Cells have machines of their own elsewhere; here they would
// take so much of two cores that locks are lost.
func yield(host *cluster.Process) error {
	const nice = 10
	if err := syscall.Setpriority(syscall.PRIO_PGRP, host.PID(), nice); err != nil { // the group of a process has its number
		return fmt.Errorf("lowering the priority of %s: %w", host.Name, err)
	}
	return nil
}

// cellsPrefix begins the name of each process that hosts cells.
const cellsPrefix = "cells-"

// firstOf is the number of the first cell of a host.
func (w *world) firstOf(host int) int { return host * w.options.cells / hosts }

func (w *world) cellsConfig(host int) map[string]any {
	return map[string]any{
		"cells": map[string]any{
			"count": w.firstOf(host+1) - w.firstOf(host), "first": w.firstOf(host), "zones": []string{"z1", "z2", "z3"},
			"memory_mb": instancesPerCell * memoryMB, "disk_mb": instancesPerCell * memoryMB, "containers": instancesPerCell,
		},
		"certificates": map[string]any{"ca": w.cluster.Operator().CA, "folder": filepath.Dir(w.cluster.Operator().CA)},
		"bbs":          map[string]any{"addresses": w.cluster.BBSAddresses()},
		"locket":       map[string]any{"addresses": w.cluster.LocketAddresses()},
		// There are no routers to wait for.
		"executor": map[string]any{"state_dir": filepath.Join(filepath.Dir(w.cluster.LogFolder()), cellsPrefix+strconv.Itoa(host)), "drain_time": "-1s"},
		// A thousand cells and all that they talk to share two cores, which the steps saturate for minutes: renewals come late by many
		// seconds. No cell is to be lost by that, because what replaces it would make more work still.
		"presence": map[string]any{"ttl": "45s"},
		// Hundreds of cells share two cores with all that they call. What they report at a time has to be bounded, or calls take longer
		// than their deadlines, are repeated, and the renewals of presences wait behind them.
		"reconcile": map[string]any{"width": 2},
		"behaviour": map[string]any{"start_delay": map[string]any{"min": "50ms", "mean": "100ms", "max": "1s"}},
	}
}

// dialCell connects to the API of a cell. The caller closes the connection.
func (w *world) dialCell(id, address string) (*grpc.ClientConn, error) {
	return grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
		Source: w.operator, Server: mtls.Peer{Role: mtls.RoleCell, Name: id}, Telemetry: telemetry.Discard(),
	})
}

// addresses of the present cells by id.
func (w *world) addresses(ctx context.Context) (map[string]string, error) {
	return ofCells(ctx, w, func(c *bbsv1.Cell) string { return c.GetPresence().GetRepAddress() })
}

// zones of the present cells by id.
func (w *world) zones(ctx context.Context) (map[string]string, error) {
	return ofCells(ctx, w, func(c *bbsv1.Cell) string { return c.GetPresence().GetZone() })
}

// incarnations are since when the present cells are so, by id. A cell that was emptied comes back as another one, and may have the
// address that it had.
func (w *world) incarnations(ctx context.Context) (map[string]time.Time, error) {
	return ofCells(ctx, w, func(c *bbsv1.Cell) time.Time { return c.GetSince().AsTime() })
}

func ofCells[T any](ctx context.Context, w *world, what func(*bbsv1.Cell) T) (map[string]T, error) {
	answer, err := w.cells.ListCells(ctx, &bbsv1.ListCellsRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing the cells: %w", err)
	}
	out := make(map[string]T, len(answer.GetCells()))
	for _, c := range answer.GetCells() {
		out[c.GetPresence().GetCellId()] = what(c)
	}
	return out, nil
}

func (w *world) awaitCells(ctx context.Context, n int) error {
	return w.await(ctx, func(ctx context.Context) (any, error) {
		cells, err := w.addresses(ctx)
		if err == nil && len(cells) != n {
			err = fmt.Errorf("%d of %d cells are present", len(cells), n)
		}
		return len(cells), err
	})
}

// await polls until look has no complaint. It gives up, with the last complaint, when neither what look sees nor any record
// of an instance has changed for the time stall; a slow machine may take as long as it needs.
func (w *world) await(ctx context.Context, look func(context.Context) (progress any, err error)) error {
	type progress struct {
		seen    any
		changes int64
	}
	var last progress
	moved := time.Now()
	for {
		seen, err := look(ctx)
		if err == nil {
			return nil
		}
		_, changes := w.tail.now()
		if now := (progress{seen, changes}); now != last {
			last, moved = now, time.Now()
		}
		if time.Since(moved) > stall {
			return fmt.Errorf("nothing has changed for %v: %w", stall, err)
		}
		if !pause(ctx, poll) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// sample notes the states of the instances and what the processes use, until ctx ends.
func (w *world) sample(ctx context.Context) {
	w.meter.tick() // what was used before counts for nothing
	for pause(ctx, time.Second) {
		counts, _ := w.tail.now()
		w.report.add(counts, w.meter.tick())
	}
}

func (w *world) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	w.cancel()
	w.group.Wait()
	if w.conn != nil {
		_ = w.conn.Close() // nothing is pending
	}
	return w.cluster.Stop(ctx)
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

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// runSteps runs one step after another and stops at the first that fails.
func (w *world) runSteps(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) error
		// want is how many instances run after the step.
		want int
	}{
		{"desire", w.desireAll, w.instances},
		{"steady", w.hold, w.instances},
		{"lose a tenth", w.lose, w.instances},
		{"bring them back", w.restore, w.instances},
		{"roll every cell", w.roll, w.instances},
		{"remove", w.removeAll, 0},
	}
	for _, s := range steps {
		w.report.begin(s.name)
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %q: %w", s.name, err)
		}
		w.report.end()
		took := time.Since(began)
		// The check is not part of the step, so that its own lists do not count.
		if err := w.verify(ctx, s.name, s.want); err != nil {
			return fmt.Errorf("after step %q: %w", s.name, err)
		}
		fmt.Printf("  %-32s %6.1f s, checked in %.1f s\n", s.name, took.Seconds(), (time.Since(began) - took).Seconds())
	}
	return nil
}

// awaitRunning waits until n instances run and there is no other record.
func (w *world) awaitRunning(ctx context.Context, n int) error {
	return w.await(ctx, func(context.Context) (any, error) {
		now, _ := w.tail.now()
		if now != (counts{Running: n}) {
			return now, fmt.Errorf("%d instances should run and nothing else be there, but it is %+v", n, now)
		}
		return now, nil
	})
}

func processGUID(i int) string { return fmt.Sprintf("process-%06d", i) }

// processes is how many LRPs the instances make.
func (w *world) processes() int { return (w.instances + perLRP - 1) / perLRP }

// sizeOf LRP i: perLRP, less for the last one.
func (w *world) sizeOf(i int) int { return min(perLRP, w.instances-i*perLRP) }

// application has what a usual one has: a port, a route, variables and a health check.
func application(guid string, instances int) *workloadv1.DesiredLRP {
	return &workloadv1.DesiredLRP{
		ProcessGuid: guid, Domain: domain, Instances: int32(instances), //nolint:gosec // at most perLRP
		Routes:     map[string][]byte{"cf-router": fmt.Appendf(nil, `[{"hostnames":["%s.scale.test"],"port":8080}]`, guid)},
		MetricTags: map[string]*workloadv1.MetricTagValue{"source_id": {Value: &workloadv1.MetricTagValue_Static{Static: guid}}},
		Definition: &workloadv1.LRPDefinition{
			Container: &workloadv1.ContainerSpec{
				RootFs:    "preloaded:sample",
				Resources: &workloadv1.Resources{MemoryMb: memoryMB, DiskMb: memoryMB, MaxPids: 50},
				Log:       &workloadv1.LogConfig{Guid: guid, Source: "APP"},
			},
			Action: &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "/bin/sample", User: "vcap"}}},
			CheckDefinition: &workloadv1.CheckDefinition{Checks: []*workloadv1.Check{{
				Check: &workloadv1.Check_TcpCheck{TcpCheck: &workloadv1.TCPCheck{Port: 8080}},
			}}},
			StartTimeout: durationpb.New(10 * time.Minute),
			Ports:        []uint32{8080},
		},
	}
}

// forEach calls do for 0 to n-1, several at a time, and returns the first error.
func forEach(ctx context.Context, n, atATime int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i := 0; i < n && ctx.Err() == nil; i++ {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

func (w *world) desireAll(ctx context.Context) error {
	began := time.Now()
	err := forEach(ctx, w.processes(), callers, func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: application(processGUID(i), w.sizeOf(i))})
		if status.Code(err) == codes.AlreadyExists { // an answer was lost and the call repeated
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("desiring: %w", err)
	}
	w.report.note("%d LRPs desired in %.1f s", w.processes(), time.Since(began).Seconds())
	return w.awaitRunning(ctx, w.instances)
}

// lose kills one of the processes that host the cells, which is a tenth of them.
func (w *world) lose(ctx context.Context) error {
	w.meter.tick()
	began := time.Now()
	w.hosts[hosts-1].Kill()
	err := w.await(ctx, func(context.Context) (any, error) {
		now, _ := w.tail.now()
		if now == (counts{Running: w.instances}) {
			return now, errors.New("no instance was missed")
		}
		return now, nil
	})
	if err != nil {
		return err
	}
	w.report.note("first replacement requested after %.1f s", time.Since(began).Seconds())
	return w.awaitRunning(ctx, w.instances)
}

func (w *world) restore(ctx context.Context) error {
	lost := w.hosts[hosts-1]
	if err := lost.Start(); err != nil {
		return err
	}
	if err := yield(lost); err != nil {
		return err
	}
	return w.awaitCells(ctx, w.options.cells)
}

// atATime is the part of the cells that is emptied at a time: a tenth, as operators do with a fleet of this size, so that what
// moves at once is no more than what the loss of a tenth moves.
const atATime = 10

// roll evacuates every cell, a tenth at a time; each comes back empty by itself, and then it is the turn of another.
func (w *world) roll(ctx context.Context) error {
	cells, err := w.addresses(ctx)
	if err != nil {
		return err
	}
	before, err := w.incarnations(ctx)
	if err != nil {
		return err
	}
	present := &directory{world: w}
	ids := w.oneOfEachHost()
	size := (len(ids) + atATime - 1) / atATime
	err = forEach(ctx, len(ids), size, func(ctx context.Context, i int) error {
		id := ids[i]
		if err := w.evacuate(ctx, id, cells[id]); err != nil {
			return err
		}
		return w.await(ctx, func(ctx context.Context) (any, error) {
			since, err := present.incarnation(ctx, id)
			if err == nil && (since.IsZero() || since.Equal(before[id])) {
				err = fmt.Errorf("%s was emptied and is not back", id)
			}
			return since, err
		})
	})
	if err != nil {
		return err
	}
	w.report.note("%d cells at a time", size)
	return w.awaitRunning(ctx, w.instances)
}

// oneOfEachHost are all cells in such an order that the processes that host them have as much to do at any time.
func (w *world) oneOfEachHost() []string {
	var ids []string
	for offset := 0; len(ids) < w.options.cells; offset++ {
		for host := range hosts {
			if i := w.firstOf(host) + offset; i < w.firstOf(host+1) {
				ids = append(ids, cellID(i))
			}
		}
	}
	return ids
}

// directory of the present cells for many who ask at a time.
type directory struct {
	world *world

	mu    sync.Mutex
	asked time.Time            // guarded by mu
	cells map[string]time.Time // incarnations by id as of then; guarded by mu
}

// incarnation is since when a cell is present, zero if it is not, as of a second ago at most.
func (d *directory) incarnation(ctx context.Context, id string) (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) > time.Second {
		cells, err := d.world.incarnations(ctx)
		if err != nil {
			return time.Time{}, err
		}
		d.cells, d.asked = cells, time.Now()
	}
	return d.cells[id], nil
}

// evacuate empties a cell and returns when it is empty and ends.
func (w *world) evacuate(ctx context.Context, id, address string) error {
	conn, err := w.dialCell(id, address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var progress grpc.ServerStreamingClient[repv1.EvacuateResponse]
	err = w.await(ctx, func(ctx context.Context) (any, error) { // a machine with very much to do answers late
		progress, err = repv1.NewOperationClient(conn).Evacuate(ctx, &repv1.EvacuateRequest{})
		if err == nil {
			_, err = progress.Recv()
		}
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("evacuating %s: %w", id, err)
	}
	for err == nil { // the end of the server may overtake that of the stream
		_, err = progress.Recv()
	}
	return ctx.Err()
}

func (w *world) removeAll(ctx context.Context) error {
	began := time.Now()
	err := forEach(ctx, w.processes(), callers, func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := w.desired.RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: processGUID(i)})
		if status.Code(err) == codes.NotFound { // an answer was lost and the call repeated
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("removing: %w", err)
	}
	w.report.note("%d LRPs removed in %.1f s", w.processes(), time.Since(began).Seconds())
	return w.awaitRunning(ctx, 0)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
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

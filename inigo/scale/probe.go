package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// latencies of one kind of call.
type latencies struct {
	name string
	took []time.Duration
}

func (l latencies) percentile(p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(l.took))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// hold lets the installation be for the time steady, and measures a few calls that its users make. Every probe runs at
// least once.
func (w *world) hold(ctx context.Context) error {
	ids, err := w.addresses(ctx)
	if err != nil {
		return err
	}
	probed := cellID(0)
	if _, present := ids[probed]; !present {
		return fmt.Errorf("%s is not present", probed)
	}
	var own []*workloadv1.ActualLRP
	err = w.list(ctx, &bbsv1.ListActualLRPsRequest{CellId: probed}, func(lrp *workloadv1.ActualLRP) { own = append(own, lrp) })
	if err != nil {
		return err
	}
	if len(own) == 0 {
		return fmt.Errorf("%s has no instance to probe", probed)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	as := w.cluster.Operator()
	folder := filepath.Dir(as.CA)
	as.Certificate, as.Key = filepath.Join(folder, probed+".crt"), filepath.Join(folder, probed+".key")
	conn, err := w.cluster.DialBBS(ctx, as)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	cell := bbsv1.NewActualLRPCellClient(conn)
	begun := 0
	probes := []struct {
		name  string
		every time.Duration
		call  func(context.Context) error
	}{
		{"list the instances of one cell", 100 * time.Millisecond, func(ctx context.Context) error {
			return w.list(ctx, &bbsv1.ListActualLRPsRequest{CellId: probed}, func(*workloadv1.ActualLRP) {})
		}},
		{"list all instances", 15 * time.Second, func(ctx context.Context) error {
			return w.list(ctx, &bbsv1.ListActualLRPsRequest{}, func(*workloadv1.ActualLRP) {})
		}},
		{"list all scheduling infos", 15 * time.Second, func(ctx context.Context) error {
			stream, err := w.desired.ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{})
			return drain(stream, err, func(*bbsv1.ListSchedulingInfosResponse) {})
		}},
		{"start call, as a heartbeat", 20 * time.Millisecond, func(ctx context.Context) error {
			begun++
			_, err := cell.StartActualLRP(ctx, startOf(own[begun%len(own)]))
			return err
		}},
		{"desired until running", 500 * time.Millisecond, w.placeOne},
	}
	var mu sync.Mutex
	group, probing := errgroup.WithContext(ctx)
	until := time.Now().Add(w.steady)
	for _, p := range probes {
		group.Go(func() error {
			l := latencies{name: p.name}
			for len(l.took) == 0 || time.Now().Before(until) {
				began := time.Now()
				if err := p.call(probing); err != nil {
					return fmt.Errorf("probing %q: %w", p.name, err)
				}
				l.took = append(l.took, time.Since(began))
				if !pause(probing, min(p.every, max(0, time.Until(until)))) {
					return context.Cause(probing)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			w.report.probes = append(w.report.probes, l)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return w.awaitRunning(ctx, w.instances)
}

// startOf repeats what a cell has reported of an instance.
func startOf(lrp *workloadv1.ActualLRP) *bbsv1.StartActualLRPRequest {
	return &bbsv1.StartActualLRPRequest{
		Key: lrp.GetKey(), InstanceKey: lrp.GetInstanceKey(), NetInfo: lrp.GetNetInfo(), InternalRoutes: lrp.GetInternalRoutes(),
		MetricTags: lrp.GetMetricTags(), Routable: new(lrp.GetRoutable()), AvailabilityZone: lrp.GetAvailabilityZone(),
		DefinitionId: lrp.GetDefinitionId(),
	}
}

// placeOne desires an LRP of one instance, waits until it runs and removes it.
func (w *world) placeOne(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stall, errors.New("the instance does not run"))
	defer cancel()
	guid := "probe-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if _, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: application(guid, 1)}); err != nil {
		return err
	}
	for running := false; !running; {
		err := w.list(ctx, &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{guid}}, func(lrp *workloadv1.ActualLRP) {
			running = lrp.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
		})
		if err != nil {
			return err
		}
		if !running && !pause(ctx, 10*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	_, err := w.desired.RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: guid})
	return err
}

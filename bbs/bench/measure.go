package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	bbsv1 "diego.internal/proto/bbs/v1"
)

const (
	noops     = 50000 // heartbeats at least
	cellLists = 20000
	lists     = 5 // runs of which the median counts
)

// measure runs all measurements of the BBS.
func (w *world) measure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		w.measureWrites, w.measureLists, w.measureCellLists, w.measureWatchers, w.measureMemory, w.measureTakeOver,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// byCell returns 0..n-1 in the order of the cells that hold them. Neighbours then share a connection: 50 callers are ten cells
// at a time, of which each reports five instances at once, as a cell does when it gets work or sends its heartbeats.
func byCell(n int) []int {
	order := make([]int, 0, n)
	for cell := range min(cells, n) {
		for i := cell; i < n; i += cells {
			order = append(order, i)
		}
	}
	return order
}

func (w *world) operator(k int) *grpc.ClientConn { return w.operators[k%operators] }

func (w *world) cell(i int) *grpc.ClientConn { return w.cellConns[cellOf(i)] }

// starts is a pass of reports of instances that run, of one generation.
func (w *world) starts(order []int, calls, generation int) pass {
	return pass{
		method: bbsv1.ActualLRPCell_StartActualLRP_FullMethodName, calls: calls,
		make: func(k int) (*grpc.ClientConn, proto.Message) {
			i := order[k%len(order)]
			return w.cell(i), startRequest(i, generation)
		},
	}
}

func (w *world) measureWrites(ctx context.Context) error {
	order := byCell(w.n)
	desires := pass{
		method: bbsv1.DesiredLRPs_DesireLRP_FullMethodName, calls: w.n,
		make: func(k int) (*grpc.ClientConn, proto.Message) {
			return w.operator(k), &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP(k)}
		},
	}
	claims := pass{
		method: bbsv1.ActualLRPCell_ClaimActualLRP_FullMethodName, calls: w.n,
		make: func(k int) (*grpc.ClientConn, proto.Message) {
			return w.cell(order[k]), claimRequest(order[k])
		},
	}
	for _, m := range []struct {
		name string
		pass pass
	}{
		{"bbs_desire_lrp", desires},
		{"bbs_claim_actual_lrp", claims},
		{"bbs_start_actual_lrp", w.starts(order, w.n, 0)},
		{"bbs_start_noop", w.starts(order, max(w.n, noops), 0)},
	} {
		err := w.measured(ctx, m.name, m.pass.calls, func(ctx context.Context) error {
			rate, err := m.pass.run(ctx)
			if err == nil {
				row(m.name, w.n, rate, "per_s")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) measureLists(ctx context.Context) error {
	for _, list := range []struct {
		name string
		read func() error
	}{
		{"bbs_scheduling_infos", func() error { return w.listSchedulingInfos(ctx) }},
		{"bbs_actual_lrps", func() error { return w.listActuals(ctx, 0, &bbsv1.ListActualLRPsRequest{}, w.n) }},
	} {
		err := w.measured(ctx, list.name, lists, func(context.Context) error {
			ms, err := medianOf(lists, list.read)
			if err == nil {
				row(list.name, w.n, ms, "ms")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) listSchedulingInfos(ctx context.Context) error {
	stream, err := bbsv1.NewDesiredLRPsClient(w.operator(0)).ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{})
	return count(stream, err, w.n, func(m *bbsv1.ListSchedulingInfosResponse) int { return len(m.GetSchedulingInfos()) })
}

func (w *world) listActuals(ctx context.Context, operator int, req *bbsv1.ListActualLRPsRequest, want int) error {
	stream, err := bbsv1.NewActualLRPsClient(w.operator(operator)).ListActualLRPs(ctx, req)
	return count(stream, err, want, func(m *bbsv1.ListActualLRPsResponse) int { return len(m.GetActualLrps()) })
}

func (w *world) measureCellLists(ctx context.Context) error {
	const name = "bbs_actual_lrps_of_cell"
	return w.measured(ctx, name, cellLists, func(ctx context.Context) error {
		took, err := each(ctx, cellLists, func(ctx context.Context, k int) error {
			cell := k % cells
			want := w.n / cells
			if cell < w.n%cells {
				want++
			}
			return w.listActuals(ctx, k, &bbsv1.ListActualLRPsRequest{CellId: cellName(cell)}, want)
		})
		if err == nil {
			row(name, w.n, perSecond(cellLists, took), "per_s")
		}
		return err
	})
}

// count reads a list to its end and compares how many records it has.
func count[M any](stream grpc.ServerStreamingClient[M], err error, want int, rows func(*M) int) error {
	if err != nil {
		return err
	}
	got := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		got += rows(m)
	}
	if got != want {
		return fmt.Errorf("got %d records, want %d", got, want)
	}
	return nil
}

func (w *world) measureMemory(context.Context) error {
	mib, err := w.bbs.memory("VmHWM")
	if err != nil {
		return err
	}
	row("bbs_rss", w.n, mib, "MiB")
	return nil
}

// measureTakeOver asks the active BBS to stop, and kills the next one. What counts is the time until the standby answers a read.
func (w *world) measureTakeOver(ctx context.Context) error {
	w.disconnect()
	took, err := w.takeOver(ctx, "bbs-2", func(old *process) error { return old.cmd.Process.Signal(syscall.SIGTERM) })
	if err != nil {
		return err
	}
	row("bbs_takeover_clean", w.n, milliseconds(took), "ms")
	if err := w.measureConvergence(ctx); err != nil {
		return err
	}
	took, err = w.takeOver(ctx, "bbs-3", func(old *process) error { return old.cmd.Process.Kill() })
	if err != nil {
		return err
	}
	row("bbs_takeover_kill", w.n, milliseconds(took), "ms")
	return nil
}

// takeOver starts a standby, waits until it has followed the active BBS to its newest revision, ends that one, and returns how
// long it took until the standby answered.
func (w *world) takeOver(ctx context.Context, name string, end func(*process) error) (time.Duration, error) {
	old := w.bbs
	// It looks at everything often, so that measureConvergence need not wait.
	standby, err := w.startBBS(ctx, name, "200ms")
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 4*startLimit, errors.New("the take-over took too long"))
	defer cancel()
	active, err := w.dialBBS(ctx, old, name+"-active")
	if err != nil {
		return 0, err
	}
	status, err := bbsv1.NewMaintenanceClient(active).GetStatus(ctx, &bbsv1.GetStatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("asking for the newest revision: %w", err)
	}
	conn, err := w.dialBBS(ctx, standby, name)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, standby.lastLines())
	}
	maintenance := bbsv1.NewMaintenanceClient(conn)
	err = standby.poll(ctx, func() (bool, error) {
		s, err := maintenance.GetStatus(ctx, &bbsv1.GetStatusRequest{})
		return err == nil && s.GetRevision() >= status.GetRevision(), nil
	})
	if err != nil {
		return 0, err
	}

	began := time.Now()
	if err := end(old); err != nil {
		return 0, fmt.Errorf("ending %s: %w", old.name, err)
	}
	desired := bbsv1.NewDesiredLRPsClient(conn)
	err = standby.poll(ctx, func() (bool, error) {
		_, err := desired.GetSchedulingInfo(ctx, &bbsv1.GetSchedulingInfoRequest{ProcessGuid: guid(0)})
		return err == nil, nil
	})
	took := time.Since(began)
	w.bbs = standby
	if err != nil {
		return 0, err
	}
	return took, old.stop()
}

// measureConvergence waits until the BBS has looked at everything a few times and takes what it says of each.
func (w *world) measureConvergence(ctx context.Context) error {
	conn, err := w.dialBBS(ctx, w.bbs, "converge")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 4*startLimit, errors.New("convergence took too long"))
	defer cancel()
	maintenance := bbsv1.NewMaintenanceClient(conn)
	var last time.Time
	var times []float64
	err = w.bbs.poll(ctx, func() (bool, error) {
		s, err := maintenance.GetStatus(ctx, &bbsv1.GetStatusRequest{})
		if err != nil {
			return false, err
		}
		if at := s.GetLastConvergence().AsTime(); s.GetLastConvergence() != nil && !at.Equal(last) {
			last = at
			times = append(times, milliseconds(s.GetLastConvergenceDuration().AsDuration()))
		}
		// The first one is what comes with a take-over.
		return len(times) > lists, nil
	})
	if err != nil {
		return err
	}
	row("bbs_converge_idle", w.n, median(times[1:]), "ms")
	return nil
}

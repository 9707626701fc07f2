package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/mtls"
)

// audience is many watchers of everything. Each checks that revisions come without gap.
type audience struct {
	mu      sync.Mutex
	reached map[uint64]int       // watchers that have a revision, until all have it
	at      map[uint64]time.Time // when the last of them got it
	waiting chan struct{}        // closed and replaced when a revision has reached all
	failed  error
}

// measureWatchers measures starts with watchers and how long an event takes to the last of them.
func (w *world) measureWatchers(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a := &audience{reached: map[uint64]int{}, at: map[uint64]time.Time{}, waiting: make(chan struct{})}
	for i := range watchers {
		conn, err := w.dial(mtls.RoleOperator, fmt.Sprint("watcher-", i))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		stream, err := bbsv1.NewWatchClient(conn).Watch(ctx, &bbsv1.WatchRequest{})
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		first, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		go a.follow(stream, first.GetBookmark().GetRevision())
	}
	if err := w.measureIdleEvents(ctx, a); err != nil {
		return err
	}
	return w.measureLoadedEvents(ctx, a)
}

// measureIdleEvents makes one change at a time.
func (w *world) measureIdleEvents(ctx context.Context, a *audience) error {
	var delays []float64
	for i := range 200 {
		resp, err := w.cell(i%w.n).StartActualLRP(ctx, startRequest(i%w.n, w.cells, 1+i/w.n))
		if err != nil {
			return fmt.Errorf("starting: %w", err)
		}
		answered := time.Now()
		last, err := a.wait(ctx, resp.GetRevision())
		if err != nil {
			return err
		}
		delays = append(delays, max(0, milliseconds(last.Sub(answered))))
	}
	row("bbs_event_p99_idle", w.n, p99(delays), "ms")
	return nil
}

// measureLoadedEvents starts as fast as the callers can.
func (w *world) measureLoadedEvents(ctx context.Context, a *audience) error {
	n := min(w.n, 20000)
	answered := make([]time.Time, n)
	revisions := make([]uint64, n)
	started := time.Now()
	_, err := each(ctx, n, func(ctx context.Context, i int) error {
		resp, err := w.cell(i).StartActualLRP(ctx, startRequest(i, w.cells, 900))
		answered[i], revisions[i] = time.Now(), resp.GetRevision()
		return err
	})
	if err != nil {
		return fmt.Errorf("starting with watchers: %w", err)
	}
	row("bbs_start_actual_lrp_100_watchers", w.n, perSecond(n, time.Since(started)), "per_s")
	delays := make([]float64, n)
	for i, revision := range revisions {
		last, err := a.wait(ctx, revision)
		if err != nil {
			return err
		}
		delays[i] = max(0, milliseconds(last.Sub(answered[i])))
	}
	row("bbs_event_p99_loaded", w.n, p99(delays), "ms")
	return nil
}

func p99(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)*99/100]
}

// follow reads one watch to its end.
func (a *audience) follow(stream grpc.ServerStreamingClient[bbsv1.WatchResponse], position uint64) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return // the end of the measurement
		}
		changes := m.GetChanges()
		if changes == nil || changes.GetMore() {
			continue
		}
		if changes.GetRevision() != position+1 {
			a.fail(fmt.Errorf("after revision %d came %d", position, changes.GetRevision()))
			return
		}
		position++
		a.got(position)
	}
}

func (a *audience) got(revision uint64) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reached[revision]++
	if a.reached[revision] == watchers {
		delete(a.reached, revision)
		a.at[revision] = now
		close(a.waiting)
		a.waiting = make(chan struct{})
	}
}

func (a *audience) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = errors.Join(a.failed, err)
	close(a.waiting)
	a.waiting = make(chan struct{})
}

// wait returns when the last watcher got a revision.
func (a *audience) wait(ctx context.Context, revision uint64) (time.Time, error) {
	for {
		a.mu.Lock()
		at, ok := a.at[revision]
		waiting, err := a.waiting, a.failed
		a.mu.Unlock()
		if ok || err != nil {
			return at, err
		}
		select {
		case <-waiting:
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

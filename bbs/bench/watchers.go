package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/mtls"
)

const (
	idleEvents   = 200
	loadedEvents = 20000 // at most
	idleRound    = 1     // generations of reports
	loadedRound  = 2
)

// audience is many watchers of everything, each with a connection of its own.
type audience []*watcher

// watcher reads one watch. It counts events without decoding them: a hundred watchers that decode would leave nothing of the
// processors to what is measured.
type watcher struct {
	stream grpc.ClientStream
	mu     sync.Mutex
	seen   []sighting
	events int
	// position is the newest revision that is complete.
	position atomic.Uint64
	failed   atomic.Pointer[error]
}

// sighting is when a revision was complete.
type sighting struct {
	revision uint64
	at       time.Time
}

// measureWatchers measures how long an event takes to the last of the watchers, and starts that they see. The instances run
// already and report another port, so that the work is that of a start: one row, one event.
func (w *world) measureWatchers(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	a := make(audience, watchers)
	for i := range a {
		conn, err := w.dial(ctx, mtls.RoleRouteEmitter, cellName(i), mtls.RoleBBS, w.bbs.address)
		if err != nil {
			return err
		}
		w.others = append(w.others, conn)
		if a[i], err = watch(ctx, conn); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		readers.Go(a[i].read)
	}
	order := byCell(w.n)
	err := w.measured(ctx, "bbs_event_p99_idle", min(idleEvents, w.n), func(ctx context.Context) error { return w.measureIdle(ctx, a, order) })
	if err != nil {
		return err
	}
	load := w.starts(order, min(w.n, loadedEvents), loadedRound)
	return w.measured(ctx, "bbs_start_actual_lrp_100_watchers", load.calls, func(ctx context.Context) error { return w.measureLoaded(ctx, a, load) })
}

// measureIdle starts one after the other.
func (w *world) measureIdle(ctx context.Context, a audience, order []int) error {
	var idle []float64
	for k := range min(idleEvents, w.n) {
		one := w.starts(order[k:k+1], 1, idleRound)
		revision, answered := uint64(0), time.Time{}
		one.answered = func(_ int, r uint64) { revision, answered = r, time.Now() }
		if _, err := one.run(ctx); err != nil {
			return err
		}
		if err := a.wait(ctx, revision); err != nil {
			return err
		}
		idle = append(idle, max(0, milliseconds(a.last()[revision].Sub(answered))))
	}
	row("bbs_event_p99_idle", w.n, p99(idle), "ms")
	return nil
}

// measureLoaded starts as fast as the callers can.
func (w *world) measureLoaded(ctx context.Context, a audience, load pass) error {
	answered := make([]sighting, load.calls)
	load.answered = func(k int, revision uint64) { answered[k] = sighting{revision, time.Now()} }
	before := a.counts()
	rate, err := load.run(ctx)
	if err != nil {
		return err
	}
	newest := slices.MaxFunc(answered, func(x, y sighting) int { return int(x.revision) - int(y.revision) }).revision //nolint:gosec // a few thousand
	if err := a.wait(ctx, newest); err != nil {
		return err
	}
	for i, n := range a.counts() {
		if n-before[i] != load.calls {
			return fmt.Errorf("watcher %d got %d events of %d starts", i, n-before[i], load.calls)
		}
	}
	row("bbs_start_actual_lrp_100_watchers", w.n, rate, "per_s")
	last := a.last()
	delays := make([]float64, load.calls)
	for k, s := range answered {
		delays[k] = max(0, milliseconds(last[s.revision].Sub(s.at)))
	}
	row("bbs_event_p99_loaded", w.n, p99(delays), "ms")
	return nil
}

// watch begins to watch, and returns when the server has said from where.
func watch(ctx context.Context, conn *grpc.ClientConn) (*watcher, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, bbsv1.Watch_Watch_FullMethodName, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(&bbsv1.WatchRequest{}) // whole events, more than route emitters ask for
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(&raw{bytes: body}), stream.CloseSend()); err != nil {
		return nil, err
	}
	var first raw
	return &watcher{stream: stream}, stream.RecvMsg(&first)
}

// read reads to the end of the watch.
func (w *watcher) read() {
	var m response
	for {
		if err := w.stream.RecvMsg(&m); err != nil {
			w.failed.Store(&err)
			return
		}
		now := time.Now()
		w.mu.Lock()
		w.events += m.events
		if m.complete {
			w.seen = append(w.seen, sighting{m.revision, now})
		}
		w.mu.Unlock()
		if m.complete {
			w.position.Store(m.revision)
		}
	}
}

// response is what a watcher wants to know of a WatchResponse.
type response struct {
	revision uint64
	events   int
	complete bool
}

func (r *response) read(encoding []byte) { r.revision, r.events, r.complete = changes(encoding) }

// changes walks over a WatchResponse and counts the events of its changes. It is complete if no more of the same revision follow.
func changes(response []byte) (revision uint64, events int, complete bool) {
	const responseChanges, changesRevision, changesMore, changesEvents = 4, 1, 2, 4
	field, kind, n := protowire.ConsumeTag(response)
	if n < 0 || field != responseChanges || kind != protowire.BytesType {
		return 0, 0, false
	}
	body, n := protowire.ConsumeBytes(response[n:])
	if n < 0 {
		return 0, 0, false
	}
	complete = true
	for len(body) > 0 {
		field, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return 0, 0, false
		}
		body = body[n:]
		switch int(field) {
		case changesRevision:
			revision, _ = protowire.ConsumeVarint(body)
		case changesMore:
			complete = false
		case changesEvents:
			events++
		}
		if n = protowire.ConsumeFieldValue(field, kind, body); n < 0 {
			return 0, 0, false
		}
		body = body[n:]
	}
	return revision, events, complete
}

// wait returns when all watchers have a revision.
func (a audience) wait(ctx context.Context, revision uint64) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for _, w := range a {
		for w.position.Load() < revision {
			if failed := w.failed.Load(); failed != nil {
				return fmt.Errorf("watching: %w", *failed)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func (a audience) counts() []int {
	counts := make([]int, len(a))
	for i, w := range a {
		w.mu.Lock()
		counts[i] = w.events
		w.mu.Unlock()
	}
	return counts
}

// last returns when the last watcher had each revision.
func (a audience) last() map[uint64]time.Time {
	last := map[uint64]time.Time{}
	for _, w := range a {
		w.mu.Lock()
		for _, s := range w.seen {
			if s.at.After(last[s.revision]) {
				last[s.revision] = s.at
			}
		}
		w.mu.Unlock()
	}
	return last
}

func p99(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)*99/100]
}

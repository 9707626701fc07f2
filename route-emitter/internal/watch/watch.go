// Package watch owns the route emitter's view of the BBS: it follows the event stream of bbs.v1, keeps the routing table
// equal to it, and hands on what changes. While the BBS is away the table stays as it is.
//
// The stream carries every committed change in order and is resumed at the last revision seen, so nothing is missed and
// nothing has to be held back or sorted; a snapshot replaces the table when there is no revision to resume at, and
// from time to time, as a safeguard.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/route-emitter/internal/routetable"
	"diego.internal/servicekit/fault"
)

// reasonRevisionFromFuture is the BBS's answer to a revision that it never made: its database was replaced.
const reasonRevisionFromFuture = "RevisionFromFuture"

// Config holds what a Watcher needs; all fields but CellID are required.
type Config struct {
	Conn grpc.ClientConnInterface // to the BBS
	// CellID restricts the table to the instances of one cell; empty means all.
	CellID string
	Table  routetable.Config
	// Apply is told every change of what is registered, in order. It must not call the Watcher.
	Apply func(routetable.Changes)
	// SyncInterval is how often the table is replaced by a snapshot even if the stream is whole.
	SyncInterval time.Duration
	// CallTimeout limits a read of the BBS beside the stream.
	CallTimeout time.Duration
	// Silence is how long the stream may say nothing before it is given up. The BBS speaks at least every 10 s.
	Silence time.Duration
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Watcher keeps the table. Its methods are safe for concurrent use.
type Watcher struct {
	cfg     Config
	watch   bbsv1.WatchClient
	desired bbsv1.DesiredLRPsClient
	metrics *metrics

	mu     sync.Mutex // guards the table and the status, for their readers; only Run writes
	table  *routetable.Table
	status Status

	// What follows belongs to the goroutine of Run.
	fresh map[string]bool // domains
}

// Status is what is known of the link to the BBS.
type Status struct {
	Connected bool      `json:"connected"`
	Revision  uint64    `json:"revision"`  // of the table; 0 before the first snapshot
	LastSync  time.Time `json:"last_sync"` // end of the last snapshot; zero before the first
	Routes    int       `json:"routes"`    // registrations for routers
	Internal  int       `json:"internal"`  // registrations for service discovery
}

// Check returns why the table may not be what the BBS has, or nil.
func (s Status) Check() error {
	switch {
	case s.LastSync.IsZero():
		return errors.New("the bbs was not reached yet")
	case !s.Connected:
		return errors.New("the event stream of the bbs is broken")
	}
	return nil
}

// New returns a Watcher with an empty table.
func New(cfg Config) *Watcher {
	w := &Watcher{
		cfg: cfg, watch: bbsv1.NewWatchClient(cfg.Conn), desired: bbsv1.NewDesiredLRPsClient(cfg.Conn),
		table: routetable.New(cfg.Table), fresh: map[string]bool{},
	}
	w.metrics = newMetrics(cfg.Metrics, w)
	return w
}

// Messages returns all that is registered now.
func (w *Watcher) Messages() []routetable.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.table.Messages()
}

// Status returns the remembered state.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	s.Routes, s.Internal = w.table.Size()
	return s
}

// Run follows the BBS until ctx ends; it never gives up and returns nil.
func (w *Watcher) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.Multiplier, pause.MaxInterval = 100*time.Millisecond, 2, 5*time.Second
	for ctx.Err() == nil {
		err := w.follow(ctx, pause.Reset)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the stream ended because ctx did
		}
		if errors.Is(err, errSync) {
			continue
		}
		w.disconnected(ctx, err)
		if fault.Reason(err) == reasonRevisionFromFuture {
			w.setRevision(0) // the table stays until the snapshot is there
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

var (
	errSync   = errors.New("time for a snapshot")
	errSilent = errors.New("the event stream of the bbs fell silent")
)

// follow reads one stream to its end. working is called when the BBS has spoken.
func (w *Watcher) follow(ctx context.Context, working func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(w.cfg.Silence, func() { cancel(errSilent) })
	defer silence.Stop()
	began := time.Now()
	stream, err := w.watch.Watch(ctx, w.request(began))
	if err != nil {
		return fmt.Errorf("opening the event stream: %w", err)
	}
	s := &session{w: w, began: began}
	for {
		msg, err := stream.Recv()
		if err != nil {
			if errors.Is(context.Cause(ctx), errSilent) {
				return errSilent
			}
			if errors.Is(err, io.EOF) {
				return errors.New("the bbs ended the event stream")
			}
			return fmt.Errorf("reading the event stream: %w", err)
		}
		silence.Reset(w.cfg.Silence)
		working()
		if err := s.handle(ctx, msg); err != nil {
			return err
		}
		w.connected(ctx)
		if s.next == nil && s.wholeRevision && time.Since(w.Status().LastSync) >= w.cfg.SyncInterval {
			return errSync
		}
	}
}

// request asks for a snapshot if there is no revision to go on from, or if the last one is too long ago.
func (w *Watcher) request(now time.Time) *bbsv1.WatchRequest {
	req := &bbsv1.WatchRequest{
		CellId: w.cfg.CellID,
		Kinds:  []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP, bbsv1.WatchKind_WATCH_KIND_DOMAIN},
		// Routes and tags come from the desired LRPs.
		WithoutInstanceTags: true,
	}
	s := w.Status()
	if s.Revision == 0 || now.Sub(s.LastSync) >= w.cfg.SyncInterval {
		req.Start = &bbsv1.WatchRequest_Snapshot{Snapshot: true}
	} else {
		req.Start = &bbsv1.WatchRequest_AfterRevision{AfterRevision: s.Revision}
	}
	return req
}

func (w *Watcher) connected(ctx context.Context) {
	w.mu.Lock()
	was := w.status.Connected
	w.status.Connected = true
	revision := w.status.Revision
	w.mu.Unlock()
	if !was {
		w.cfg.Log.InfoContext(ctx, "bbs-connected", "revision", revision)
	}
}

// disconnected is logged once for each loss, not for each attempt.
func (w *Watcher) disconnected(ctx context.Context, err error) {
	w.mu.Lock()
	was := w.status.Connected
	w.status.Connected = false
	w.mu.Unlock()
	if was {
		w.cfg.Log.WarnContext(ctx, "bbs-disconnected", "error", err)
		return
	}
	w.cfg.Log.DebugContext(ctx, "bbs-not-reached", "error", err)
}

func (w *Watcher) setRevision(revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Revision = revision
}

// change makes one change of the table and hands its result on.
func (w *Watcher) change(ctx context.Context, apply func(*routetable.Table) routetable.Changes) {
	w.mu.Lock()
	c := apply(w.table)
	w.mu.Unlock()
	w.report(ctx, c.Collisions)
	w.cfg.Apply(c)
}

func (w *Watcher) report(ctx context.Context, collisions []routetable.Collision) {
	for _, c := range collisions {
		w.metrics.collisions.Inc()
		w.cfg.Log.ErrorContext(ctx, "address-collision", "address", c.Address,
			"winner_process_guid", c.WinnerProcess, "winner_instance_guid", c.Winner, "loser_process_guid", c.LoserProcess, "loser_instance_guid", c.Loser)
	}
}

// Package cells knows the cells: which there are, what each holds and can take, and
// how to hand work to them.
//
// It owns the connections to cells, the warm copies of their states, the correction
// of those copies by what is handed over, and the breaker that keeps a slow or dead
// cell from delaying anybody. It does not decide where work goes (package auction) nor
// what happens to work that a cell did not take (package batch).
package cells

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"diego.internal/auctioneer/internal/auction"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
)

const (
	// listMaxAge is how long the list of cells is used before it is asked for again.
	listMaxAge = time.Second
	// reaskTimeout bounds the question what a cell holds, after a Perform that
	// failed.
	reaskTimeout = 2 * time.Second
	// A cell that fails is left alone for minBackoff, doubled with each failure up to
	// maxBackoff, less up to a half by chance.
	minBackoff = 250 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// Lister lists the cells that are present; bbsv1.CellsClient is one.
type Lister interface {
	ListCells(ctx context.Context, in *bbsv1.ListCellsRequest, opts ...grpc.CallOption) (*bbsv1.ListCellsResponse, error)
}

// Connection is an open connection to one cell.
type Connection struct {
	Client repv1.AuctionClient
	Close  func() error
}

// Config is what a Fleet needs. All fields are required.
type Config struct {
	Lister Lister
	// Connect opens a connection to the cell at address (host:port), which must
	// prove that it is the cell. It must not block.
	Connect func(cellID, address string) (Connection, error)
	// StateTimeout bounds one State call, PerformTimeout one Perform call.
	StateTimeout, PerformTimeout time.Duration
	// SoftDeadline is how long a snapshot waits for answers before it goes on with
	// what it has.
	SoftDeadline time.Duration
	// StaleLimit is how old the state of a slow cell may be and still be used.
	StaleLimit time.Duration
	// Workers bounds the calls to cells at one time.
	Workers  int
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Fleet is the auctioneer's view of all cells. Its methods are safe for concurrent
// use.
type Fleet struct {
	cfg     Config
	metrics metrics
	ctx     context.Context // of the calls; they outlive the snapshot that begins them
	cancel  context.CancelFunc
	workers chan struct{}
	calls   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	members  map[string]*member
	reserved reservations
	listedAt time.Time
}

// New makes a fleet that knows no cell yet. Close it to end its calls.
func New(cfg Config) *Fleet {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Fleet{
		cfg: cfg, ctx: ctx, cancel: cancel,
		workers: make(chan struct{}, max(1, cfg.Workers)),
		members: map[string]*member{}, reserved: reservations{},
	}
	f.metrics = newMetrics(cfg.Registry, f)
	return f
}

// Close breaks off all calls, waits for their ends and closes the connections.
func (f *Fleet) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.calls.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, m := range f.members {
		f.drop(id, m)
	}
}

// Snapshot is the state of the cells at one time.
type Snapshot struct {
	Cells []auction.Cell
	// Oldest is when the oldest state of an open cell was true; now if there is none.
	Oldest time.Time
	// Open counts the cells that take work.
	Open int
	// Asked counts the cells that were waited for.
	Asked int
}

// Snapshot returns the states of all present cells. States that were true at or after
// since are used as they are; all others are asked for, at most for the soft deadline.
// It fails only if the list of cells cannot be had and never could, or ctx ends.
func (f *Fleet) Snapshot(ctx context.Context, since time.Time) (Snapshot, error) {
	started := time.Now()
	if err := f.list(ctx, since); err != nil {
		return Snapshot{}, err
	}
	awaited := f.refresh(since) //nolint:contextcheck // the calls outlive the snapshot
	f.wait(ctx, awaited)
	if err := context.Cause(ctx); err != nil && ctx.Err() != nil {
		return Snapshot{}, fmt.Errorf("fetching states of cells: %w", err)
	}
	f.metrics.fetch.Observe(time.Since(started).Seconds())
	snapshot := f.collect()
	snapshot.Asked = len(awaited)
	return snapshot, nil
}

// list brings the members up to date with the presences. When the BBS does not answer,
// the cells known so far serve on: each is asked for its state anyway.
func (f *Fleet) list(ctx context.Context, since time.Time) error {
	f.mu.Lock()
	listedAt := f.listedAt
	f.mu.Unlock()
	known, age := !listedAt.IsZero(), time.Since(listedAt)
	if known && age < listMaxAge && !listedAt.Before(since) {
		return nil
	}
	resp, err := f.cfg.Lister.ListCells(ctx, &bbsv1.ListCellsRequest{})
	if err != nil && !known {
		return fmt.Errorf("listing cells: %w", err)
	}
	if err != nil {
		f.cfg.Log.WarnContext(ctx, "cell-list-is-old", "age_seconds", int(age.Seconds()), "error", err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listedAt = time.Now()
	present := make(map[string]bool, len(resp.GetCells()))
	for _, c := range resp.GetCells() {
		id := c.GetPresence().GetCellId()
		present[id] = true
		f.meet(c)
	}
	for id, m := range f.members {
		if !present[id] {
			f.drop(id, m)
		}
	}
	return nil
}

// meet makes or renews the member of a presence. A cell that came back as another
// incarnation, or elsewhere, has nothing in common with the state that we know.
func (f *Fleet) meet(c *bbsv1.Cell) {
	id, address := c.GetPresence().GetCellId(), c.GetPresence().GetRepAddress()
	since := c.GetSince().AsTime()
	old := f.members[id]
	if old != nil && old.address == address && old.since.Equal(since) {
		return
	}
	if old != nil {
		f.drop(id, old)
	}
	if f.closed {
		return
	}
	conn, err := f.cfg.Connect(id, address)
	if err != nil {
		f.cfg.Log.Warn("cell-not-connected", "cell_id", id, "address", address, "error", err)
		return
	}
	f.members[id] = &member{id: id, address: address, zone: c.GetPresence().GetZone(), since: since, conn: conn}
}

func (f *Fleet) drop(id string, m *member) {
	delete(f.members, id)
	f.reserved.replace(m, nil)
	if err := m.conn.Close(); err != nil {
		f.cfg.Log.Debug("cell-connection-not-closed", "cell_id", id, "error", err)
	}
}

// refresh starts the State calls that are due and returns those worth waiting for.
func (f *Fleet) refresh(since time.Time) []awaitedCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	var awaited []awaitedCall
	for _, m := range f.members {
		if f.closed || m.performing > 0 || !m.trueAt.Before(since) && m.failures == 0 {
			continue
		}
		if m.fetching == nil {
			if now.Before(m.retryAt) {
				continue // the breaker is open
			}
			f.fetch(m)
		}
		if !m.slow {
			awaited = append(awaited, awaitedCall{member: m, done: m.fetching})
		}
	}
	return awaited
}

// fetch starts one State call. The caller holds the lock.
func (f *Fleet) fetch(m *member) {
	done := make(chan struct{})
	m.fetching, m.fetchStarted = done, time.Now()
	handovers, question := m.handovers, m.question()
	f.calls.Go(func() {
		defer close(done)
		resp, err := f.state(m, question)
		f.mu.Lock()
		defer f.mu.Unlock()
		m.fetching = nil
		if err != nil {
			if f.ctx.Err() == nil {
				f.failed(m, err)
			}
			return
		}
		m.recovered(time.Since(m.fetchStarted) <= f.cfg.SoftDeadline)
		if m.handovers == handovers {
			f.learn(m, resp, question, m.fetchStarted)
		}
	})
}

// learn takes over a state and tells when a cell begins or ends to take work. The caller
// holds the lock.
func (f *Fleet) learn(m *member, s *repv1.StateResponse, question *repv1.StateRequest, at time.Time) {
	before := auction.Open
	if m.known != nil {
		before = m.known.Condition
	}
	if reserved, news := m.learn(s, question, at); news {
		f.reserved.replace(m, reserved)
	}
	if m.known == nil {
		return // differences, and to what nobody knows: it is asked again
	}
	if after := m.known.Condition; after != before {
		f.cfg.Log.Info("cell-condition-changed", "cell_id", m.id, "zone", m.known.Zone, "takes_work", after == auction.Open,
			"evacuating", after == auction.Evacuating, "reason", s.GetReason())
	}
}

func (f *Fleet) state(m *member, question *repv1.StateRequest) (*repv1.StateResponse, error) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, f.cfg.StateTimeout, errStateTimeout)
	defer cancel()
	select {
	case f.workers <- struct{}{}:
		defer func() { <-f.workers }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a worker: %w", context.Cause(ctx))
	}
	resp, err := m.conn.Client.State(ctx, question)
	if err != nil {
		return nil, fmt.Errorf("asking cell %q for its state: %w", m.id, err)
	}
	if id := resp.GetCellId(); id != "" && id != m.id {
		return nil, fmt.Errorf("asking cell %q for its state: %w: %q", m.id, errOtherCell, id)
	}
	return resp, nil
}

// failed opens the breaker of a member. The caller holds the lock.
func (f *Fleet) failed(m *member, err error) {
	f.metrics.failed.Inc()
	if m.failures == 0 {
		f.cfg.Log.Warn("cell-does-not-answer", "cell_id", m.id, "address", m.address, "error", err)
	}
	backoff := min(maxBackoff, minBackoff<<min(m.failures, 10))
	m.failures++
	m.err = err
	m.retryAt = time.Now().Add(backoff - rand.N(backoff/2)) //nolint:gosec // jitter
}

// wait blocks until the members have answered, none has answered for the soft deadline,
// or ctx ends: answers that come in slowly but steadily are those of a busy machine, not
// of slow cells. Members that were not waited for to the end are not waited for again
// until they answer in time.
func (f *Fleet) wait(ctx context.Context, awaited []awaitedCall) {
	deadline := time.NewTimer(f.cfg.SoftDeadline)
	defer deadline.Stop()
	missing := len(awaited)
	for i := 0; i < len(awaited); {
		select {
		case <-awaited[i].done:
			i++
		case <-ctx.Done():
			return
		case <-deadline.C:
			now := countMissing(awaited[i:])
			if now == missing {
				f.markSlow(awaited[i:])
				return
			}
			missing = now
			deadline.Reset(f.cfg.SoftDeadline)
		}
	}
}

// awaitedCall is a State call that a snapshot waits for.
type awaitedCall struct {
	member *member
	done   chan struct{}
}

func countMissing(calls []awaitedCall) int {
	n := 0
	for _, c := range calls {
		select {
		case <-c.done:
		default:
			n++
		}
	}
	return n
}

func (f *Fleet) markSlow(awaited []awaitedCall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, call := range awaited {
		if m := call.member; m.fetching == call.done && !m.slow {
			m.slow = true
			f.cfg.Log.Warn("cell-is-slow", "cell_id", m.id, "address", m.address, "waited", f.cfg.SoftDeadline)
		}
	}
}

// collect copies what is known. The maps inside are never changed later, so that an
// auction may read them at leisure.
func (f *Fleet) collect() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	s := Snapshot{Cells: make([]auction.Cell, 0, len(f.members)), Oldest: now}
	for _, m := range f.members {
		c := m.cell(now, f.cfg.StaleLimit)
		if c.Condition == auction.Open {
			s.Open++
			if m.trueAt.Before(s.Oldest) {
				s.Oldest = m.trueAt
			}
		}
		s.Cells = append(s.Cells, c)
	}
	return s
}

// Summary is what an operator wants to see of the fleet.
type Summary struct {
	Known     int      `json:"known"`
	Open      int      `json:"open"`
	Slow      []string `json:"slow,omitempty"`
	Failing   []string `json:"failing,omitempty"`
	ListedAgo string   `json:"listed_ago,omitempty"`
}

// Summary tells what is remembered, asking nobody.
func (f *Fleet) Summary() Summary {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Summary{Known: len(f.members)}
	if !f.listedAt.IsZero() {
		s.ListedAgo = time.Since(f.listedAt).Round(time.Millisecond).String()
	}
	for id, m := range f.members {
		switch {
		case m.failures > 0:
			s.Failing = append(s.Failing, id)
		case m.slow:
			s.Slow = append(s.Slow, id)
		case m.known != nil && m.known.Condition == auction.Open:
			s.Open++
		}
	}
	return s
}

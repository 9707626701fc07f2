package effect

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	repv1 "diego.internal/proto/rep/v1"
)

// memory is a store of maps. A commit replaces the state, so a snapshot stays what it is.
type memory struct {
	order     sync.Mutex // of commits, held until the hook has returned
	mu        sync.Mutex
	state     state
	committed func(Changes)
	failing   error // of Do
	callback  func(guid string) (Callback, error)
}

type state struct {
	revision uint64
	desired  map[string]*lrp.Desired
	actual   map[lrp.Key]lrp.Instance
	tasks    map[string]*task.Task
	domains  map[string]*lrp.Domain
}

func newMemory() *memory {
	return &memory{
		state: state{
			desired: map[string]*lrp.Desired{}, actual: map[lrp.Key]lrp.Instance{},
			tasks: map[string]*task.Task{}, domains: map[string]*lrp.Domain{},
		},
		committed: func(Changes) {},
	}
}

func (m *memory) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *memory) Callback(_ context.Context, guid string) (Callback, error) { return m.callback(guid) }

func (m *memory) Do(ctx context.Context, mutate func(Tx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.order.Lock()
	defer m.order.Unlock()
	m.mu.Lock()
	if m.failing != nil {
		defer m.mu.Unlock()
		return m.failing
	}
	tx := &memoryTx{state: state{
		revision: m.state.revision + 1,
		desired:  maps.Clone(m.state.desired), actual: maps.Clone(m.state.actual),
		tasks: maps.Clone(m.state.tasks), domains: maps.Clone(m.state.domains),
	}}
	if err := mutate(tx); err != nil {
		m.mu.Unlock()
		return err
	}
	m.state = tx.state
	m.mu.Unlock()
	m.committed(tx.changes)
	return nil
}

// edit commits what a test wants.
func (m *memory) edit(t *testing.T, mutate func(*memoryTx)) {
	t.Helper()
	if err := m.Do(context.Background(), func(tx Tx) error { mutate(tx.(*memoryTx)); return nil }); err != nil {
		t.Fatalf("editing: %v", err)
	}
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	m.failing = err
	m.mu.Unlock()
}

// Revision is of the newest commit.
func (s state) Revision() uint64 { return s.revision }

type memoryTx struct {
	state
	changes Changes
}

func (tx *memoryTx) PutInstance(before lrp.Instance, out lrp.Outcome) {
	for _, pair := range [...][2]*lrp.Actual{
		{before.Ordinary, out.After.Ordinary}, {before.Evacuating, out.After.Evacuating}, {before.Suspect, out.After.Suspect},
	} {
		switch {
		case pair[0] == pair[1]:
		case pair[1] == nil:
			tx.changes.Gone = append(tx.changes.Gone, pair[0].Key)
		default:
			pair[1].Revision = tx.revision
			tx.changes.Actuals = append(tx.changes.Actuals, pair[1])
		}
	}
	for _, a := range [...]*lrp.Actual{before.Any(), out.After.Any()} {
		if a != nil {
			tx.actual[a.Key] = out.After
			if out.After.IsZero() {
				delete(tx.actual, a.Key)
			}
		}
	}
}

func (tx *memoryTx) PutDomain(before, after *lrp.Domain, _ lrp.DomainEvent) {
	if after == nil {
		delete(tx.domains, before.Name)
		return
	}
	tx.domains[after.Name] = after
}

func (tx *memoryTx) PutTask(before, after *task.Task) {
	if after == nil {
		delete(tx.tasks, before.GUID)
		return
	}
	tx.tasks[after.GUID] = after
	tx.changes.Tasks = append(tx.changes.Tasks, after)
}

func (tx *memoryTx) putDesired(d *lrp.Desired) {
	d.Revision = tx.revision
	tx.desired[d.ProcessGUID] = d
	tx.changes.Desireds = append(tx.changes.Desireds, d)
}

func (s state) Domain(name string) *lrp.Domain    { return s.domains[name] }
func (s state) Desired(guid string) *lrp.Desired  { return s.desired[guid] }
func (s state) Task(guid string) *task.Task       { return s.tasks[guid] }
func (s state) Instance(key lrp.Key) lrp.Instance { return s.actual[key] }
func (s state) Domains() iter.Seq[*lrp.Domain]    { return inOrder(s.domains, cmp.Compare[string]) }
func (s state) Tasks() iter.Seq[*task.Task]       { return inOrder(s.tasks, cmp.Compare[string]) }

func (s state) InstancesOf(guid string) []*lrp.Actual {
	var rows []*lrp.Actual
	for row := range s.Records() {
		if row.ProcessGUID == guid {
			rows = append(rows, row)
		}
	}
	return rows
}

func (s state) Records() iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for i := range inOrder(s.actual, lrp.Key.Compare) {
			for _, row := range [...]*lrp.Actual{i.Ordinary, i.Evacuating, i.Suspect} {
				if row != nil && !yield(row) {
					return
				}
			}
		}
	}
}

func (s state) DesiredsFrom(guid string) iter.Seq[*lrp.Desired] {
	return filter(inOrder(s.desired, cmp.Compare[string]), func(d *lrp.Desired) bool { return d.ProcessGUID >= guid })
}

func (s state) RecordsFrom(guid string) iter.Seq[*lrp.Actual] {
	return filter(s.Records(), func(a *lrp.Actual) bool { return a.ProcessGUID >= guid })
}

func (s state) Tally() (tally lrp.Tally, known bool) {
	for _, d := range s.desired {
		tally.AddDesired(d, 1)
	}
	for row := range s.Records() {
		tally.Add(row, 1)
	}
	return tally, true
}

func (s state) RecordsOnCell(cell string) iter.Seq[*lrp.Actual] {
	return filter(s.Records(), func(a *lrp.Actual) bool { return a.CellID == cell })
}

func (s state) TasksOnCell(cell string) iter.Seq[*task.Task] {
	return filter(s.Tasks(), func(t *task.Task) bool { return t.CellID == cell })
}

func filter[T any](all iter.Seq[T], keep func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range all {
			if keep(v) && !yield(v) {
				return
			}
		}
	}
}

func inOrder[K comparable, V any](m map[K]V, compare func(K, K) int) iter.Seq[V] {
	keys := slices.SortedFunc(maps.Keys(m), compare)
	return func(yield func(V) bool) {
		for _, key := range keys {
			if !yield(m[key]) {
				return
			}
		}
	}
}

// fakeAuctioneer notes what it is asked for.
type fakeAuctioneer struct {
	mu       sync.Mutex
	requests []string
	answer   func() (refused []*auctioneerv1.RejectedItem, err error)
}

func (f *fakeAuctioneer) note(words string) ([]*auctioneerv1.RejectedItem, error) {
	f.mu.Lock()
	f.requests = append(f.requests, words)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil {
		return nil, nil
	}
	return answer()
}

// took returns what was asked for since the last call.
func (f *fakeAuctioneer) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.requests
	f.requests = nil
	return taken
}

func (f *fakeAuctioneer) answers(answer func() ([]*auctioneerv1.RejectedItem, error)) {
	f.mu.Lock()
	f.answer = answer
	f.mu.Unlock()
}

func (f *fakeAuctioneer) RequestLRPAuctions(_ context.Context, in *auctioneerv1.RequestLRPAuctionsRequest, _ ...grpc.CallOption) (*auctioneerv1.RequestLRPAuctionsResponse, error) {
	var words []string
	for _, s := range in.GetStarts() {
		words = append(words, fmt.Sprint(s.GetProcessGuid(), s.GetIndices()))
	}
	refused, err := f.note(fmt.Sprint(words))
	return &auctioneerv1.RequestLRPAuctionsResponse{Rejected: refused}, err
}

func (f *fakeAuctioneer) RequestTaskAuctions(_ context.Context, in *auctioneerv1.RequestTaskAuctionsRequest, _ ...grpc.CallOption) (*auctioneerv1.RequestTaskAuctionsResponse, error) {
	var words []string
	for _, s := range in.GetStarts() {
		words = append(words, s.GetTaskGuid())
	}
	refused, err := f.note(fmt.Sprint(words))
	return &auctioneerv1.RequestTaskAuctionsResponse{Rejected: refused}, err
}

// fakeCells are the cells of a test: what is ordered is noted and answered by a function.
type fakeCells struct {
	mu     sync.Mutex
	orders []string
	// answer is asked for each order; found is whether the cell knows what is meant.
	answer func(order string) (found bool, err error)
	absent map[string]bool
}

func (f *fakeCells) Instances(cellID string) (repv1.InstancesClient, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent[cellID] {
		return nil, ErrNoCell
	}
	return fakeCell{f, cellID}, nil
}

func (f *fakeCells) note(order string) (bool, error) {
	f.mu.Lock()
	f.orders = append(f.orders, order)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil {
		return true, nil
	}
	return answer(order)
}

func (f *fakeCells) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.orders
	f.orders = nil
	slices.Sort(taken)
	return taken
}

func (f *fakeCells) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

type fakeCell struct {
	all  *fakeCells
	cell string
}

func (f fakeCell) StopLRPInstance(_ context.Context, in *repv1.StopLRPInstanceRequest, _ ...grpc.CallOption) (*repv1.StopLRPInstanceResponse, error) {
	found, err := f.all.note(fmt.Sprint(f.cell, " stop ", in.GetInstanceGuid()))
	return &repv1.StopLRPInstanceResponse{Found: found}, err
}

func (f fakeCell) UpdateLRPInstance(_ context.Context, in *repv1.UpdateLRPInstanceRequest, _ ...grpc.CallOption) (*repv1.UpdateLRPInstanceResponse, error) {
	order := fmt.Sprint(f.cell, " update ", in.GetInstanceGuid())
	if in.GetInternalRoutes() != nil {
		order += fmt.Sprint(" routes ", in.GetInternalRoutes().GetHostnames())
	}
	if in.GetMetricTags() != nil {
		order += fmt.Sprint(" tags ", in.GetMetricTags().GetMetricTags())
	}
	found, err := f.all.note(order)
	return &repv1.UpdateLRPInstanceResponse{Found: found}, err
}

func (f fakeCell) CancelTask(_ context.Context, in *repv1.CancelTaskRequest, _ ...grpc.CallOption) (*repv1.CancelTaskResponse, error) {
	found, err := f.all.note(fmt.Sprint(f.cell, " cancel ", in.GetTaskGuid(), " ", in.GetInstanceGuid()))
	return &repv1.CancelTaskResponse{Found: found}, err
}

// clientFunc is a callback's receiver.
type clientFunc func(*http.Request) (*http.Response, error)

func (f clientFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answered(code int) *http.Response {
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(&bytes.Buffer{})}
}

var errUnavailable = status.Error(codes.Unavailable, "not now")

// rig runs effects over fakes within a synctest bubble.
type rig struct {
	t          *testing.T
	store      *memory
	auctioneer *fakeAuctioneer
	cells      *fakeCells
	receive    clientFunc
	effects    *Effects
}

// inBubble runs a test with its rig; prepare sets the state that an earlier master left.
func inBubble(t *testing.T, prepare, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, store: newMemory(), auctioneer: &fakeAuctioneer{}, cells: &fakeCells{absent: map[string]bool{}}}
		r.receive = func(*http.Request) (*http.Response, error) { return answered(http.StatusOK), nil }
		r.store.callback = func(string) (Callback, error) { return Callback{URL: "https://client.example.com/done"}, nil }
		if prepare != nil {
			prepare(r)
		}
		config := DefaultConfig()
		epochs := 0
		config.NewEpoch = func() string { epochs++; return fmt.Sprint("epoch-", epochs) }
		r.effects = New(config, r.store, Peers{
			Auctions: r.auctioneer, Cells: r.cells,
			Callbacks: &http.Client{Transport: clientFunc(func(q *http.Request) (*http.Response, error) { return r.receive(q) })},
		}, slog.New(slog.DiscardHandler))
		r.store.committed = r.effects.Committed
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.effects.Run(ctx) }()
		synctest.Wait()
		test(r)
		cancel()
		if err := <-done; err == nil {
			t.Error("Run ended without saying why")
		}
	})
}

// passes lets time pass and all that it brings about settle.
func passes(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) desire(t *testing.T, guid string, instances int32) {
	t.Helper()
	d := &lrp.Desired{ProcessGUID: guid, Domain: "apps", Instances: instances, ActiveDefinitionID: "def"}
	r.store.edit(t, func(tx *memoryTx) { r.create(tx, d) })
	synctest.Wait()
}

func (r *rig) create(tx *memoryTx, d *lrp.Desired) {
	tx.putDesired(d)
	for index := range d.Instances {
		key := lrp.Key{ProcessGUID: d.ProcessGUID, Index: index}
		tx.PutInstance(lrp.Instance{}, lrp.CreateUnclaimed(lrp.Instance{}, key, d, lrp.Stamp{Now: time.Now(), Epoch: "e"}))
	}
}

// The instances of a test are all of LRP "a".

func (r *rig) start(t *testing.T, index int32, cell string) lrp.InstanceKey {
	t.Helper()
	by := lrp.InstanceKey{InstanceGUID: fmt.Sprint("a", index, "@", cell), CellID: cell}
	key := lrp.Key{ProcessGUID: "a", Index: index}
	r.store.edit(t, func(tx *memoryTx) {
		out, err := lrp.Start(tx.Instance(key), &lrp.Report{Key: key, InstanceKey: by, Domain: "apps", Routable: true, MetricTags: map[string]string{"a": "0"}}, lrp.Stamp{Now: time.Now(), Epoch: "s"})
		if err != nil {
			t.Fatalf("starting %v: %v", key, err)
		}
		tx.PutInstance(tx.Instance(key), out)
	})
	synctest.Wait()
	return by
}

func (r *rig) instance(index int32) lrp.Instance {
	return r.store.Snapshot().Instance(lrp.Key{ProcessGUID: "a", Index: index})
}

// transition commits one change of an index.
func (r *rig) transition(t *testing.T, index int32, do func(lrp.Instance) (lrp.Outcome, error)) {
	t.Helper()
	r.store.edit(t, func(tx *memoryTx) {
		i := tx.Instance(lrp.Key{ProcessGUID: "a", Index: index})
		out, err := do(i)
		if err != nil {
			t.Fatalf("changing a/%d: %v", index, err)
		}
		tx.PutInstance(i, out)
	})
	synctest.Wait()
}

func (r *rig) putTask(t *testing.T, after *task.Task) {
	t.Helper()
	r.store.edit(t, func(tx *memoryTx) { tx.PutTask(tx.Task(after.GUID), after) })
	synctest.Wait()
}

package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/postgrestest"
)

// observer is a watcher that keeps what it was told, as a client does.
type observer struct {
	actuals  map[actualID]*workloadv1.ActualLRP
	desireds map[string]bool
	tasks    map[string]workloadv1.TaskState
}

func newObserver() *observer {
	return &observer{actuals: map[actualID]*workloadv1.ActualLRP{}, desireds: map[string]bool{}, tasks: map[string]workloadv1.TaskState{}}
}

func decodeActual(encoded []byte) (actualID, *workloadv1.ActualLRP) {
	if encoded == nil {
		return actualID{}, nil
	}
	var m workloadv1.ActualLRP
	if err := proto.Unmarshal(encoded, &m); err != nil {
		panic(err)
	}
	m.Revision = 0 // an order to stop changes it, and is nothing that clients see
	presence := lrp.Presence(m.GetPresence() - 1)
	return actualID{Key: lrp.Key{ProcessGUID: m.GetKey().GetProcessGuid(), Index: m.GetKey().GetIndex()}, presence: presence}, &m
}

// apply does what an event says. It fails if the event does not fit to what was told before.
func (o *observer) apply(e *watch.Event) error {
	beforeID, before := decodeActual(nil)
	afterID, after := beforeID, before
	switch e.Kind {
	case watch.ActualCreated, watch.ActualChanged, watch.ActualRemoved:
		beforeID, before = decodeActual(e.Before)
		afterID, after = decodeActual(e.After)
	case watch.DesiredCreated, watch.DesiredChanged:
		o.desireds[e.Subject] = true
	case watch.DesiredRemoved:
		delete(o.desireds, e.Subject)
	case watch.TaskCreated, watch.TaskChanged:
		var m workloadv1.Task
		if err := proto.Unmarshal(e.After, &m); err != nil {
			return err
		}
		o.tasks[e.Subject] = m.GetState()
	case watch.TaskRemoved:
		delete(o.tasks, e.Subject)
	case watch.ActualCrashed, watch.DomainChanged:
	}
	if e.Kind == watch.ActualChanged && !proto.Equal(o.actuals[beforeID], before) {
		return fmt.Errorf("changed from %v, but it was %v", before, o.actuals[beforeID])
	}
	// A return to UNCLAIMED is told as the new record first and then the removal of the old one.
	if before != nil && (e.Kind == watch.ActualChanged || proto.Equal(o.actuals[beforeID], before)) {
		delete(o.actuals, beforeID)
	}
	if after != nil {
		o.actuals[afterID] = after
	}
	return nil
}

// operation is one random request.
type operation func(tx *Tx) error

func drawOperation(t *rapid.T) operation {
	guid := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "guid")
	key := lrp.Key{ProcessGUID: guid, Index: int32(rapid.IntRange(0, 2).Draw(t, "index"))}
	by := lrp.InstanceKey{
		InstanceGUID: fmt.Sprint(key, rapid.SampledFrom([]string{"-i1", "-i2"}).Draw(t, "instance")), CellID: rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "cell"),
	}
	report := &lrp.Report{Key: key, InstanceKey: by, Domain: "cf-apps", NetInfo: lrp.NetInfo{Address: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "address")}}
	at := stamp()
	instance := func(decide func(tx *Tx, i lrp.Instance) (lrp.Outcome, error)) operation {
		return func(tx *Tx) error {
			before := tx.Instance(key)
			out, err := decide(tx, before)
			if err == nil {
				tx.PutInstance(before, out)
			}
			return err
		}
	}
	taskOp := func(decide func(before *task.Task) (*task.Task, error)) operation {
		return func(tx *Tx) error {
			before := tx.Task(guid)
			after, err := decide(before)
			if err == nil {
				tx.PutTask(before, after)
			}
			return err
		}
	}
	operations := map[string]operation{
		"desire": func(tx *Tx) error {
			change, err := lrp.Desire(tx.Desired(guid), desired(guid, 2), lrp.Group(tx.InstancesOf(guid)), at)
			if err == nil {
				tx.PutChange(nil, change)
				tx.PutDefinition(SealedDefinition{ProcessGUID: guid, ID: "def-1", Sealed: []byte{1}})
			}
			return err
		},
		"scale": func(tx *Tx) error {
			before := tx.Desired(guid)
			tx.Know([]byte(secretOfTests))
			change, err := lrp.ApplyUpdate(before, lrp.Update{Instances: new(key.Index)}, lrp.Group(tx.InstancesOf(guid)), at)
			if err == nil {
				tx.PutChange(before, change)
			}
			return err
		},
		"remove desired": func(tx *Tx) error {
			before := tx.Desired(guid)
			change, err := lrp.RemoveDesired(before, nil, lrp.Group(tx.InstancesOf(guid)))
			if err == nil {
				tx.PutChange(before, change)
				tx.DeleteDefinitions(guid)
			}
			return err
		},
		"claim": instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Claim(i, by, at.Now) }),
		"start": instance(func(tx *Tx, i lrp.Instance) (lrp.Outcome, error) {
			out, err := lrp.Start(i, report, at)
			if err == nil && out.After.Ordinary != nil {
				tx.MarkHealthy(guid, out.After.Ordinary.DefinitionID)
			}
			return out, err
		}),
		"crash": instance(func(tx *Tx, i lrp.Instance) (lrp.Outcome, error) {
			return lrp.Crash(i, by, "why", lrp.ResolvePolicy(tx.Desired(guid), nil), at.Now)
		}),
		"lose":   instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Lose(i, by, at), nil }),
		"return": instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Return(i, by), nil }),
		"evacuate": instance(func(tx *Tx, i lrp.Instance) (lrp.Outcome, error) {
			out, _ := lrp.EvacuateRunning(i, report, tx.Desired(guid), 1, at)
			return out, nil
		}),
		"remove": instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Remove(i, by) }),
		"retire": instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Retire(i) }),
		"fail":   instance(func(_ *Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Fail(i, "no room", at.Now) }),
		"desire task": taskOp(func(before *task.Task) (*task.Task, error) {
			return task.Desire(before, &task.Task{GUID: guid, Domain: "d", DefinitionDigest: "x"}, at.Now)
		}),
		"start task": taskOp(func(before *task.Task) (*task.Task, error) {
			after, _, err := task.Start(before, by.CellID, by.InstanceGUID, at.Now)
			return after, err
		}),
		"complete task": taskOp(func(before *task.Task) (*task.Task, error) {
			return task.Complete(before, task.Run{CellID: by.CellID}, task.Result{Result: "r"}, at.Now)
		}),
		"delete task": taskOp(func(before *task.Task) (*task.Task, error) { return nil, task.CanDelete(before, true) }),
		"desire anew": func(tx *Tx) error { // removed and there again, in one request
			before := tx.Desired(guid)
			change, err := lrp.RemoveDesired(before, nil, lrp.Group(tx.InstancesOf(guid)))
			if err != nil {
				return err
			}
			tx.PutChange(before, change)
			tx.DeleteDefinitions(guid)
			again, err := lrp.Desire(tx.Desired(guid), desired(guid, 3), lrp.Group(tx.InstancesOf(guid)), at)
			if err == nil {
				tx.PutChange(nil, again)
				tx.PutDefinition(SealedDefinition{ProcessGUID: guid, ID: "def-1", Sealed: []byte{2}})
			}
			return err
		},
		"unstorable": func(tx *Tx) error { // what only Postgres refuses, after which the batch is taken apart
			after, event := lrp.UpsertDomain(nil, "zero \x00 byte", 0, nil, at.Now)
			tx.PutDomain(nil, after, event)
			return nil
		},
		"regret": func(tx *Tx) error { // all of it, and then an error
			before := tx.Instance(key)
			if out, err := lrp.Retire(before); err == nil {
				tx.PutInstance(before, out)
			}
			tx.DeleteDefinitions(guid)
			return errors.New("regretted")
		},
	}
	return operations[rapid.SampledFrom(slices.Sorted(maps.Keys(operations))).Draw(t, "operation")]
}

// fleet is an active BBS, a standby, and a watcher who goes from one active BBS to the next.
type fleet struct {
	t       *testing.T
	pool    *pgxpool.Pool
	maxRows int

	w       *writer // of the active one
	standby *Store
	cursor  *watch.Cursor
	seen    *observer
}

func newFleet(t *testing.T, rt *rapid.T, pool *pgxpool.Pool) *fleet {
	t.Helper()
	_, err := pool.Exec(t.Context(), `truncate desired_lrps, healthy_definitions, lrp_definitions, actual_lrps, tasks, task_definitions, domains, batch_log;
		update bbs_state set epoch = 0, revision = 0`)
	require.NoError(rt, err)
	// Few rows, so that what comes at once does not fit into one batch.
	f := &fleet{t: t, pool: pool, maxRows: rapid.IntRange(1, 30).Draw(rt, "max rows"), seen: newObserver()}
	f.standby = f.start(rt)
	f.takeOver(rt, 0)
	return f
}

// start returns a BBS that holds what the tables hold.
func (f *fleet) start(rt *rapid.T) *Store {
	cfg := testConfig(f.t, f.pool)
	cfg.MaxRows = f.maxRows
	s, err := New(cfg)
	require.NoError(rt, err)
	require.NoError(rt, s.Load(f.t.Context()))
	return s
}

// takeOver makes the standby the active one and starts another. The watcher goes on at its revision.
func (f *fleet) takeOver(rt *rapid.T, position uint64) {
	require.NoError(rt, f.standby.TakeOver(f.t.Context(), always))
	f.close()
	f.w = &writer{Store: f.standby}
	var err error
	f.cursor, err = f.w.Watch().Cursor(position, watch.All())
	require.NoError(rt, err)
	f.standby = f.start(rt)
}

func (f *fleet) close() {
	if f.w != nil {
		f.cursor.Close()
		f.w.release()
	}
}

// commit brings random requests through batches.
func (f *fleet) commit(rt *rapid.T) {
	requests := make([]*request, rapid.IntRange(1, 8).Draw(rt, "requests"))
	for i := range requests {
		requests[i] = &request{ctx: f.t.Context(), apply: drawOperation(rt), done: make(chan result, 1)}
	}
	before := f.w.Committed().Revision()
	require.NoError(rt, f.w.commit(f.t.Context(), requests)) // a refusal by Postgres too is the matter of one request
	after := f.w.Committed().Revision()
	last := before
	for _, r := range requests {
		require.Len(rt, r.done, 1, "every caller has one answer")
		res := <-r.done
		require.NotErrorIs(rt, res.err, ErrUnavailable)
		if res.err == nil {
			require.GreaterOrEqual(rt, res.revision, last, "in the order of the requests")
			require.LessOrEqual(rt, res.revision, after)
			last = res.revision
		}
	}
}

// replace makes the standby the active one while the active one knows nothing of it, and wants to write once more.
func (f *fleet) replace(rt *rapid.T) {
	fenced, before := f.w, f.w.Committed()
	position := f.cursor.Position()
	late := &request{ctx: f.t.Context(), apply: func(tx *Tx) error {
		after, event := lrp.UpsertDomain(nil, "late", 0, nil, stamp().Now)
		tx.PutDomain(tx.Domain("late"), after, event)
		return nil
	}, done: make(chan result, 1)}
	f.takeOver(rt, position)
	defer fenced.release()
	require.ErrorIs(rt, fenced.commit(f.t.Context(), []*request{late}), ErrFenced)
	require.ErrorIs(rt, (<-late.done).err, ErrFenced)
	require.Same(rt, before, fenced.Committed(), "what was refused is not visible either")
	require.Nil(rt, f.w.Committed().Domain("late"))
	require.Equal(rt, before.Revision(), f.w.Committed().Revision())
	requireSameContent(f.t, before, f.w.Committed())
}

// TestStoreAgreesWithItsWatchers runs random requests in random batches on an active BBS that others replace. After each batch a
// watcher who started with nothing holds what the state holds, and the invariants of the records hold; in the end the tables
// and a standby hold the same.
func TestStoreAgreesWithItsWatchers(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	rapid.Check(t, func(rt *rapid.T) {
		f := newFleet(t, rt, pool)
		defer f.close()
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			if rapid.IntRange(0, 9).Draw(rt, "replace") == 0 {
				f.replace(rt)
			}
			f.commit(rt)
			follow(rt, f.cursor, f.seen)
			require.Equal(rt, f.w.Committed().Revision(), f.cursor.Position())
			requireObserved(rt, f.w.Committed(), f.seen)
			requireInvariants(rt, f.w.Committed())
		}
		require.NoError(rt, f.standby.followOnce(t.Context()))
		requireSameContent(t, f.w.Committed(), f.standby.Committed())
		requireLoadsTheSame(t, pool, f.w.Store)
		requireNothingLeft(t, pool)
	})
}

// requireNothingLeft fails if what belongs to a record has outlived it.
func requireNothingLeft(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	var healthy, definitions, tasks int
	require.NoError(t, pool.QueryRow(t.Context(), `select
		(select count(*) from healthy_definitions h where not exists (select from desired_lrps d where d.process_guid = h.process_guid)),
		(select count(*) from lrp_definitions h where not exists (select from desired_lrps d where d.process_guid = h.process_guid)),
		(select count(*) from task_definitions h where not exists (select from tasks t where t.guid = h.guid))`).Scan(&healthy, &definitions, &tasks))
	require.Zero(t, healthy, "healthy definitions")
	require.Zero(t, definitions, "definitions of lrps")
	require.Zero(t, tasks, "definitions of tasks")
}

// follow lets the watcher see what there is.
func follow(t *rapid.T, cursor *watch.Cursor, seen *observer) {
	last := cursor.Position()
	for {
		batch, err := cursor.Next(t.Context(), 0)
		require.NoError(t, err)
		if batch == nil {
			return
		}
		require.Greater(t, batch.Revision, last, "each batch once and in order")
		last = batch.Revision
		for i := range batch.Events {
			require.NoError(t, seen.apply(&batch.Events[i]))
		}
	}
}

func requireObserved(t *rapid.T, view *View, seen *observer) {
	actuals := map[actualID]*workloadv1.ActualLRP{}
	for a := range view.Actuals() {
		id, m := decodeActual(a.Encoded)
		actuals[id] = m
	}
	require.Len(t, seen.actuals, len(actuals))
	for id, m := range actuals {
		require.True(t, proto.Equal(m, seen.actuals[id]), "%v is\n%v, told was\n%v", id, m, seen.actuals[id])
	}
	tasks := map[string]workloadv1.TaskState{}
	for row := range view.Tasks() {
		tasks[row.GUID] = workloadv1.TaskState(row.State)
	}
	require.Empty(t, cmp.Diff(tasks, seen.tasks))
	desireds := map[string]bool{}
	for d := range view.Desireds() {
		desireds[d.ProcessGUID] = true
	}
	require.Empty(t, cmp.Diff(desireds, seen.desireds))
}

func requireInvariants(t *rapid.T, view *View) {
	requireTally(t, view.state)
	onCell := 0
	ordinary := map[string]lrp.Key{}
	for a := range view.Records() {
		if a.Presence == lrp.Ordinary && a.InstanceGUID != "" {
			require.NotContains(t, ordinary, a.InstanceGUID, "an instance is the ordinary one of one index")
			ordinary[a.InstanceGUID] = a.Key
		}
		require.Equal(t, a.Held(), a.CellID != "" && a.InstanceGUID != "", "%v", a)
		require.LessOrEqual(t, a.Revision, view.Revision())
		if a.Presence != lrp.Ordinary {
			require.True(t, a.Held(), "%v", a)
		}
		if a.CellID != "" {
			onCell++
			require.True(t, view.CellHolds(a.CellID, a.ProcessGUID))
		}
	}
	indexed := 0
	for _, cell := range []string{"c1", "c2"} {
		for a := range view.RecordsOnCell(cell) {
			require.Equal(t, cell, a.CellID)
			indexed++
		}
	}
	require.Equal(t, onCell, indexed, "the index of cells holds what cells hold")
}

package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		InstanceGUID: rapid.SampledFrom([]string{"i1", "i2"}).Draw(t, "instance"), CellID: rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "cell"),
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

// TestStoreAgreesWithItsWatchers runs random requests in random batches. After each batch a watcher who
// started with nothing holds what the state holds, and the invariants of the records hold; in the end the
// tables and a standby hold the same.
func TestStoreAgreesWithItsWatchers(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	rapid.Check(t, func(rt *rapid.T) {
		_, err := pool.Exec(t.Context(), `truncate desired_lrps, healthy_definitions, lrp_definitions, actual_lrps, tasks, task_definitions, domains, batch_log;
			update bbs_state set epoch = 0, revision = 0`)
		require.NoError(rt, err)
		s, err := New(testConfig(t, pool))
		require.NoError(rt, err)
		require.NoError(rt, s.TakeOver(t.Context(), always))
		w := &writer{Store: s}
		defer w.release()
		standby, err := New(testConfig(t, pool))
		require.NoError(rt, err)
		require.NoError(rt, standby.Load(t.Context()))
		cursor, err := s.Watch().Cursor(0, watch.All())
		require.NoError(rt, err)
		defer cursor.Close()
		seen := newObserver()

		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			requests := make([]*request, rapid.IntRange(1, 5).Draw(rt, "requests"))
			for i := range requests {
				requests[i] = &request{ctx: t.Context(), apply: drawOperation(rt), done: make(chan result, 1)}
			}
			before := s.Committed().Revision()
			_, err := w.commitSome(t.Context(), requests)
			require.NoError(rt, err)
			for _, r := range requests {
				require.Len(rt, r.done, 1, "every caller has an answer")
			}
			after := s.Committed().Revision()
			require.LessOrEqual(rt, after, before+1)
			follow(rt, cursor, seen)
			requireObserved(rt, s.Committed(), seen)
			requireInvariants(rt, s.Committed())
		}
		require.NoError(rt, standby.followOnce(t.Context()))
		requireSameContent(t, s.Committed(), standby.Committed())
		requireLoadsTheSame(t, pool, s)
	})
}

// follow lets the watcher see what there is.
func follow(t *rapid.T, cursor *watch.Cursor, seen *observer) {
	for {
		batch, err := cursor.Next(t.Context(), 0)
		require.NoError(t, err)
		if batch == nil {
			return
		}
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
	onCell := 0
	for a := range view.Records() {
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

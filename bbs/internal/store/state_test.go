package store

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// stateModel is a state as a plain map of each table, which any change copies as a whole.
type stateModel struct {
	actuals map[actualID]*actualRow
	tasks   map[string]*task.Task
}

func (m stateModel) copy() stateModel {
	return stateModel{maps.Clone(m.actuals), maps.Clone(m.tasks)}
}

// names have beginnings in common, are beginnings of each other, and differ within and behind the first eight bytes.
func names() []string {
	return []string{"", "a", "app", "app-0000", "app-0000-1", "app-0000-2", "b", "\xff"}
}

func (m stateModel) actualsWhere(keep func(*actualRow) bool) []*lrp.Actual {
	var rows []*lrp.Actual
	for _, row := range m.actuals {
		if keep(row) {
			rows = append(rows, row.Actual)
		}
	}
	slices.SortFunc(rows, func(a, b *lrp.Actual) int {
		return cmp.Or(strings.Compare(a.ProcessGUID, b.ProcessGUID), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Presence, b.Presence))
	})
	return rows
}

func (m stateModel) tasksWhere(keep func(*task.Task) bool) []*task.Task {
	var rows []*task.Task
	for _, row := range m.tasks {
		if keep(row) {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b *task.Task) int { return strings.Compare(a.GUID, b.GUID) })
	return rows
}

// requireModel compares everything that can be asked of a state with the model, rows by identity.
func requireModel(t *rapid.T, s *state, m stateModel) {
	r := records{s}
	requireTally(t, s)
	require.Equal(t, m.actualsWhere(func(*actualRow) bool { return true }), slices.Collect(r.Records()))
	require.Equal(t, m.tasksWhere(func(*task.Task) bool { return true }), slices.Collect(r.Tasks()))
	for _, name := range names() {
		require.Equal(t, m.actualsWhere(func(a *actualRow) bool { return a.ProcessGUID == name }), r.InstancesOf(name))
		require.Same(t, m.tasks[name], r.Task(name))
		onCell := m.actualsWhere(func(a *actualRow) bool { return name != "" && a.CellID == name })
		require.Equal(t, onCell, slices.Collect(r.RecordsOnCell(name)), "on cell %q", name)
		require.Equal(t, m.tasksWhere(func(t *task.Task) bool { return name != "" && t.CellID == name }), slices.Collect(r.TasksOnCell(name)))
		for _, guid := range names() {
			holds := slices.ContainsFunc(onCell, func(a *lrp.Actual) bool { return a.ProcessGUID == guid })
			require.Equal(t, holds, r.CellHolds(name, guid), "cell %q, guid %q", name, guid)
		}
		for index := range int32(3) {
			var want lrp.Instance
			for presence := range lrp.Presence(3) {
				if row := m.actuals[actualID{lrp.Key{ProcessGUID: name, Index: index}, presence}]; row != nil {
					want.Set(row.Actual)
				}
			}
			require.Equal(t, want, r.Instance(lrp.Key{ProcessGUID: name, Index: index}))
		}
	}
}

// requireTally counts everything once more.
func requireTally(t require.TestingT, s *state) {
	var want lrp.Tally
	for d := range (records{s}).Desireds() {
		want.AddDesired(d, 1)
	}
	for a := range (records{s}).Records() {
		want.Add(a, 1)
	}
	require.Equal(t, want, s.tally)
}

// TestStateAgreesWithMaps changes states and copies of them in any order. Each is what was done to it, and what was done to a copy
// does not show in the one that it was made from.
func TestStateAgreesWithMaps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		states := []*state{newState()}
		models := []stateModel{{map[actualID]*actualRow{}, map[string]*task.Task{}}}
		name := rapid.SampledFrom(names())
		for step := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			at := rapid.IntRange(0, len(states)-1).Draw(rt, "state")
			s, m := states[at], models[at]
			guid, cell := name.Draw(rt, "guid"), name.Draw(rt, "cell")
			id := actualID{lrp.Key{ProcessGUID: guid, Index: rapid.Int32Range(0, 2).Draw(rt, "index")}, lrp.Presence(rapid.IntRange(0, 2).Draw(rt, "presence"))}
			row := &actualRow{Actual: &lrp.Actual{Key: id.Key, Presence: id.presence, InstanceKey: lrp.InstanceKey{CellID: cell, InstanceGUID: fmt.Sprint(step)}}}
			row.State = lrp.State(rapid.IntRange(1, 4).Draw(rt, "state of the row"))
			wanted := &lrp.Desired{ProcessGUID: guid, Instances: rapid.Int32Range(0, 3).Draw(rt, "instances")}
			job := &task.Task{GUID: guid, CellID: cell, InstanceGUID: fmt.Sprint(step)}
			switch rapid.IntRange(0, 7).Draw(rt, "change") {
			case 0:
				s.put(job)
				m.tasks[guid] = job
			case 1:
				s.remove(job)
				delete(m.tasks, guid)
			case 2:
				s.remove(row)
				delete(m.actuals, id)
			case 3:
				states, models = append(states, s.copy()), append(models, m.copy())
			case 4:
				s.put(wanted)
			case 5:
				s.remove(wanted)
			default:
				s.put(row)
				m.actuals[id] = row
			}
		}
		for i := range states {
			requireModel(rt, states[i], models[i])
		}
	})
}

// TestTreeOfManyRows has nodes that split, join and lend, at sizes that a random test does not reach.
func TestTreeOfManyRows(t *testing.T) {
	t.Parallel()
	rows := newTree[textKey, int]()
	const n = 20000
	value := func(i int) (textKey, *int) { return keyOf(benchGUID(i)), &i }
	for i := range n {
		key, v := value(i)
		require.Nil(t, rows.set(key, v))
	}
	full := rows.copy()
	for i := range n {
		if i%3 != 0 {
			key, _ := value(i)
			require.Equal(t, i, *rows.remove(key))
		}
	}
	for i := range n {
		key, _ := value(i)
		require.Equal(t, i, *full.get(key))
		if i%3 != 0 {
			require.Nil(t, rows.get(key))
		} else {
			require.Equal(t, i, *rows.get(key))
		}
	}
	var last string
	count := 0
	for v := range full.all() {
		guid := benchGUID(*v)
		require.Less(t, last, guid)
		last = guid
		count++
	}
	require.Equal(t, n, count)
}

// TestPackedRecordsShareNothing makes sure that packing a record leaves alone the one that it was made from, which others read.
func TestPackedRecordsShareNothing(t *testing.T) {
	t.Parallel()
	before := new(recordEncoder).actual(&lrp.Actual{
		Key: lrp.Key{ProcessGUID: "guid"}, State: lrp.Running, Tag: lrp.ModificationTag{Epoch: "epoch"},
		NetInfo:    &lrp.NetInfo{Address: "10.0.0.1", Ports: []lrp.PortMapping{{ContainerPort: 1}}},
		MetricTags: []lrp.TagValue{{Name: "name", Value: "value"}}, InternalRoutes: []string{"route"},
	})
	copied := *before.Actual
	copied.Presence = lrp.Suspect
	after := new(recordEncoder).actual(&copied)
	require.NotSame(t, before.NetInfo, after.NetInfo)
	require.NotSame(t, &before.NetInfo.Ports[0], &after.NetInfo.Ports[0])
	require.NotSame(t, &before.MetricTags[0], &after.MetricTags[0])
	require.NotSame(t, &before.InternalRoutes[0], &after.InternalRoutes[0])
	require.Equal(t, before.NetInfo, after.NetInfo)
	require.Equal(t, before.MetricTags, after.MetricTags)

	d := desired("app", 1)
	new(recordEncoder).desired(d)
	next := *d
	next.Instances = 2
	new(recordEncoder).desired(&next)
	require.NotSame(t, &d.Routes[0], &next.Routes[0])
	require.NotSame(t, &d.MetricTags[0], &next.MetricTags[0])
	require.NotSame(t, &d.InternalHostnames[0], &next.InternalHostnames[0])
	require.Equal(t, d.Routes, next.Routes)
	// A route's value cannot grow into what follows it in the encoding.
	encoded := slices.Clone(next.Encoded)
	_ = append(next.Routes[0].Value, "more"...)
	require.Equal(t, encoded, next.Encoded)
}

// Two names of cells may have the same hash, however unlikely that is.
func TestRowsOfCellsWithTheSameHashAreToldApart(t *testing.T) {
	t.Parallel()
	s := newState()
	for guid, cell := range map[string]string{"a": "mine", "b": "other", "c": "mine"} {
		row := new(recordEncoder).actual(&lrp.Actual{
			Key: lrp.Key{ProcessGUID: guid}, InstanceKey: lrp.InstanceKey{InstanceGUID: "i", CellID: cell}, State: lrp.Running,
		})
		s.actuals.set(row.key(), row)
		s.actualsOnCell.set(onCellOf("mine", row.key()), row)
	}
	r := records{s}
	var guids []string
	for a := range r.RecordsOnCell("mine") {
		guids = append(guids, a.ProcessGUID)
	}
	require.Equal(t, []string{"a", "c"}, guids)
	require.True(t, r.CellHolds("mine", "c"))
	require.False(t, r.CellHolds("mine", "b"))
}

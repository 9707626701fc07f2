package converge

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a state in plain maps that plans can be made for and applied to.
type world struct {
	desired map[string]*lrp.Desired
	actual  map[lrp.Key]lrp.Instance
	tasks   map[string]*task.Task
	domains map[string]*lrp.Domain
}

func newWorld() *world {
	return &world{
		desired: map[string]*lrp.Desired{}, actual: map[lrp.Key]lrp.Instance{},
		tasks: map[string]*task.Task{}, domains: map[string]*lrp.Domain{},
	}
}

func sorted[K comparable, V any](m map[K]V, compare func(K, K) int) iter.Seq[V] {
	keys := slices.SortedFunc(maps.Keys(m), compare)
	return func(yield func(V) bool) {
		for _, key := range keys {
			if !yield(m[key]) {
				return
			}
		}
	}
}

func (w *world) Revision() uint64                  { return 1 }
func (w *world) Domains() iter.Seq[*lrp.Domain]    { return sorted(w.domains, cmp.Compare[string]) }
func (w *world) Tasks() iter.Seq[*task.Task]       { return sorted(w.tasks, cmp.Compare[string]) }
func (w *world) Instance(key lrp.Key) lrp.Instance { return w.actual[key] }
func (w *world) Desired(guid string) *lrp.Desired  { return w.desired[guid] }

func (w *world) DesiredsFrom(guid string) iter.Seq[*lrp.Desired] {
	return from(sorted(w.desired, cmp.Compare[string]), func(d *lrp.Desired) bool { return d.ProcessGUID >= guid })
}

func (w *world) RecordsFrom(guid string) iter.Seq[*lrp.Actual] {
	return from(w.Records(), func(a *lrp.Actual) bool { return a.ProcessGUID >= guid })
}

// from leaves out what comes before.
func from[T any](all iter.Seq[T], reached func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range all {
			if reached(v) && !yield(v) {
				return
			}
		}
	}
}

func (w *world) Tally() (tally lrp.Tally, known bool) {
	for _, d := range w.desired {
		tally.AddDesired(d, 1)
	}
	for row := range w.Records() {
		tally.Add(row, 1)
	}
	return tally, true
}

func (w *world) Records() iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for i := range sorted(w.actual, lrp.Key.Compare) {
			for _, row := range [...]*lrp.Actual{i.Ordinary, i.Evacuating, i.Suspect} {
				if row != nil && !yield(row) {
					return
				}
			}
		}
	}
}

func (w *world) RecordsOnCell(cell string) iter.Seq[*lrp.Actual] {
	return func(yield func(*lrp.Actual) bool) {
		for row := range w.Records() {
			if row.CellID == cell && !yield(row) {
				return
			}
		}
	}
}

func (w *world) TasksOnCell(cell string) iter.Seq[*task.Task] {
	return func(yield func(*task.Task) bool) {
		for t := range w.Tasks() {
			if t.CellID == cell && !yield(t) {
				return
			}
		}
	}
}

func (w *world) want(guid string, instances int32) *lrp.Desired {
	d := &lrp.Desired{ProcessGUID: guid, Domain: "apps", Instances: instances, ActiveDefinitionID: "def"}
	w.desired[guid] = d
	return d
}

func (w *world) fresh() {
	d, _ := lrp.UpsertDomain(nil, "apps", 0, nil, now)
	w.domains["apps"] = d
}

// put stores a record; a held one gets an instance guid from its key and presence.
func (w *world) put(guid string, index int32, presence lrp.Presence, state lrp.State, cell string) *lrp.Actual {
	key := lrp.Key{ProcessGUID: guid, Index: index}
	row := &lrp.Actual{Key: key, Domain: "apps", Presence: presence, State: state, Since: now.Add(-time.Second).UnixNano()}
	if row.Held() {
		row.InstanceKey = lrp.InstanceKey{InstanceGUID: fmt.Sprintf("%v-%v", key, presence), CellID: cell}
	}
	i := w.actual[key]
	i.Set(row)
	w.actual[key] = i
	return row
}

// apply carries out a plan as the loops do, and returns the events.
func (w *world) apply(v *View, plan *Plan) []lrp.Event {
	var events []lrp.Event
	for _, name := range plan.LapsedDomains {
		if after, _, changed := lrp.ExpireDomain(w.domains[name], v.Now); changed && after != nil {
			w.domains[name] = after
		} else if changed {
			delete(w.domains, name)
		}
	}
	for n, work := range plan.LRPs {
		s := Subject{Key: work.Key, Instance: w.actual[work.Key], Desired: w.desired[work.Key.ProcessGUID]}
		switch {
		case s.Desired != nil:
			s.Domain = w.domains[s.Desired.Domain]
		case !s.Instance.IsZero():
			s.Domain = w.domains[s.Instance.Any().Domain]
		}
		out, _ := v.Converge(s, fmt.Sprint("epoch-", n))
		events = append(events, out.Events...)
		if out.After.IsZero() {
			delete(w.actual, work.Key)
		} else {
			w.actual[work.Key] = out.After
		}
	}
	for _, work := range plan.Tasks {
		if after, _ := v.ConvergeTask(w.tasks[work.GUID]); after != nil {
			w.tasks[work.GUID] = after
		} else {
			delete(w.tasks, work.GUID)
		}
	}
	return events
}

// show writes all records as words.
func (w *world) show() []string {
	var words []string
	for row := range w.Records() {
		word := fmt.Sprintf("%v %v %v", row.Key, row.Presence, row.State)
		if row.CellID != "" {
			word += " on " + row.CellID
		}
		if row.StopRequested {
			word += " to stop"
		}
		words = append(words, word)
	}
	return words
}

func at(guid string, index int32) lrp.Key { return lrp.Key{ProcessGUID: guid, Index: index} }

func view(cells Cells) *View {
	return &View{Now: now, Cells: cells, Config: DefaultConfig(), Remember: 100}
}

var bothPresent = Cells{"cell-1": Present, "cell-2": Present}

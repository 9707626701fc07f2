package lrp

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model plays cells, the auctioneer, clients and convergence against the rules of one index, in any
// order, repeated and late, and keeps what watchers would have.
type model struct {
	i       Instance
	desired *Desired
	now     time.Time
	epochs  int
	// lives are the instance keys that watchers believe to exist, by what the events told.
	watched map[string]*Actual
}

// watcher identifies a record as watchers do: one that waits by its index, one that lives by its key.
func watcher(a *Actual) string {
	if a.IsZero() {
		return "nobody"
	}
	return a.InstanceGUID + "@" + a.CellID
}

func (m *model) stamp() Stamp {
	m.epochs++
	return Stamp{Now: m.now, Epoch: fmt.Sprint("epoch-", m.epochs)}
}

func (m *model) take(t *rapid.T, what string, out Outcome, err error) {
	before := m.i
	if err != nil && (out.After != before || len(out.Events) > 0) {
		t.Fatalf("%s was refused (%v) and changed %v to %v", what, err, shown(before), shown(out.After))
	}
	if out.After == before && len(out.Events) > 0 {
		t.Fatalf("%s changed nothing and told %v", what, told(out.Events))
	}
	for n, e := range out.Events {
		m.watch(t, what, e)
		running := e.After != nil && e.After.State == Running
		if running && n > 0 && out.Events[n-1].Kind != CrashedEvent {
			t.Fatalf("%s tells %v: what runs must come first", what, told(out.Events))
		}
	}
	m.i = out.After
	m.check(t, what)
}

// watch applies an event as a watcher does who drops what does not supersede what he holds.
func (m *model) watch(t *rapid.T, what string, e Event) {
	switch e.Kind {
	case Created:
		m.watched[watcher(e.After)] = e.After
	case Changed:
		if e.Before.InstanceKey != e.After.InstanceKey && !e.Before.IsZero() {
			delete(m.watched, watcher(e.Before))
		}
		if e.Before.IsZero() && !e.After.IsZero() {
			delete(m.watched, "nobody")
		}
		m.watched[watcher(e.After)] = e.After
	case Removed:
		held := m.watched[watcher(e.Before)]
		if held == nil {
			t.Fatalf("%s tells the removal of %v, which was never told", what, watcher(e.Before))
		}
		if held.Tag.Epoch == e.Before.Tag.Epoch && held.Tag.Index > e.Before.Tag.Index {
			return // superseded: the newer version stays
		}
		delete(m.watched, watcher(e.Before))
	case CrashedEvent:
	}
}

// check holds the invariants of one index.
func (m *model) check(t *rapid.T, what string) {
	keys := map[InstanceKey]Presence{}
	for _, a := range [...]*Actual{m.i.Ordinary, m.i.Evacuating, m.i.Suspect} {
		if a == nil {
			continue
		}
		if a.Held() == a.IsZero() {
			t.Fatalf("after %s %v %v has key %v", what, a.Presence, a.State, a.InstanceKey)
		}
		if a.State != Running && (a.NetInfo != nil || a.Routable) {
			t.Fatalf("after %s %v %v still shows an address", what, a.Presence, a.State)
		}
		if a.StopRequested && !a.Held() {
			t.Fatalf("after %s a record that no cell holds is to stop", what)
		}
		if !a.IsZero() {
			if other, twice := keys[a.InstanceKey]; twice {
				t.Fatalf("after %s %v is both %v and %v", what, a.InstanceKey, other, a.Presence)
			}
			keys[a.InstanceKey] = a.Presence
		}
		if held := m.watched[watcher(a)]; held != nil && held.Tag != a.Tag {
			t.Fatalf("after %s watchers have tag %v of %v, the record %v", what, held.Tag, watcher(a), a.Tag)
		} else if held == nil {
			t.Fatalf("after %s watchers do not know of %v %v %v", what, a.Presence, a.State, watcher(a))
		}
	}
	if e := m.i.Evacuating; e != nil && (e.State != Running || e.Presence != Evacuating) {
		t.Fatalf("after %s the evacuating record is %v %v", what, e.Presence, e.State)
	}
	if s := m.i.Suspect; s != nil && (!s.Held() || s.Presence != Suspect) {
		t.Fatalf("after %s the suspect record is %v %v", what, s.Presence, s.State)
	}
	if o := m.i.Ordinary; o != nil && o.Presence != Ordinary {
		t.Fatalf("after %s the ordinary record is %v", what, o.Presence)
	}
}

func TestModelOfOneIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			now:     start,
			desired: &Desired{ProcessGUID: key.ProcessGUID, Domain: "apps", Instances: 2},
			watched: map[string]*Actual{},
		}
		instance := rapid.SampledFrom([]InstanceKey{cell1, cell2, cell3})
		t.Repeat(m.actions(instance))
	})
}

func (m *model) actions(instance *rapid.Generator[InstanceKey]) map[string]func(*rapid.T) {
	by := func(what string, do func(t *rapid.T, by InstanceKey) (Outcome, error)) func(*rapid.T) {
		return func(t *rapid.T) {
			key := instance.Draw(t, "instance")
			out, err := do(t, key)
			m.take(t, what+" by "+key.InstanceGUID, out, err)
		}
	}
	of := func(what string, do func() (Outcome, error)) func(*rapid.T) {
		return func(t *rapid.T) {
			out, err := do()
			m.take(t, what, out, err)
		}
	}
	return map[string]func(*rapid.T){
		"": func(*rapid.T) {},
		"time": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * time.Second)
		},
		"strategy": func(t *rapid.T) {
			next := *m.desired
			next.UpdateStrategy = rapid.SampledFrom([]UpdateStrategy{Rolling, Recreate}).Draw(t, "strategy")
			m.desired = &next
		},
		"create": of("create", func() (Outcome, error) { return CreateUnclaimed(m.i, key, m.desired, m.stamp()), nil }),
		"claim":  by("claim", func(_ *rapid.T, by InstanceKey) (Outcome, error) { return Claim(m.i, by, m.now) }),
		"start": by("start", func(t *rapid.T, by InstanceKey) (Outcome, error) {
			return Start(m.i, m.report(t, by), m.stamp())
		}),
		"crash": by("crash", func(_ *rapid.T, by InstanceKey) (Outcome, error) {
			return Crash(m.i, by, "oom", defaults, m.now)
		}),
		"fail":    of("fail", func() (Outcome, error) { return Fail(m.i, "no room", m.now) }),
		"remove":  by("remove", func(_ *rapid.T, by InstanceKey) (Outcome, error) { return Remove(m.i, by) }),
		"retire":  of("retire", func() (Outcome, error) { return Retire(m.i) }),
		"stop":    of("stop", func() (Outcome, error) { return StopAll(m.i), nil }),
		"unclaim": of("unclaim", func() (Outcome, error) { return Unclaim(m.i, m.now) }),
		"lose":    by("lose", func(_ *rapid.T, by InstanceKey) (Outcome, error) { return Lose(m.i, by, m.stamp()), nil }),
		"return":  by("return", func(_ *rapid.T, by InstanceKey) (Outcome, error) { return Return(m.i, by), nil }),
		"evacuate claimed": by("evacuate claimed", func(_ *rapid.T, by InstanceKey) (Outcome, error) {
			return EvacuateClaimed(m.i, by, m.now)
		}),
		"evacuate crashed": by("evacuate crashed", func(_ *rapid.T, by InstanceKey) (Outcome, error) {
			return EvacuateCrashed(m.i, by, "oom", defaults, m.now)
		}),
		"evacuate stopped": by("evacuate stopped", func(_ *rapid.T, by InstanceKey) (Outcome, error) {
			return EvacuateStopped(m.i, by)
		}),
		"evacuate running": by("evacuate running", func(t *rapid.T, by InstanceKey) (Outcome, error) {
			d := m.desired
			if rapid.IntRange(0, 5).Draw(t, "gone") == 0 {
				d = nil
			}
			out, keep := EvacuateRunning(m.i, m.report(t, by), d, rapid.Int32Range(0, 1).Draw(t, "others"), m.stamp())
			if keep && out.After.held(by) == nil {
				t.Fatalf("the container of %v is kept, but no record has it", by)
			}
			return out, nil
		}),
		"remove evacuating": by("remove evacuating", func(_ *rapid.T, by InstanceKey) (Outcome, error) {
			return RemoveEvacuating(m.i, by, "apps")
		}),
	}
}

func (m *model) report(t *rapid.T, by InstanceKey) *Report {
	r := report(by)
	r.Routable = rapid.Bool().Draw(t, "routable")
	return r
}

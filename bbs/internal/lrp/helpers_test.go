package lrp

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now   = start.Add(time.Minute)
	at    = Stamp{Now: now, Epoch: "new-epoch"}

	key   = Key{ProcessGUID: "app", Index: 1}
	cell1 = InstanceKey{InstanceGUID: "i1", CellID: "cell-1"}
	cell2 = InstanceKey{InstanceGUID: "i2", CellID: "cell-2"}
	cell3 = InstanceKey{InstanceGUID: "i3", CellID: "cell-3"}

	defaults = ResolvePolicy(nil, nil)
)

// row makes a record as the store would hold it, with everything set that its state has.
func row(presence Presence, state State, by InstanceKey) *Actual {
	a := &Actual{
		Key: key, InstanceKey: by, Domain: "apps", DefinitionID: "def", Presence: presence, State: state,
		Since: start.UnixNano(), Tag: ModificationTag{Epoch: fmt.Sprintf("epoch-%v", presence), Index: 7},
	}
	if state == Running {
		a.apply(report(by))
	}
	return a
}

func (a *Actual) apply(r *Report) { *a = *a.reported(r) }

func report(by InstanceKey) *Report {
	return &Report{
		Key: key, InstanceKey: by, Domain: "apps",
		NetInfo:        NetInfo{Address: "10.0.0.1", Ports: []PortMapping{{ContainerPort: 8080, HostPort: 61001}}},
		InternalRoutes: []string{"a.internal"}, MetricTags: map[string]string{"b": "2", "a": "1"},
		Routable: true, Zone: "z1", DefinitionID: "def",
	}
}

func unclaimedRow() *Actual { return row(Ordinary, Unclaimed, InstanceKey{}) }
func claimedBy(by InstanceKey) *Actual {
	return row(Ordinary, Claimed, by)
}
func runningOn(by InstanceKey) *Actual { return row(Ordinary, Running, by) }
func crashedRow() *Actual              { return row(Ordinary, Crashed, InstanceKey{}) }
func suspectOn(by InstanceKey) *Actual { return row(Suspect, Running, by) }
func evacuatingOn(by InstanceKey) *Actual {
	return row(Evacuating, Running, by)
}

func stopRequested(a *Actual) *Actual {
	next := *a
	next.StopRequested = true
	return &next
}

func unroutable(a *Actual) *Actual {
	next := *a
	next.Routable = false
	return &next
}

func ordinary(a *Actual) Instance { return Instance{Ordinary: a} }

// told writes events as words: kind, state and presence before, state and presence after.
func told(events []Event) []string {
	var words []string
	for _, e := range events {
		word := e.Kind.String()
		for _, a := range [...]*Actual{e.Before, e.After} {
			if a != nil {
				word += fmt.Sprintf(" %v %v", a.Presence, a.State)
				if a.InstanceGUID != "" {
					word += " " + a.InstanceGUID
				}
			}
		}
		words = append(words, word)
	}
	return words
}

// shown writes the records of an index as words.
func shown(i Instance) []string {
	var words []string
	for _, a := range [...]*Actual{i.Ordinary, i.Evacuating, i.Suspect} {
		if a == nil {
			continue
		}
		word := fmt.Sprintf("%v %v", a.Presence, a.State)
		if a.InstanceGUID != "" {
			word += " " + a.InstanceGUID
		}
		if a.StopRequested {
			word += " to stop"
		}
		words = append(words, word)
	}
	return words
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

package lrp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/fault"
)

func desired(instances int32) *Desired {
	return &Desired{
		ProcessGUID: "app", Domain: "apps", Instances: instances, ActiveDefinitionID: "def", Annotation: "old",
		Tag: ModificationTag{Epoch: "e", Index: 3}, CreatedAt: 1, UpdatedAt: 2,
		Routes: []Route{{Router: "cf-router", Value: []byte("[]")}}, MetricTags: []MetricTag{{Name: "a", Static: "1"}},
	}
}

func atIndex(a *Actual, index int32) *Actual {
	next := *a
	next.Index = index
	return &next
}

func touched(indices []IndexOutcome) map[int32][]string {
	got := map[int32][]string{}
	for _, i := range indices {
		got[i.Key.Index] = shown(i.Outcome.After)
	}
	return got
}

func TestDesire(t *testing.T) {
	t.Parallel()
	want := desired(3)
	left := Group([]*Actual{atIndex(runningOn(cell1), 1), atIndex(suspectOn(cell2), 2), atIndex(unclaimedRow(), 7)})
	change, err := Desire(nil, want, left, at)
	require.NoError(t, err)
	diff(t, "indices", map[int32][]string{0: {"ORDINARY UNCLAIMED"}, 2: {"ORDINARY UNCLAIMED", "SUSPECT RUNNING i2"}}, touched(change.Indices))
	d := change.Desired
	if d.Tag != (ModificationTag{Epoch: "new-epoch"}) || d.CreatedAt != now.UnixNano() || d.UpdatedAt != now.UnixNano() {
		t.Errorf("header is %+v", d)
	}
	if change.Event.Before != nil || change.Event.After != d {
		t.Errorf("event is %+v", change.Event)
	}
	created := change.Indices[0].Outcome.After.Ordinary
	diff(t, "created record", &Actual{
		Key: Key{"app", 0}, Domain: "apps", DefinitionID: "def", State: Unclaimed,
		Since: now.UnixNano(), Tag: ModificationTag{Epoch: "new-epoch"},
	}, created)

	if _, err := Desire(d, want, nil, at); fault.Reason(err) != "ResourceExists" {
		t.Errorf("desiring again: %v", err)
	}
}

func TestApplyUpdate(t *testing.T) {
	t.Parallel()
	rows := func() []Instance {
		return Group([]*Actual{
			atIndex(runningOn(cell1), 0), atIndex(evacuatingOn(cell3), 0),
			atIndex(claimedBy(cell2), 1), atIndex(suspectOn(cell3), 1),
			atIndex(crashedRow(), 2),
		})
	}
	tests := map[string]struct {
		update  Update
		reason  string
		check   func(*Desired) bool
		indices map[int32][]string
		nothing bool
	}{
		"nothing set":                      {update: Update{}, nothing: true},
		"everything as it is":              {update: Update{Instances: new(int32(3)), Annotation: new("old"), Routes: &[]Route{{"cf-router", []byte("[]")}}, MetricTags: &[]MetricTag{{Name: "a", Static: "1"}}, ClearCrashPolicy: true}, nothing: true},
		"another tag than asked for":       {update: Update{Instances: new(int32(5)), IfTag: &ModificationTag{Epoch: "e", Index: 2}}, reason: "ResourceConflict"},
		"another epoch than asked for":     {update: Update{Instances: new(int32(5)), IfTag: &ModificationTag{Epoch: "f", Index: 3}}, reason: "ResourceConflict"},
		"the tag that was asked for":       {update: Update{Instances: new(int32(3)), Annotation: new("new"), IfTag: &ModificationTag{Epoch: "e", Index: 3}}, check: func(d *Desired) bool { return d.Annotation == "new" }},
		"the annotation is cleared":        {update: Update{Annotation: new("")}, check: func(d *Desired) bool { return d.Annotation == "" }},
		"the routes are cleared":           {update: Update{Routes: &[]Route{}}, check: func(d *Desired) bool { return len(d.Routes) == 0 }},
		"the internal route is read":       {update: Update{Routes: &[]Route{{InternalRouter, []byte(`[{"hostname":"b"},{"hostname":"a"}]`)}}}, check: func(d *Desired) bool { return len(d.InternalHostnames) == 2 && d.InternalHostnames[0] == "a" }},
		"the metric tags change":           {update: Update{MetricTags: &[]MetricTag{{Name: "a", Dynamic: DynamicIndex}}}, check: func(d *Desired) bool { return d.MetricTags[0].Dynamic == DynamicIndex }},
		"a crash policy is set":            {update: Update{CrashPolicy: &CrashPolicy{MaxRestartAttempts: new(uint32(9))}}, check: func(d *Desired) bool { return *d.CrashPolicy.MaxRestartAttempts == 9 }},
		"a route has another value":        {update: Update{Routes: &[]Route{{"cf-router", []byte("[{}]")}}}, check: func(d *Desired) bool { return string(d.Routes[0].Value) == "[{}]" }},
		"a route of another router":        {update: Update{Routes: &[]Route{{"tcp-router", []byte("[]")}}}, check: func(d *Desired) bool { return d.Routes[0].Router == "tcp-router" }},
		"other credentials":                {update: Update{CredentialsChanged: true}, check: func(*Desired) bool { return true }},
		"more instances":                   {update: Update{Instances: new(int32(5))}, indices: map[int32][]string{3: {"ORDINARY UNCLAIMED"}, 4: {"ORDINARY UNCLAIMED"}}},
		"fewer instances":                  {update: Update{Instances: new(int32(1))}, indices: map[int32][]string{1: {"ORDINARY CLAIMED i2 to stop", "SUSPECT RUNNING i3 to stop"}, 2: nil}},
		"none at all, the evacuating stay": {update: Update{Instances: new(int32(0))}, indices: map[int32][]string{0: {"ORDINARY RUNNING i1 to stop", "EVACUATING RUNNING i3"}, 1: {"ORDINARY CLAIMED i2 to stop", "SUSPECT RUNNING i3 to stop"}, 2: nil}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := desired(3)
			change, err := ApplyUpdate(before, test.update, rows(), at)
			if test.reason != "" {
				if fault.Reason(err) != test.reason {
					t.Fatalf("refused with %v, want %s", err, test.reason)
				}
				return
			}
			require.NoError(t, err)
			if test.nothing {
				if change.Desired != before || change.Event != nil || len(change.Indices) > 0 {
					t.Errorf("changed %+v", change)
				}
				return
			}
			after := change.Desired
			if after.Tag.Index != 4 || after.UpdatedAt != now.UnixNano() || after.CreatedAt != 1 || before.Tag.Index != 3 {
				t.Errorf("header is %+v", after)
			}
			if change.Event.Before != before || change.Event.After != after {
				t.Error("the event has other headers")
			}
			if test.check != nil && !test.check(after) {
				t.Errorf("header is %+v", after)
			}
			if test.indices == nil {
				test.indices = map[int32][]string{}
			}
			diff(t, "indices", test.indices, touched(change.Indices))
		})
	}
	if _, err := ApplyUpdate(nil, Update{}, nil, at); fault.Reason(err) != "ResourceNotFound" {
		t.Errorf("updating nothing: %v", err)
	}
}

// An instance beyond what is desired, which an update does not change, is for convergence: it asks whether the domain is
// fresh, which an update of something else says nothing of.
func TestApplyUpdateOfSomethingElseLeavesExtraInstancesAlone(t *testing.T) {
	t.Parallel()
	rows := Group([]*Actual{atIndex(runningOn(cell1), 0), atIndex(runningOn(cell2), 7)})
	change, err := ApplyUpdate(desired(1), Update{Annotation: new("new")}, rows, at)
	require.NoError(t, err)
	diff(t, "indices", map[int32][]string{}, touched(change.Indices))
}

func TestApplyUpdateOfACrashPolicy(t *testing.T) {
	t.Parallel()
	policy := func(immediate, seconds, attempts uint32) *CrashPolicy {
		return &CrashPolicy{ImmediateRestarts: &immediate, MaxSecondsBetweenRestarts: &seconds, MaxRestartAttempts: &attempts}
	}
	tests := map[string]struct {
		before *CrashPolicy
		update Update
		want   *CrashPolicy // nil with changed is cleared
		change bool
	}{
		"an update that says nothing of it keeps it":   {policy(1, 60, 9), Update{Annotation: new("new")}, policy(1, 60, 9), true},
		"the same again changes nothing":               {policy(1, 60, 9), Update{CrashPolicy: policy(1, 60, 9)}, policy(1, 60, 9), false},
		"none where there is none changes nothing":     {nil, Update{ClearCrashPolicy: true}, nil, false},
		"it can be cleared":                            {policy(1, 60, 9), Update{ClearCrashPolicy: true}, nil, true},
		"it can be set":                                {nil, Update{CrashPolicy: policy(1, 60, 9)}, policy(1, 60, 9), true},
		"another number of immediate restarts":         {policy(1, 60, 9), Update{CrashPolicy: policy(2, 60, 9)}, policy(2, 60, 9), true},
		"another time between restarts":                {policy(1, 60, 9), Update{CrashPolicy: policy(1, 61, 9)}, policy(1, 61, 9), true},
		"another number of attempts":                   {policy(1, 60, 9), Update{CrashPolicy: policy(1, 60, 8)}, policy(1, 60, 8), true},
		"a number that was left to the built-in value": {&CrashPolicy{}, Update{CrashPolicy: &CrashPolicy{MaxRestartAttempts: new(uint32(0))}}, &CrashPolicy{MaxRestartAttempts: new(uint32(0))}, true},
		"a number that is left to it now":              {&CrashPolicy{MaxRestartAttempts: new(uint32(0))}, Update{CrashPolicy: &CrashPolicy{}}, &CrashPolicy{}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := desired(1)
			before.CrashPolicy = test.before
			change, err := ApplyUpdate(before, test.update, nil, at)
			require.NoError(t, err)
			diff(t, "policy", test.want, change.Desired.CrashPolicy)
			if changed := change.Desired != before; changed != test.change {
				t.Errorf("changed: %v, want %v", changed, test.change)
			}
		})
	}
}

func TestRemoveDesired(t *testing.T) {
	t.Parallel()
	before := desired(2)
	rows := Group([]*Actual{atIndex(runningOn(cell1), 0), atIndex(unclaimedRow(), 1), atIndex(evacuatingOn(cell2), 2)})
	change, err := RemoveDesired(before, nil, rows)
	require.NoError(t, err)
	if change.Desired != nil || change.Event.Before != before || change.Event.After != nil {
		t.Errorf("change is %+v", change)
	}
	diff(t, "indices", map[int32][]string{0: {"ORDINARY RUNNING i1 to stop"}, 1: nil}, touched(change.Indices))

	if _, err := RemoveDesired(nil, nil, nil); fault.Reason(err) != "ResourceNotFound" {
		t.Errorf("removing nothing: %v", err)
	}
	if _, err := RemoveDesired(before, &ModificationTag{}, nil); fault.Reason(err) != "ResourceConflict" {
		t.Errorf("removing another version: %v", err)
	}
	if _, err := RemoveDesired(before, &ModificationTag{Epoch: "e", Index: 3}, nil); err != nil {
		t.Errorf("removing the version that was asked for: %v", err)
	}
}

func TestMarkHealthy(t *testing.T) {
	t.Parallel()
	d := desired(1)
	healthy := d.MarkHealthy()
	if healthy == d || healthy.HealthyDefinitionID != "def" || healthy.Tag != d.Tag {
		t.Errorf("header is %+v", healthy)
	}
	if healthy.MarkHealthy() != healthy {
		t.Error("what is known changed the header")
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	policy := &CrashPolicy{ImmediateRestarts: new(uint32(1))}
	d, event := UpsertDomain(nil, "apps", 2*time.Minute, policy, now)
	if !d.Fresh(now.Add(2*time.Minute-1)) || d.Fresh(now.Add(2*time.Minute)) || !event.Fresh || event.Domain != d {
		t.Errorf("upserted domain is %+v", d)
	}
	forever, _ := UpsertDomain(d, "apps", 0, nil, now)
	if !forever.Fresh(now.Add(100*365*24*time.Hour)) || forever.DefaultCrashPolicy != policy {
		t.Errorf("domain for ever is %+v", forever)
	}
	stricter := &CrashPolicy{ImmediateRestarts: new(uint32(0))}
	if other, _ := UpsertDomain(d, "apps", 0, stricter, now); other.DefaultCrashPolicy != stricter {
		t.Error("another policy does not replace the former one")
	}
	finite, _ := UpsertDomain(forever, "apps", time.Second, nil, now)
	if finite.Fresh(now.Add(time.Second)) {
		t.Error("a finite time does not replace an infinite one")
	}
	if _, _, changed := ExpireDomain(finite, now); changed {
		t.Error("a fresh domain lapsed")
	}
	lapsed, event, changed := ExpireDomain(finite, now.Add(time.Minute))
	if !changed || lapsed == nil || lapsed.FreshUntil != 0 || lapsed.DefaultCrashPolicy != policy || event.Fresh || event.Domain != lapsed {
		t.Errorf("lapsed domain is %+v, %v", lapsed, changed)
	}
	if _, _, changed := ExpireDomain(lapsed, now.Add(time.Hour)); changed {
		t.Error("a domain lapsed twice")
	}
	plain, _ := UpsertDomain(nil, "apps", time.Second, nil, now)
	if gone, _, changed := ExpireDomain(plain, now.Add(time.Minute)); gone != nil || !changed {
		t.Errorf("a lapsed domain without policy is kept: %+v", gone)
	}
	if _, _, changed := ExpireDomain(nil, now); changed {
		t.Error("a domain that does not exist lapsed")
	}
	var none *Domain
	if none.Fresh(now) {
		t.Error("a domain that nobody upserted is fresh")
	}
}

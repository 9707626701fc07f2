package lrp

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/fault"
)

// transitionCase is one row of the guard tables: the records before, what is asked, and either the
// reason of the refusal or the records and events after.
type transitionCase struct {
	before Instance
	do     func(Instance) (Outcome, error)
	reason string
	after  []string
	events []string
}

func runTransitions(t *testing.T, tests map[string]transitionCase) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := test.do(test.before)
			if test.reason != "" {
				if fault.Reason(err) != test.reason {
					t.Fatalf("refused with %v, want reason %s", err, test.reason)
				}
				if out.After != test.before || len(out.Events) > 0 {
					t.Errorf("a refused transition changed %v, events %v", shown(out.After), told(out.Events))
				}
				return
			}
			require.NoError(t, err)
			diff(t, "records after", test.after, shown(out.After))
			diff(t, "events", test.events, told(out.Events))
			checkOutcome(t, test.before, out)
		})
	}
}

// checkOutcome holds what is true of every transition: every changed record has a moved tag, no record
// that no cell holds shows anything of a cell, and events come with their records.
func checkOutcome(t *testing.T, before Instance, out Outcome) {
	t.Helper()
	for _, pair := range [...][2]*Actual{
		{before.Ordinary, out.After.Ordinary},
		{before.Evacuating, out.After.Evacuating},
		{before.Suspect, out.After.Suspect},
	} {
		from, to := pair[0], pair[1]
		if to == nil || from == to {
			continue
		}
		if from != nil && from.Tag == to.Tag && from.StopRequested == to.StopRequested {
			t.Errorf("the tag of %v did not move", shown(out.After))
		}
		if to.State != Running && (to.NetInfo != nil || to.Routable || to.Zone != "" || len(to.InternalRoutes)+len(to.MetricTags) > 0) {
			t.Errorf("%v %v still shows what its cell reported: %+v", to.Presence, to.State, to)
		}
		if to.Held() == to.IsZero() {
			t.Errorf("%v %v has instance key %v", to.Presence, to.State, to.InstanceKey)
		}
	}
	for _, e := range out.Events {
		if (e.Kind == Created) != (e.Before == nil) || (e.Kind == Removed || e.Kind == CrashedEvent) != (e.After == nil) {
			t.Errorf("event %v has the wrong records", e.Kind)
		}
	}
}

func claim(by InstanceKey) func(Instance) (Outcome, error) {
	return func(i Instance) (Outcome, error) { return Claim(i, by, now) }
}

func startAs(by InstanceKey) func(Instance) (Outcome, error) {
	return func(i Instance) (Outcome, error) { return Start(i, report(by), at) }
}

func startUnroutable(by InstanceKey) func(Instance) (Outcome, error) {
	r := report(by)
	r.Routable = false
	return func(i Instance) (Outcome, error) { return Start(i, r, at) }
}

func crash(by InstanceKey) func(Instance) (Outcome, error) {
	return func(i Instance) (Outcome, error) { return Crash(i, by, "oom", defaults, now) }
}

func TestClaim(t *testing.T) {
	t.Parallel()
	runTransitions(t, map[string]transitionCase{
		"an index without record is refused": {do: claim(cell1), reason: "ResourceNotFound"},
		"an unclaimed index is taken": {
			before: ordinary(unclaimedRow()), do: claim(cell1),
			after: []string{"ORDINARY CLAIMED i1"}, events: []string{"changed ORDINARY UNCLAIMED ORDINARY CLAIMED i1"},
		},
		"the same claim again changes nothing": {
			before: ordinary(claimedBy(cell1)), do: claim(cell1), after: []string{"ORDINARY CLAIMED i1"},
		},
		"a claim of another instance is refused":                {before: ordinary(claimedBy(cell1)), do: claim(cell2), reason: "ActualLRPCannotBeClaimed"},
		"the same guid on another cell is another instance":     {before: ordinary(claimedBy(cell1)), do: claim(InstanceKey{"i1", "cell-2"}), reason: "ActualLRPCannotBeClaimed"},
		"a running instance may fall back to claimed by itself": {before: ordinary(runningOn(cell1)), do: claim(cell1), after: []string{"ORDINARY CLAIMED i1"}, events: []string{"changed ORDINARY RUNNING i1 ORDINARY CLAIMED i1"}},
		"a running instance is not taken by another":            {before: ordinary(runningOn(cell1)), do: claim(cell2), reason: "ActualLRPCannotBeClaimed"},
		"a crashed index is refused":                            {before: ordinary(crashedRow()), do: claim(cell1), reason: "ActualLRPCannotBeClaimed"},
		"a suspect's claim is ignored": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: claim(cell1),
			after: []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"},
		},
		"an evacuating one's claim is ignored": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, do: claim(cell1),
			after: []string{"ORDINARY UNCLAIMED", "EVACUATING RUNNING i1"},
		},
		"another's claim beside a suspect is taken": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: claim(cell2),
			after:  []string{"ORDINARY CLAIMED i2", "SUSPECT RUNNING i1"},
			events: []string{"changed ORDINARY UNCLAIMED ORDINARY CLAIMED i2"},
		},
		"an order to stop outlives a claim": {
			before: ordinary(stopRequested(runningOn(cell1))), do: claim(cell1),
			after: []string{"ORDINARY CLAIMED i1 to stop"}, events: []string{"changed ORDINARY RUNNING i1 ORDINARY CLAIMED i1"},
		},
	})
}

func TestClaimClearsThePlacementError(t *testing.T) {
	t.Parallel()
	waiting := unclaimedRow()
	waiting.PlacementError = "insufficient resources: memory"
	waiting.CrashCount, waiting.CrashReason = 2, "oom"
	out, err := Claim(ordinary(waiting), cell1, now)
	require.NoError(t, err)
	got := out.After.Ordinary
	if got.PlacementError != "" || got.CrashCount != 2 || got.CrashReason != "oom" || got.SinceTime() != now || got.Tag.Index != 8 {
		t.Errorf("claimed record is %+v", got)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	otherDomain := func(i Instance) (Outcome, error) {
		r := report(cell1)
		r.Domain = "other"
		return Start(i, r, at)
	}
	runTransitions(t, map[string]transitionCase{
		"an index without record gets one": {
			do: startAs(cell1), after: []string{"ORDINARY RUNNING i1"}, events: []string{"created ORDINARY RUNNING i1"},
		},
		"an unclaimed index runs":    {before: ordinary(unclaimedRow()), do: startAs(cell1), after: []string{"ORDINARY RUNNING i1"}, events: []string{"changed ORDINARY UNCLAIMED ORDINARY RUNNING i1"}},
		"the claiming instance runs": {before: ordinary(claimedBy(cell1)), do: startAs(cell1), after: []string{"ORDINARY RUNNING i1"}, events: []string{"changed ORDINARY CLAIMED i1 ORDINARY RUNNING i1"}},
		"the first to run overtakes another's claim": {
			before: ordinary(claimedBy(cell1)), do: startAs(cell2),
			after: []string{"ORDINARY RUNNING i2"}, events: []string{"changed ORDINARY CLAIMED i1 ORDINARY RUNNING i2"},
		},
		"what is known already changes nothing":  {before: ordinary(runningOn(cell1)), do: startAs(cell1), after: []string{"ORDINARY RUNNING i1"}},
		"another's running instance stays":       {before: ordinary(runningOn(cell1)), do: startAs(cell2), reason: "ActualLRPCannotBeStarted"},
		"a crashed index is refused":             {before: ordinary(crashedRow()), do: startAs(cell1), reason: "ActualLRPCannotBeStarted"},
		"another domain is refused":              {before: ordinary(claimedBy(cell1)), do: otherDomain, reason: "ActualLRPCannotBeStarted"},
		"another domain is refused when running": {before: ordinary(runningOn(cell1)), do: otherDomain, reason: "ActualLRPCannotBeStarted"},
		"a suspect's report is ignored": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, do: startAs(cell1),
			after: []string{"ORDINARY CLAIMED i2", "SUSPECT RUNNING i1"},
		},
		"the substitute runs, then the suspect goes": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, do: startAs(cell2),
			after:  []string{"ORDINARY RUNNING i2"},
			events: []string{"changed ORDINARY CLAIMED i2 ORDINARY RUNNING i2", "removed SUSPECT RUNNING i1"},
		},
		"the replacement runs, then the evacuating one goes": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, do: startAs(cell2),
			after:  []string{"ORDINARY RUNNING i2"},
			events: []string{"changed ORDINARY UNCLAIMED ORDINARY RUNNING i2", "removed EVACUATING RUNNING i1"},
		},
		"the replacement runs but is not routable yet, so the evacuating one serves on": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1), Suspect: suspectOn(cell3)}, do: startUnroutable(cell2),
			after:  []string{"ORDINARY RUNNING i2", "EVACUATING RUNNING i1"},
			events: []string{"changed ORDINARY UNCLAIMED ORDINARY RUNNING i2", "removed SUSPECT RUNNING i3"},
		},
		"a replacement that is still not routable changes nothing": {
			before: Instance{Ordinary: unroutable(runningOn(cell2)), Evacuating: evacuatingOn(cell1)}, do: startUnroutable(cell2),
			after: []string{"ORDINARY RUNNING i2", "EVACUATING RUNNING i1"},
		},
		"the replacement becomes routable, then the evacuating one goes": {
			before: Instance{Ordinary: unroutable(runningOn(cell2)), Evacuating: evacuatingOn(cell1)}, do: startAs(cell2),
			after:  []string{"ORDINARY RUNNING i2"},
			events: []string{"changed ORDINARY RUNNING i2 ORDINARY RUNNING i2", "removed EVACUATING RUNNING i1"},
		},
		"the replacement runs, then both others go": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1), Suspect: suspectOn(cell3)}, do: startAs(cell2),
			after:  []string{"ORDINARY RUNNING i2"},
			events: []string{"changed ORDINARY UNCLAIMED ORDINARY RUNNING i2", "removed EVACUATING RUNNING i1", "removed SUSPECT RUNNING i3"},
		},
		"a left-over suspect goes with the next report": {
			before: Instance{Ordinary: runningOn(cell2), Suspect: suspectOn(cell1)}, do: startAs(cell2),
			after: []string{"ORDINARY RUNNING i2"}, events: []string{"removed SUSPECT RUNNING i1"},
		},
		"a cell that is no longer emptied takes its instance back": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, do: startAs(cell1),
			after:  []string{"ORDINARY RUNNING i1"},
			events: []string{"changed EVACUATING RUNNING i1 ORDINARY RUNNING i1", "removed ORDINARY UNCLAIMED"},
		},
		"what is known of one that serves ends an evacuating one that is left over": {
			before: Instance{Ordinary: runningOn(cell2), Evacuating: evacuatingOn(cell1)}, do: startAs(cell2),
			after: []string{"ORDINARY RUNNING i2"}, events: []string{"removed EVACUATING RUNNING i1"},
		},
		"an order to stop outlives a report": {
			before: ordinary(stopRequested(claimedBy(cell1))), do: startAs(cell1),
			after: []string{"ORDINARY RUNNING i1 to stop"}, events: []string{"changed ORDINARY CLAIMED i1 ORDINARY RUNNING i1"},
		},
	})
}

func TestStartStoresTheReport(t *testing.T) {
	t.Parallel()
	before := unclaimedRow()
	before.PlacementError = "insufficient resources: disk"
	out, err := Start(ordinary(before), report(cell1), at)
	require.NoError(t, err)
	want := &Actual{
		Key: key, InstanceKey: cell1, Domain: "apps", Zone: "z1", DefinitionID: "def",
		NetInfo:        &NetInfo{Address: "10.0.0.1", Ports: []PortMapping{{ContainerPort: 8080, HostPort: 61001}}},
		InternalRoutes: []string{"a.internal"}, MetricTags: []TagValue{{"a", "1"}, {"b", "2"}},
		Tag: ModificationTag{Epoch: "epoch-ORDINARY", Index: 8}, Since: now.UnixNano(),
		State: Running, Routable: true,
	}
	diff(t, "started record", want, out.After.Ordinary)
}

func TestStartOfAnIndexWithoutRecordBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	out, err := Start(Instance{}, report(cell1), at)
	require.NoError(t, err)
	diff(t, "tag", ModificationTag{Epoch: "new-epoch"}, out.After.Ordinary.Tag)
}

// Every part of a report is something new by itself, and none of it is a change of state.
func TestStartWithAnyChangedFieldMovesTheTagAndNotSince(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*Report){
		"address": func(r *Report) { r.NetInfo.Address = "10.0.0.2" },
		"ports":   func(r *Report) { r.NetInfo.Ports = []PortMapping{{ContainerPort: 8080, HostPort: 61002}} },
		"a second port": func(r *Report) {
			r.NetInfo.Ports = append(slices.Clone(r.NetInfo.Ports), PortMapping{ContainerPort: 1})
		},
		"container address":    func(r *Report) { r.NetInfo.InstanceAddress = "172.0.0.1" },
		"ipv6 address":         func(r *Report) { r.NetInfo.InstanceIPv6Address = "fd::1" },
		"preferred address":    func(r *Report) { r.NetInfo.Preferred = PreferHost },
		"internal routes":      func(r *Report) { r.InternalRoutes = []string{"b.internal"} },
		"no internal routes":   func(r *Report) { r.InternalRoutes = nil },
		"metric tag":           func(r *Report) { r.MetricTags = map[string]string{"a": "1", "b": "3"} },
		"other metric tag":     func(r *Report) { r.MetricTags = map[string]string{"a": "1", "c": "2"} },
		"one more metric tag":  func(r *Report) { r.MetricTags = map[string]string{"a": "1", "b": "2", "c": "3"} },
		"no metric tags":       func(r *Report) { r.MetricTags = nil },
		"readiness":            func(r *Report) { r.Routable = false },
		"zone":                 func(r *Report) { r.Zone = "z2" },
		"definition":           func(r *Report) { r.DefinitionID = "def-2" },
		"a placement error is": func(*Report) {},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := runningOn(cell1)
			if strings.HasPrefix(name, "a placement error") {
				before.PlacementError = "left over"
			}
			r := report(cell1)
			change(r)
			if ordinary(before).Heartbeat(r) {
				t.Fatal("counts as known")
			}
			out, err := Start(ordinary(before), r, at)
			require.NoError(t, err)
			after := out.After.Ordinary
			if after.Tag.Index != before.Tag.Index+1 || after.Since != before.Since || !after.reports(r) {
				t.Errorf("record after is %+v", after)
			}
			diff(t, "events", []string{"changed ORDINARY RUNNING i1 ORDINARY RUNNING i1"}, told(out.Events))
		})
	}
}

// A cell that adopted a container from before it knew of definitions reports none.
func TestStartWithoutDefinitionKeepsTheRecordedOne(t *testing.T) {
	t.Parallel()
	r := report(cell1)
	r.DefinitionID, r.Zone = "", "z2"
	out, err := Start(ordinary(runningOn(cell1)), r, at)
	require.NoError(t, err)
	if got := out.After.Ordinary; got.DefinitionID != "def" || got.Zone != "z2" {
		t.Errorf("record after is %+v", got)
	}
}

func TestTagsEqualTellsAnEmptyTagFromNone(t *testing.T) {
	t.Parallel()
	if tagsEqual([]TagValue{{Name: "a"}}, map[string]string{"b": ""}) {
		t.Error("an empty tag counts as another one")
	}
}

func TestRecordsAreOrderedByGuidIndexAndPresence(t *testing.T) {
	t.Parallel()
	named := func(guid string, index int32, presence Presence) *Actual {
		return &Actual{Key: Key{guid, index}, Presence: presence}
	}
	want := []*Actual{named("a", 2, Suspect), named("b", 1, Ordinary), named("b", 1, Suspect), named("b", 2, Ordinary), named("c", 0, Ordinary)}
	got := []*Actual{want[3], want[4], want[0], want[2], want[1]}
	slices.SortFunc(got, (*Actual).Compare)
	diff(t, "order", want, got)
}

func TestHeartbeatDoesNotAllocate(t *testing.T) {
	i, r := ordinary(runningOn(cell1)), report(cell1)
	if !i.Heartbeat(r) {
		t.Fatal("the same report again does not count as known")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = Start(i, r, at) }); n > 0 {
		t.Errorf("a heartbeat allocates %v times", n)
	}
	r.DefinitionID = ""
	if !i.Heartbeat(r) {
		t.Error("a cell that does not know the definition has something new to say")
	}
}

func TestCrash(t *testing.T) {
	t.Parallel()
	third := runningOn(cell1)
	third.CrashCount = 2
	runTransitions(t, map[string]transitionCase{
		"an index without record is refused": {do: crash(cell1), reason: "ResourceNotFound"},
		"an unclaimed index is refused":      {before: ordinary(unclaimedRow()), do: crash(cell1), reason: "ActualLRPCannotBeCrashed"},
		"a crashed index is refused":         {before: ordinary(crashedRow()), do: crash(cell1), reason: "ActualLRPCannotBeCrashed"},
		"another's claim is refused":         {before: ordinary(claimedBy(cell1)), do: crash(cell2), reason: "ActualLRPCannotBeCrashed"},
		"another's instance is refused":      {before: ordinary(runningOn(cell1)), do: crash(cell2), reason: "ActualLRPCannotBeCrashed"},
		"a first crash restarts at once": {
			before: ordinary(runningOn(cell1)), do: crash(cell1), after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"crashed ORDINARY RUNNING i1", "created ORDINARY UNCLAIMED", "removed ORDINARY RUNNING i1"},
		},
		"a claimed instance may crash": {
			before: ordinary(claimedBy(cell1)), do: crash(cell1), after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"crashed ORDINARY CLAIMED i1", "created ORDINARY UNCLAIMED", "removed ORDINARY CLAIMED i1"},
		},
		"a third crash waits": {
			before: ordinary(third), do: crash(cell1), after: []string{"ORDINARY CRASHED"},
			events: []string{"crashed ORDINARY RUNNING i1", "changed ORDINARY RUNNING i1 ORDINARY CRASHED"},
		},
		"a suspect's crash removes it and is not counted": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, do: crash(cell1),
			after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed SUSPECT RUNNING i1"},
		},
		"the crash of its substitute is counted, and the suspect stays": {
			before: Instance{Ordinary: runningOn(cell2), Suspect: suspectOn(cell1)}, do: crash(cell2),
			after:  []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"},
			events: []string{"crashed ORDINARY RUNNING i2", "created ORDINARY UNCLAIMED", "removed ORDINARY RUNNING i2"},
		},
		"a crash while stopping is the stop": {
			before: ordinary(stopRequested(runningOn(cell1))), do: crash(cell1), events: []string{"removed ORDINARY RUNNING i1"},
		},
	})
}

func TestCrashCounts(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		state State
		ran   time.Duration
		count int32
		want  int32
	}{
		"one more": {Running, time.Minute, 4, 5},
		"five minutes exactly are not yet healthy":    {Running, 5 * time.Minute, 4, 5},
		"after more than five minutes it starts anew": {Running, 5*time.Minute + 1, 4, 1},
		"only running counts as healthy":              {Claimed, time.Hour, 4, 5},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := row(Ordinary, test.state, cell1)
			before.CrashCount = test.count
			before.Since = now.Add(-test.ran).UnixNano()
			reason := strings.Repeat("ü", 600)
			out, err := Crash(ordinary(before), cell1, reason, defaults, now)
			require.NoError(t, err)
			after := out.After.Ordinary
			if after.CrashCount != test.want || out.Events[0].Crash.Count != test.want {
				t.Errorf("counted %d, told %d, want %d", after.CrashCount, out.Events[0].Crash.Count, test.want)
			}
			if len(after.CrashReason) > 1024 || !strings.HasSuffix(after.CrashReason, "ü(truncated)") {
				t.Errorf("the reason is %d bytes and ends in %q", len(after.CrashReason), after.CrashReason[len(after.CrashReason)-20:])
			}
			if out.Events[0].Crash.Since != now.UnixNano() {
				t.Errorf("the crash is told to be at %d", out.Events[0].Crash.Since)
			}
		})
	}
}

func TestFail(t *testing.T) {
	t.Parallel()
	fail := func(i Instance) (Outcome, error) { return Fail(i, "insufficient resources: memory", now) }
	runTransitions(t, map[string]transitionCase{
		"an index without record is done with": {do: fail},
		"an unclaimed index goes on waiting": {
			before: ordinary(unclaimedRow()), do: fail, after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"changed ORDINARY UNCLAIMED ORDINARY UNCLAIMED"},
		},
		"a claimed instance is refused": {before: ordinary(claimedBy(cell1)), do: fail, reason: "ActualLRPCannotBeFailed"},
		"a running instance is refused": {before: ordinary(runningOn(cell1)), do: fail, reason: "ActualLRPCannotBeFailed"},
		"a crashed index is refused":    {before: ordinary(crashedRow()), do: fail, reason: "ActualLRPCannotBeFailed"},
	})
}

func TestFailStoresTheReason(t *testing.T) {
	t.Parallel()
	out, err := Fail(ordinary(unclaimedRow()), "found no compatible cell", now)
	require.NoError(t, err)
	if a := out.After.Ordinary; a.PlacementError != "found no compatible cell" || a.SinceTime() != now || a.Tag.Index != 8 {
		t.Errorf("record after is %+v", a)
	}
}

func TestRemoveAndRetire(t *testing.T) {
	t.Parallel()
	remove := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return Remove(i, by) }
	}
	runTransitions(t, map[string]transitionCase{
		"removing nothing is refused":                  {do: remove(cell1), reason: "ResourceNotFound"},
		"removing one's own":                           {before: ordinary(runningOn(cell1)), do: remove(cell1), events: []string{"removed ORDINARY RUNNING i1"}},
		"removing another's is refused":                {before: ordinary(runningOn(cell1)), do: remove(cell2), reason: "ResourceNotFound"},
		"removing whatever is there":                   {before: ordinary(claimedBy(cell1)), do: remove(InstanceKey{}), events: []string{"removed ORDINARY CLAIMED i1"}},
		"removing a suspect whose container is gone":   {before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: remove(cell1), after: []string{"ORDINARY UNCLAIMED"}, events: []string{"removed SUSPECT RUNNING i1"}},
		"removing leaves an evacuating record alone":   {before: Instance{Evacuating: evacuatingOn(cell1)}, do: remove(cell1), reason: "ResourceNotFound"},
		"retiring nothing is refused":                  {do: Retire, reason: "ResourceNotFound"},
		"retiring a suspect only is refused":           {before: Instance{Suspect: suspectOn(cell1)}, do: Retire, reason: "ResourceNotFound"},
		"retiring what waits deletes it":               {before: ordinary(unclaimedRow()), do: Retire, events: []string{"removed ORDINARY UNCLAIMED"}},
		"retiring what crashed deletes it":             {before: ordinary(crashedRow()), do: Retire, events: []string{"removed ORDINARY CRASHED"}},
		"retiring what a cell holds orders it to stop": {before: ordinary(runningOn(cell1)), do: Retire, after: []string{"ORDINARY RUNNING i1 to stop"}},
		"retiring twice changes nothing":               {before: ordinary(stopRequested(claimedBy(cell1))), do: Retire, after: []string{"ORDINARY CLAIMED i1 to stop"}},
	})
}

func TestRetireMovesNeitherTagNorSince(t *testing.T) {
	t.Parallel()
	before := runningOn(cell1)
	out, err := Retire(ordinary(before))
	require.NoError(t, err)
	want := *before
	want.StopRequested = true
	diff(t, "record after", &want, out.After.Ordinary)
	if before.StopRequested {
		t.Error("the stored record was changed")
	}
}

func TestUnclaim(t *testing.T) {
	t.Parallel()
	unclaim := func(i Instance) (Outcome, error) { return Unclaim(i, now) }
	crashed := crashedRow()
	crashed.CrashCount = 5
	runTransitions(t, map[string]transitionCase{
		"nothing is refused":            {do: unclaim, reason: "ResourceNotFound"},
		"what waits already is refused": {before: ordinary(unclaimedRow()), do: unclaim, reason: "ActualLRPCannotBeUnclaimed"},
		"what crashed waits again":      {before: ordinary(crashed), do: unclaim, after: []string{"ORDINARY UNCLAIMED"}, events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY CRASHED"}},
		"what runs waits again":         {before: ordinary(runningOn(cell1)), do: unclaim, after: []string{"ORDINARY UNCLAIMED"}, events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY RUNNING i1"}},
	})
	out, err := Unclaim(ordinary(crashed), now)
	require.NoError(t, err)
	if out.After.Ordinary.CrashCount != 5 {
		t.Errorf("the crash count became %d", out.After.Ordinary.CrashCount)
	}
}

func TestRefusalsKeepTheirIdentity(t *testing.T) {
	t.Parallel()
	_, err := Claim(ordinary(crashedRow()), cell1, now)
	if !errors.Is(err, ErrCannotBeClaimed) {
		t.Errorf("%v is not ErrCannotBeClaimed", err)
	}
}

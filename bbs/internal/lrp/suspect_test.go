package lrp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSuspects(t *testing.T) {
	t.Parallel()
	lose := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return Lose(i, by, at), nil }
	}
	back := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return Return(i, by), nil }
	}
	claimedSuspect := row(Suspect, Claimed, cell1)
	runTransitions(t, map[string]transitionCase{
		"a lost running instance becomes suspect and gets a substitute": {
			before: ordinary(runningOn(cell1)), do: lose(cell1),
			after:  []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"},
			events: []string{"changed ORDINARY RUNNING i1 SUSPECT RUNNING i1", "created ORDINARY UNCLAIMED"},
		},
		"a lost claim too": {
			before: ordinary(claimedBy(cell1)), do: lose(cell1),
			after:  []string{"ORDINARY UNCLAIMED", "SUSPECT CLAIMED i1"},
			events: []string{"changed ORDINARY CLAIMED i1 SUSPECT CLAIMED i1", "created ORDINARY UNCLAIMED"},
		},
		"a lost substitute waits anew": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, do: lose(cell2),
			after:  []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"},
			events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY CLAIMED i2"},
		},
		"a suspect is not lost twice":        {before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: lose(cell1), after: []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"}},
		"an unknown instance is not lost":    {before: ordinary(runningOn(cell1)), do: lose(cell2), after: []string{"ORDINARY RUNNING i1"}},
		"what waits is held by no lost cell": {before: ordinary(unclaimedRow()), do: lose(InstanceKey{}), after: []string{"ORDINARY UNCLAIMED"}},
		"a lost instance that was to stop is gone": {
			before: ordinary(stopRequested(runningOn(cell1))), do: lose(cell1), events: []string{"removed ORDINARY RUNNING i1"},
		},
		"a lost suspect that was to stop is gone": {
			before: Instance{Suspect: stopRequested(suspectOn(cell1))}, do: lose(cell1), events: []string{"removed SUSPECT RUNNING i1"},
		},
		"a lost evacuating instance is gone": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, do: lose(cell1),
			after: []string{"ORDINARY UNCLAIMED"}, events: []string{"removed EVACUATING RUNNING i1"},
		},
		"a suspect that is back replaces a waiting substitute": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: back(cell1),
			after:  []string{"ORDINARY RUNNING i1"},
			events: []string{"changed SUSPECT RUNNING i1 ORDINARY RUNNING i1", "removed ORDINARY UNCLAIMED"},
		},
		"a suspect that is back replaces a claimed substitute": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, do: back(cell1),
			after:  []string{"ORDINARY RUNNING i1"},
			events: []string{"changed SUSPECT RUNNING i1 ORDINARY RUNNING i1", "removed ORDINARY CLAIMED i2"},
		},
		"a claimed suspect that is back too": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: claimedSuspect}, do: back(cell1),
			after:  []string{"ORDINARY CLAIMED i1"},
			events: []string{"changed SUSPECT CLAIMED i1 ORDINARY CLAIMED i1", "removed ORDINARY UNCLAIMED"},
		},
		"a suspect that is back without substitute": {
			before: Instance{Suspect: suspectOn(cell1)}, do: back(cell1),
			after: []string{"ORDINARY RUNNING i1"}, events: []string{"changed SUSPECT RUNNING i1 ORDINARY RUNNING i1"},
		},
		"a running substitute stays": {
			before: Instance{Ordinary: runningOn(cell2), Suspect: suspectOn(cell1)}, do: back(cell1),
			after: []string{"ORDINARY RUNNING i2"}, events: []string{"removed SUSPECT RUNNING i1"},
		},
		"another cell's return changes nothing":     {before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, do: back(cell2), after: []string{"ORDINARY UNCLAIMED", "SUSPECT RUNNING i1"}},
		"a suspect that is to stop is not promoted": {before: Instance{Suspect: stopRequested(suspectOn(cell1))}, do: back(cell1), after: []string{"SUSPECT RUNNING i1 to stop"}},
	})
}

func TestLoseGivesTheSubstituteALifeOfItsOwn(t *testing.T) {
	t.Parallel()
	before := runningOn(cell1)
	before.CrashCount = 4
	out := Lose(ordinary(before), cell1, at)
	suspect, substitute := out.After.Suspect, out.After.Ordinary
	diff(t, "tag of the suspect", before.Tag.next(), suspect.Tag)
	diff(t, "tag of the substitute", ModificationTag{Epoch: "new-epoch"}, substitute.Tag)
	if suspect.Since != before.Since || !suspect.Routable || suspect.NetInfo == nil {
		t.Errorf("the suspect is not what it was: %+v", suspect)
	}
	if substitute.CrashCount != 0 || substitute.DefinitionID != "def" || substitute.Domain != "apps" {
		t.Errorf("the substitute is %+v", substitute)
	}
}

func TestStopAll(t *testing.T) {
	t.Parallel()
	all := func(i Instance) (Outcome, error) { return StopAll(i), nil }
	runTransitions(t, map[string]transitionCase{
		"ordinary and suspect stop, evacuating is left": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1), Evacuating: evacuatingOn(cell2)}, do: all,
			after: []string{"EVACUATING RUNNING i2", "SUSPECT RUNNING i1 to stop"}, events: []string{"removed ORDINARY UNCLAIMED"},
		},
		"a second time changes nothing": {
			before: Instance{Ordinary: stopRequested(runningOn(cell1)), Suspect: stopRequested(suspectOn(cell2))}, do: all,
			after: []string{"ORDINARY RUNNING i1 to stop", "SUSPECT RUNNING i2 to stop"},
		},
	})
}

func TestDrop(t *testing.T) {
	t.Parallel()
	both := Instance{Suspect: suspectOn(cell1), Evacuating: evacuatingOn(cell2)}
	diff(t, "without suspect", []string{"EVACUATING RUNNING i2"}, shown(DropSuspect(both).After))
	diff(t, "without evacuating", []string{"SUSPECT RUNNING i1"}, shown(DropEvacuating(both).After))
	require.Equal(t, same(Instance{}), DropSuspect(Instance{}))
	require.Equal(t, same(Instance{}), DropEvacuating(Instance{}))
}

package lrp

import (
	"testing"
)

func TestEvacuateClaimedCrashedStopped(t *testing.T) {
	t.Parallel()
	claimed := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return EvacuateClaimed(i, by, now) }
	}
	crashed := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return EvacuateCrashed(i, by, "oom", defaults, now) }
	}
	stopped := func(by InstanceKey) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return EvacuateStopped(i, by) }
	}
	withSuspect := Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}
	withEvacuating := Instance{Ordinary: claimedBy(cell2), Evacuating: evacuatingOn(cell1)}
	runTransitions(t, map[string]transitionCase{
		"claimed: an unknown instance": {before: ordinary(claimedBy(cell2)), do: claimed(cell1), reason: "ResourceNotFound"},
		"claimed: no record at all":    {do: claimed(cell1), reason: "ResourceNotFound"},
		"claimed: an ordinary one waits for another cell": {
			before: ordinary(claimedBy(cell1)), do: claimed(cell1), after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY CLAIMED i1"},
		},
		"claimed: one that was to stop is gone": {before: ordinary(stopRequested(claimedBy(cell1))), do: claimed(cell1), events: []string{"removed ORDINARY CLAIMED i1"}},
		"claimed: a suspect is gone":            {before: withSuspect, do: claimed(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed SUSPECT RUNNING i1"}},
		"claimed: an evacuating one is gone":    {before: withEvacuating, do: claimed(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed EVACUATING RUNNING i1"}},
		"crashed: an unknown instance":          {before: ordinary(claimedBy(cell2)), do: crashed(cell1), reason: "ResourceNotFound"},
		"crashed: an ordinary one is counted": {
			before: ordinary(runningOn(cell1)), do: crashed(cell1), after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"crashed ORDINARY RUNNING i1", "created ORDINARY UNCLAIMED", "removed ORDINARY RUNNING i1"},
		},
		"crashed: a suspect is gone":         {before: withSuspect, do: crashed(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed SUSPECT RUNNING i1"}},
		"crashed: an evacuating one is gone": {before: withEvacuating, do: crashed(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed EVACUATING RUNNING i1"}},
		"stopped: an unknown instance":       {before: ordinary(claimedBy(cell2)), do: stopped(cell1), reason: "ResourceNotFound"},
		"stopped: an ordinary one is gone":   {before: ordinary(runningOn(cell1)), do: stopped(cell1), events: []string{"removed ORDINARY RUNNING i1"}},
		"stopped: a suspect is gone":         {before: withSuspect, do: stopped(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed SUSPECT RUNNING i1"}},
		"stopped: an evacuating one is gone": {before: withEvacuating, do: stopped(cell1), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed EVACUATING RUNNING i1"}},
	})
}

func TestRemoveEvacuating(t *testing.T) {
	t.Parallel()
	remove := func(by InstanceKey, domain string) func(Instance) (Outcome, error) {
		return func(i Instance) (Outcome, error) { return RemoveEvacuating(i, by, domain) }
	}
	evacuating := Instance{Ordinary: claimedBy(cell2), Evacuating: evacuatingOn(cell1)}
	runTransitions(t, map[string]transitionCase{
		"an evacuating one is gone":           {before: evacuating, do: remove(cell1, "apps"), after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed EVACUATING RUNNING i1"}},
		"an ordinary one is not meant":        {before: evacuating, do: remove(cell2, "apps"), reason: "ResourceNotFound"},
		"a suspect one is not meant":          {before: Instance{Suspect: suspectOn(cell1)}, do: remove(cell1, "apps"), reason: "ResourceNotFound"},
		"nothing there":                       {do: remove(cell1, "apps"), reason: "ResourceNotFound"},
		"an evacuating one of another domain": {before: evacuating, do: remove(cell1, "other"), reason: "ActualLRPCannotBeRemoved"},
	})
}

func TestEvacuateRunning(t *testing.T) {
	t.Parallel()
	rolling := &Desired{ProcessGUID: "app", Domain: "apps", Instances: 3}
	recreate := &Desired{ProcessGUID: "app", Domain: "apps", Instances: 3, UpdateStrategy: Recreate}
	claimedSuspect := row(Suspect, Claimed, cell1)
	tests := map[string]struct {
		before  Instance
		desired *Desired
		others  int32
		after   []string
		events  []string
		keep    bool
	}{
		"rule 2: no record at all": {desired: rolling},
		"rule 3: the LRP is gone":  {before: Instance{Evacuating: evacuatingOn(cell1)}, desired: rolling, events: []string{"removed EVACUATING RUNNING i1"}},
		"rule 3: the LRP is gone, another's evacuating record stays": {
			before: Instance{Evacuating: evacuatingOn(cell2)}, desired: rolling, after: []string{"EVACUATING RUNNING i2"},
		},
		"rule 3: the replacement runs": {
			before: Instance{Ordinary: runningOn(cell2), Evacuating: evacuatingOn(cell1)}, desired: rolling,
			after: []string{"ORDINARY RUNNING i2"}, events: []string{"removed EVACUATING RUNNING i1"},
		},
		"rule 3: the replacement runs but is not routable, so this one serves on": {
			before: Instance{Ordinary: unroutable(runningOn(cell2)), Evacuating: evacuatingOn(cell1)}, desired: rolling,
			after: []string{"ORDINARY RUNNING i2", "EVACUATING RUNNING i1"}, keep: true,
		},
		"rule 3: the replacement is not routable, but this one does not serve either": {
			before: ordinary(unroutable(runningOn(cell2))), desired: rolling, after: []string{"ORDINARY RUNNING i2"},
		},
		"rule 3: the replacement has crashed": {
			before: Instance{Ordinary: crashedRow(), Evacuating: evacuatingOn(cell1)}, desired: rolling,
			after: []string{"ORDINARY CRASHED"}, events: []string{"removed EVACUATING RUNNING i1"},
		},
		"rule 4: nothing desires it, its record goes with it": {
			before: ordinary(runningOn(cell1)), events: []string{"removed ORDINARY RUNNING i1"},
		},
		"rule 4: nothing desires it, another's record stays": {
			before: ordinary(claimedBy(cell2)), after: []string{"ORDINARY CLAIMED i2"},
		},
		"an instance that was to stop is gone": {
			before: ordinary(stopRequested(runningOn(cell1))), desired: rolling, events: []string{"removed ORDINARY RUNNING i1"},
		},
		"rule 6: recreate, no record of it": {before: ordinary(unclaimedRow()), desired: recreate, after: []string{"ORDINARY UNCLAIMED"}},
		"rule 7: recreate, evacuating already": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, desired: recreate,
			after: []string{"ORDINARY UNCLAIMED"}, events: []string{"removed EVACUATING RUNNING i1"},
		},
		"rule 8: recreate, suspect": {
			before: Instance{Ordinary: unclaimedRow(), Suspect: suspectOn(cell1)}, desired: recreate,
			after: []string{"ORDINARY UNCLAIMED"}, events: []string{"removed SUSPECT RUNNING i1"},
		},
		"rule 9: recreate waits for the others": {before: ordinary(runningOn(cell1)), desired: recreate, others: 1, after: []string{"ORDINARY RUNNING i1"}, keep: true},
		"rule 9: recreate stops one when all run": {
			before: ordinary(runningOn(cell1)), desired: recreate, others: 2, after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY RUNNING i1"},
		},
		"rule 11: rolling, another cell evacuated this index": {
			before: Instance{Ordinary: claimedBy(cell3), Evacuating: evacuatingOn(cell2)}, desired: rolling,
			after: []string{"ORDINARY CLAIMED i3", "EVACUATING RUNNING i2"},
		},
		"rule 12: rolling, evacuating already and nothing new": {
			before: Instance{Ordinary: unclaimedRow(), Evacuating: evacuatingOn(cell1)}, desired: rolling,
			after: []string{"ORDINARY UNCLAIMED", "EVACUATING RUNNING i1"}, keep: true,
		},
		"rule 12: rolling, the index has forgotten it": {
			before: ordinary(unclaimedRow()), desired: rolling,
			after: []string{"ORDINARY UNCLAIMED", "EVACUATING RUNNING i1"}, events: []string{"created EVACUATING RUNNING i1"}, keep: true,
		},
		"rule 13: rolling, an ordinary one": {
			before: ordinary(runningOn(cell1)), desired: rolling,
			after:  []string{"ORDINARY UNCLAIMED", "EVACUATING RUNNING i1"},
			events: []string{"changed ORDINARY RUNNING i1 EVACUATING RUNNING i1", "created ORDINARY UNCLAIMED"}, keep: true,
		},
		"rule 13: rolling, over an older cell's": {
			before: Instance{Ordinary: runningOn(cell1), Evacuating: evacuatingOn(cell2)}, desired: rolling,
			after:  []string{"ORDINARY UNCLAIMED", "EVACUATING RUNNING i1"},
			events: []string{"changed ORDINARY RUNNING i1 EVACUATING RUNNING i1", "created ORDINARY UNCLAIMED", "removed EVACUATING RUNNING i2"}, keep: true,
		},
		"rule 13: rolling, one that is only claimed": {
			before: ordinary(claimedBy(cell1)), desired: rolling, after: []string{"ORDINARY UNCLAIMED"},
			events: []string{"created ORDINARY UNCLAIMED", "removed ORDINARY CLAIMED i1"},
		},
		"rule 14: rolling, a suspect": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: suspectOn(cell1)}, desired: rolling,
			after:  []string{"ORDINARY CLAIMED i2", "EVACUATING RUNNING i1"},
			events: []string{"changed SUSPECT RUNNING i1 EVACUATING RUNNING i1"}, keep: true,
		},
		"rule 14: rolling, a suspect that is only claimed": {
			before: Instance{Ordinary: claimedBy(cell2), Suspect: claimedSuspect}, desired: rolling,
			after: []string{"ORDINARY CLAIMED i2"}, events: []string{"removed SUSPECT CLAIMED i1"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, keep := EvacuateRunning(test.before, report(cell1), test.desired, test.others, at)
			if keep != test.keep {
				t.Errorf("keep = %v", keep)
			}
			diff(t, "records after", test.after, shown(out.After))
			diff(t, "events", test.events, told(out.Events))
			checkOutcome(t, test.before, out)

			if !keep {
				return
			}
			again, keep := EvacuateRunning(out.After, report(cell1), test.desired, test.others, at)
			if !keep || again.After != out.After || len(again.Events) > 0 {
				t.Errorf("repeated: keep %v, records %v, events %v", keep, shown(again.After), told(again.Events))
			}
		})
	}
}

// The record of another cell that is overwritten goes on as one more version of it.
func TestEvacuateRunningOverAnOlderRecordGoesOnWithItsTag(t *testing.T) {
	t.Parallel()
	rolling := &Desired{ProcessGUID: "app", Domain: "apps", Instances: 1}
	old := evacuatingOn(cell2)
	out, _ := EvacuateRunning(Instance{Ordinary: runningOn(cell1), Evacuating: old}, report(cell1), rolling, 0, at)
	diff(t, "tag", old.Tag.next(), out.After.Evacuating.Tag)
}

func TestEvacuateRunningStoresTheReport(t *testing.T) {
	t.Parallel()
	rolling := &Desired{ProcessGUID: "app", Domain: "apps", Instances: 1}
	r := report(cell1)
	r.Zone, r.Routable = "z9", false
	before := runningOn(cell1)
	out, _ := EvacuateRunning(ordinary(before), r, rolling, 0, at)
	evacuating := out.After.Evacuating
	diff(t, "tag", ModificationTag{Epoch: "new-epoch"}, evacuating.Tag)
	if !evacuating.reports(r) || evacuating.Since != before.Since {
		t.Errorf("evacuating record is %+v", evacuating)
	}

	r.Routable = true
	refreshed, keep := EvacuateRunning(out.After, r, rolling, 0, at)
	if !keep || !refreshed.After.Evacuating.Routable || refreshed.After.Evacuating.Tag.Index != 1 {
		t.Errorf("refreshed record is %+v", refreshed.After.Evacuating)
	}
}

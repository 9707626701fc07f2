package lrp

import "time"

// The five operations below are called by a cell that is being emptied, about one of its instances.
// keep says whether the cell is to keep the container for now.

// EvacuateClaimed gives back an instance that does not run yet.
//
// It returns ErrNotFound if no record has the instance key.
func EvacuateClaimed(i Instance, by InstanceKey, now time.Time) (Outcome, error) {
	mine := i.held(by)
	switch {
	case mine == nil:
		return same(i), ErrNotFound
	case mine == i.Ordinary && !mine.StopRequested:
		return unclaimed(i, now), nil
	default:
		return without(i, mine), nil
	}
}

// EvacuateCrashed records that an instance ended by itself. Only an ordinary one is counted as
// crashed, and the policy decides when it starts again.
//
// It returns ErrNotFound if no record has the instance key.
func EvacuateCrashed(i Instance, by InstanceKey, reason string, policy Policy, now time.Time) (Outcome, error) {
	mine := i.held(by)
	switch mine {
	case nil:
		return same(i), ErrNotFound
	case i.Ordinary:
		return Crash(i, by, reason, policy, now)
	default:
		return without(i, mine), nil
	}
}

// EvacuateStopped records that an instance that was asked to stop has.
//
// It returns ErrNotFound if no record has the instance key.
func EvacuateStopped(i Instance, by InstanceKey) (Outcome, error) {
	mine := i.held(by)
	if mine == nil {
		return same(i), ErrNotFound
	}
	return without(i, mine), nil
}

// RemoveEvacuating deletes an evacuating record whose container is gone.
//
// It returns ErrNotFound if the index has no evacuating record with the instance key, and
// ErrCannotBeRemoved if that is of another domain.
func RemoveEvacuating(i Instance, by InstanceKey, domain string) (Outcome, error) {
	switch {
	case i.Evacuating == nil || i.Evacuating.InstanceKey != by:
		return same(i), ErrNotFound
	case i.Evacuating.Domain != domain:
		return same(i), ErrCannotBeRemoved.With("%v is of domain %q", i.Evacuating.Key, i.Evacuating.Domain)
	}
	return without(i, i.Evacuating), nil
}

// EvacuateRunning hands a running instance over: it asks for a replacement and keeps the instance
// until that runs and is routable, or, if the LRP's strategy is Recreate, has it stopped first. desired is nil if
// nothing wants the LRP any more; othersRunning counts the ordinary Running records of the LRP at its
// other indices.
//
// The cell repeats it until keep is false. It never fails: where there is nothing to hand over the
// container just is not to be kept.
func EvacuateRunning(i Instance, r *Report, desired *Desired, othersRunning int32, at Stamp) (out Outcome, keep bool) {
	mine := i.held(r.InstanceKey)
	o := i.Ordinary
	switch {
	case i.IsZero():
		return same(i), false
	case o == nil, o != mine && i.replaced(mine), desired == nil:
		// Nobody wants it, or its replacement is there.
		return dropped(i, mine), false
	case mine != nil && mine.StopRequested:
		return dropped(i, mine), false
	case desired.UpdateStrategy == Recreate:
		return evacuateRecreating(i, mine, desired.Instances, othersRunning, at.Now)
	default:
		return evacuateRolling(i, mine, r, at)
	}
}

// replaced reports whether the ordinary record, which is of another instance, makes mine superfluous.
// One that runs but is not routable yet does so only if mine does not serve in its place.
func (i Instance) replaced(mine *Actual) bool {
	o := i.Ordinary
	serves := mine != nil && mine == i.Evacuating
	return o.State == Crashed || o.State == Running && (o.Routable || !serves)
}

// dropped deletes the record of the instance, if it has one, since its container goes.
func dropped(i Instance, mine *Actual) Outcome {
	if mine == nil {
		return same(i)
	}
	return without(i, mine)
}

// evacuateRecreating stops the instance before its replacement starts, but only while the LRP is
// otherwise whole, so that one instance of it at a time is down.
func evacuateRecreating(i Instance, mine *Actual, instances, othersRunning int32, now time.Time) (Outcome, bool) {
	switch {
	case mine == nil || mine != i.Ordinary:
		return dropped(i, mine), false
	case othersRunning+1 < instances:
		return same(i), true
	default:
		return unclaimed(i, now), false
	}
}

// evacuateRolling keeps the instance as the evacuating one while a replacement is looked for.
func evacuateRolling(i Instance, mine *Actual, r *Report, at Stamp) (Outcome, bool) {
	switch {
	case mine == nil && i.Evacuating != nil:
		// Another cell evacuated this index before; one such instance is enough.
		return same(i), false
	case mine == nil:
		return handOver(i, nil, r, at), true
	case mine == i.Evacuating:
		return refreshEvacuating(i, r), true
	case mine.State != Running:
		// It only starts: nothing is lost by starting it elsewhere instead.
		if mine == i.Ordinary {
			return unclaimed(i, at.Now), false
		}
		return without(i, mine), false
	default:
		return handOver(i, mine, r, at), true
	}
}

// refreshEvacuating stores what is new about an instance that is evacuating already.
func refreshEvacuating(i Instance, r *Report) Outcome {
	before := i.Evacuating
	if before.reports(r) {
		return same(i)
	}
	after := i
	after.Evacuating = before.reported(r)
	after.Evacuating.Tag = before.Tag.next()
	return Outcome{After: after, Events: []Event{{Kind: Changed, Before: before, After: after.Evacuating}}}
}

// handOver makes the instance the evacuating one of its index. mine is its ordinary or suspect record,
// or nil if the index has forgotten it. An ordinary record waits for a cell afterwards.
func handOver(i Instance, mine *Actual, r *Report, at Stamp) Outcome {
	from := mine
	if from == nil {
		from = &Actual{Key: r.Key, Domain: r.Domain, State: Running, Since: at.Now.UnixNano()}
	}
	next := from.reported(r)
	next.Presence = Evacuating
	next.Tag = ModificationTag{Epoch: at.Epoch}
	old := i.Evacuating
	if old != nil {
		// Overwriting the record of another cell: one more version of it.
		next.Tag = old.Tag.next()
	}
	out := Outcome{After: i}
	out.After.Evacuating = next
	switch mine {
	case nil:
		out.Events = append(out.Events, Event{Kind: Created, After: next})
	case i.Ordinary:
		out.After.Ordinary = mine.entering(Unclaimed, at.Now)
		out.Events = append(out.Events,
			Event{Kind: Changed, Before: mine, After: next},
			Event{Kind: Created, After: out.After.Ordinary})
	default:
		out.After.Suspect = nil
		out.Events = append(out.Events, Event{Kind: Changed, Before: mine, After: next})
	}
	if old != nil {
		out.Events = append(out.Events, Event{Kind: Removed, Before: old})
	}
	return out
}

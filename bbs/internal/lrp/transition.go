package lrp

import (
	"time"

	"diego.internal/bbs/internal/workload"
)

// Claim records that a cell makes a container for the index. The same claim again, and a claim of a
// suspect or, new against the reference, of an evacuating instance, change nothing: such an instance
// has its record, and a second one would make two of it.
//
// It returns ErrNotFound if the index has no ordinary record, and ErrCannotBeClaimed if another
// instance has it or it is Crashed.
func Claim(i Instance, by InstanceKey, now time.Time) (Outcome, error) {
	if mine := i.held(by); mine != nil && mine != i.Ordinary {
		return same(i), nil
	}
	before := i.Ordinary
	if before == nil {
		return same(i), ErrNotFound
	}
	mine := before.InstanceKey == by
	switch {
	case before.State == Claimed && mine:
		return same(i), nil
	case before.State == Unclaimed, before.State == Running && mine:
	default:
		return same(i), ErrCannotBeClaimed.With("%v is %v", before.Key, before.State)
	}
	after := i
	after.Ordinary = before.entering(Claimed, now)
	after.Ordinary.InstanceKey = by
	after.Ordinary.StopRequested = before.StopRequested
	return Outcome{After: after, Events: []Event{{Kind: Changed, Before: before, After: after.Ordinary}}}, nil
}

// Crash records that an instance ended by itself. The policy decides whether the index waits for a
// cell again at once or is Crashed until its restart is due.
//
// The crash of a suspect instance removes its record and is not counted. So is, new against the
// reference, the crash of an instance that was ordered to stop: it has stopped.
//
// It returns ErrNotFound if the index has no ordinary record, and ErrCannotBeCrashed if the instance
// does not hold it.
func Crash(i Instance, by InstanceKey, reason string, policy Policy, now time.Time) (Outcome, error) {
	if i.Suspect != nil && i.Suspect.InstanceKey == by {
		return without(i, i.Suspect), nil
	}
	before := i.Ordinary
	if before == nil {
		return same(i), ErrNotFound
	}
	if !before.Held() || before.InstanceKey != by {
		return same(i), ErrCannotBeCrashed.With("%v is %v", before.Key, before.State)
	}
	if before.StopRequested {
		return without(i, before), nil
	}
	return crashed(i, workload.Reason(reason), policy, now), nil
}

func crashed(i Instance, reason string, policy Policy, now time.Time) Outcome {
	before := i.Ordinary
	count := before.CrashCount + 1
	if before.State == Running && now.Sub(before.SinceTime()) > healthyAfter {
		count = 1
	}
	state := Crashed
	if policy.RestartsAtOnce(count) {
		state = Unclaimed
	}
	after := i
	after.Ordinary = before.entering(state, now)
	after.Ordinary.CrashCount = count
	after.Ordinary.CrashReason = reason
	events := []Event{{
		Kind:   CrashedEvent,
		Before: before,
		Crash:  &CrashRecord{Count: count, Reason: reason, Since: after.Ordinary.Since},
	}}
	if state == Crashed {
		events = append(events, Event{Kind: Changed, Before: before, After: after.Ordinary})
	} else {
		events = append(events,
			Event{Kind: Created, After: after.Ordinary},
			Event{Kind: Removed, Before: before})
	}
	return Outcome{After: after, Events: events}
}

// Fail records why the index could not be placed; it goes on waiting. An index that has no ordinary
// record is left alone.
//
// It returns ErrCannotBeFailed if the index does not wait for a cell.
func Fail(i Instance, reason string, now time.Time) (Outcome, error) {
	before := i.Ordinary
	if before == nil {
		return same(i), nil
	}
	if before.State != Unclaimed {
		return same(i), ErrCannotBeFailed.With("%v is %v", before.Key, before.State)
	}
	next := *before
	next.PlacementError = workload.Reason(reason)
	next.Since = now.UnixNano()
	next.Tag = before.Tag.next()
	after := i
	after.Ordinary = &next
	return Outcome{After: after, Events: []Event{{Kind: Changed, Before: before, After: &next}}}, nil
}

// Remove deletes the record of an instance whose container is gone: the ordinary one or, new against
// the reference, a suspect one, which otherwise would outlive its container. With the empty instance
// key it deletes the ordinary record whoever holds it.
//
// It returns ErrNotFound if there is no such record.
func Remove(i Instance, by InstanceKey) (Outcome, error) {
	switch {
	case i.Ordinary != nil && (by.IsZero() || i.Ordinary.InstanceKey == by):
		return without(i, i.Ordinary), nil
	case i.Suspect != nil && i.Suspect.InstanceKey == by:
		return without(i, i.Suspect), nil
	default:
		return same(i), ErrNotFound
	}
}

// Retire ends the ordinary instance of an index whatever is desired: a record that no cell holds is
// deleted, any other is ordered to stop.
//
// It returns ErrNotFound if the index has no ordinary record.
func Retire(i Instance) (Outcome, error) {
	if i.Ordinary == nil {
		return same(i), ErrNotFound
	}
	return stop(i, i.Ordinary), nil
}

// stop deletes a record that no cell holds and orders any other to stop. The order is told to the
// cell after the commit and is nothing that a watcher sees.
func stop(i Instance, a *Actual) Outcome {
	if !a.Held() {
		return without(i, a)
	}
	after := i
	after.Set(a.stopping())
	return Outcome{After: after}
}

// StopAll ends the ordinary and the suspect instance of an index. Evacuating ones are left to their
// cell, which drops them at its next poll because the index has no ordinary record.
func StopAll(i Instance) Outcome {
	out := same(i)
	if i.Ordinary != nil {
		out = stop(out.After, i.Ordinary)
	}
	if i.Suspect != nil {
		suspect := stop(out.After, i.Suspect)
		out = Outcome{After: suspect.After, Events: append(out.Events, suspect.Events...)}
	}
	return out
}

// Unclaim takes the ordinary record away from its cell, or ends its wait after a crash; it keeps the
// crash count.
//
// It returns ErrNotFound if the index has no ordinary record and ErrCannotBeUnclaimed if that waits
// already.
func Unclaim(i Instance, now time.Time) (Outcome, error) {
	switch {
	case i.Ordinary == nil:
		return same(i), ErrNotFound
	case i.Ordinary.State == Unclaimed:
		return same(i), ErrCannotBeUnclaimed.With("%v is %v", i.Ordinary.Key, i.Ordinary.State)
	}
	return unclaimed(i, now), nil
}

// CreateUnclaimed makes the record of an index that a desired LRP has. An index that has an ordinary
// record is left alone.
func CreateUnclaimed(i Instance, key Key, d *Desired, at Stamp) Outcome {
	if i.Ordinary != nil {
		return same(i)
	}
	after := i
	after.Ordinary = waiting(key, d.Domain, d.StartDefinitionID(), at)
	return Outcome{After: after, Events: []Event{{Kind: Created, After: after.Ordinary}}}
}

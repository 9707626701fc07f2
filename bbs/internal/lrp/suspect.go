package lrp

// Lose acts on the loss of the cell that holds an instance. An ordinary instance that runs or starts
// becomes suspect, so that it stays routable, and a substitute waits for a cell in its place. If the
// index has a suspect already the substitute itself was lost, and its record waits anew. An instance
// that was ordered to stop is gone with its cell; so is an evacuating one.
//
// An instance key that no record has changes nothing.
func Lose(i Instance, by InstanceKey, at Stamp) Outcome {
	lost := i.held(by)
	switch {
	case lost == nil:
		return same(i)
	case lost.StopRequested, lost == i.Evacuating:
		return without(i, lost)
	case lost == i.Suspect:
		return same(i)
	case i.Suspect != nil:
		return unclaimed(i, at.Now)
	}
	after := i
	after.Suspect = lost.moved(Suspect)
	after.Ordinary = waiting(lost.Key, lost.Domain, lost.DefinitionID, at)
	return Outcome{After: after, Events: []Event{
		{Kind: Changed, Before: lost, After: after.Suspect},
		{Kind: Created, After: after.Ordinary},
	}}
}

// Return acts on the return of the cell that holds the suspect instance: it is the ordinary one again
// and its substitute is removed, unless that runs already, in which case the suspect is removed. One
// that was ordered to stop stays as it is until its cell has stopped it.
func Return(i Instance, by InstanceKey) Outcome {
	back := i.Suspect
	switch {
	case back == nil || back.InstanceKey != by || back.StopRequested:
		return same(i)
	case i.Ordinary != nil && i.Ordinary.State == Running:
		return without(i, back)
	}
	after := i
	after.Suspect = nil
	after.Ordinary = back.moved(Ordinary)
	out := Outcome{After: after, Events: []Event{{Kind: Changed, Before: back, After: after.Ordinary}}}
	if i.Ordinary != nil {
		out.Events = append(out.Events, Event{Kind: Removed, Before: i.Ordinary})
	}
	return out
}

// DropSuspect deletes the suspect record of an index that has one.
func DropSuspect(i Instance) Outcome {
	if i.Suspect == nil {
		return same(i)
	}
	return without(i, i.Suspect)
}

// DropEvacuating deletes the evacuating record of an index that has one.
func DropEvacuating(i Instance) Outcome {
	if i.Evacuating == nil {
		return same(i)
	}
	return without(i, i.Evacuating)
}

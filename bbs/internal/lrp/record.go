package lrp

import "time"

// Stamp is what a transition takes from outside: the time, in which every record that it changes
// agrees, and a fresh random epoch for the record that it may create. One epoch serves all records
// that one operation creates, because tags are only ever compared within one index.
type Stamp struct {
	Now   time.Time
	Epoch string
}

// waiting makes a new record that waits for a cell.
func waiting(key Key, domain, definitionID string, at Stamp) *Actual {
	return &Actual{
		Key:          key,
		Domain:       domain,
		DefinitionID: definitionID,
		State:        Unclaimed,
		Since:        at.Now.UnixNano(),
		Tag:          ModificationTag{Epoch: at.Epoch},
	}
}

// entering copies a record into another state with all that belongs to the old one cleared: who
// holds it, where it is reached, and what its cell reported. Crash count and reason stay.
func (a *Actual) entering(state State, now time.Time) *Actual {
	next := *a
	next.State = state
	next.Since = now.UnixNano()
	next.Tag = a.Tag.next()
	next.InstanceKey = InstanceKey{}
	next.PlacementError = ""
	next.StopRequested = false
	next.withdraw()
	return &next
}

// withdraw clears what only a Running record has.
func (a *Actual) withdraw() {
	a.NetInfo = nil
	a.InternalRoutes = nil
	a.MetricTags = nil
	a.Routable = false
	a.Zone = ""
}

// moved copies a record to another presence. The instance stays what it is.
func (a *Actual) moved(to Presence) *Actual {
	next := *a
	next.Presence = to
	next.Tag = a.Tag.next()
	return &next
}

// stopping copies a record with the order to stop; a record that has it is returned as it is.
func (a *Actual) stopping() *Actual {
	if a.StopRequested {
		return a
	}
	next := *a
	next.StopRequested = true
	return &next
}

func same(i Instance) Outcome { return Outcome{After: i} }

// without is the outcome of deleting one record of the index.
func without(i Instance, a *Actual) Outcome {
	after := i
	after.clear(a)
	return Outcome{After: after, Events: []Event{{Kind: Removed, Before: a}}}
}

// clear takes a record out of its place.
func (i *Instance) clear(a *Actual) {
	switch a {
	case i.Ordinary:
		i.Ordinary = nil
	case i.Evacuating:
		i.Evacuating = nil
	case i.Suspect:
		i.Suspect = nil
	}
}

// unclaimed is the outcome of the ordinary record losing its cell and waiting for another.
func unclaimed(i Instance, now time.Time) Outcome {
	before := i.Ordinary
	after := i
	after.Ordinary = before.entering(Unclaimed, now)
	return Outcome{After: after, Events: []Event{
		{Kind: Created, After: after.Ordinary},
		{Kind: Removed, Before: before},
	}}
}

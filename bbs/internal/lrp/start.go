package lrp

import (
	"slices"
	"strings"
	"time"
)

// Report is what a cell says of an instance that runs.
type Report struct {
	Key
	InstanceKey
	Domain         string
	NetInfo        NetInfo
	InternalRoutes []string
	MetricTags     map[string]string
	Routable       bool
	Zone           string
	DefinitionID   string // empty if the cell does not know
}

// Start records that an instance runs, or anything new about it. It makes the record if there is
// none, even if nothing desires it: an emptied database must not kill what runs. An instance that
// runs takes the index from one that only claimed it. Afterwards the index does not need its suspect
// instance, and its evacuating one only until the report says that the new one is routable: an
// application with one instance is never without one that routers may send to.
//
// What is known already, and a report about a suspect instance, change nothing.
//
// It returns ErrCannotBeStarted if another instance runs at the index, if it is Crashed, or if its
// record is of another domain.
func Start(i Instance, r *Report, at Stamp) (Outcome, error) {
	if i.Heartbeat(r) {
		return same(i), nil
	}
	before := i.Ordinary
	if before == nil {
		return started(i, waiting(r.Key, r.Domain, r.DefinitionID, at), r, at.Now), nil
	}
	mine := before.InstanceKey == r.InstanceKey
	switch {
	case before.Domain != r.Domain:
		return same(i), ErrCannotBeStarted.With("%v is of domain %q", before.Key, before.Domain)
	case before.State == Crashed, before.State == Running && !mine:
		return same(i), ErrCannotBeStarted.With("%v is %v", before.Key, before.State)
	}
	return started(i, before, r, at.Now), nil
}

// Heartbeat reports whether Start would succeed and change nothing, without allocating. Nearly every
// Start is one.
func (i Instance) Heartbeat(r *Report) bool {
	if i.Suspect != nil {
		return i.Suspect.InstanceKey == r.InstanceKey
	}
	o := i.Ordinary
	return o != nil && (i.Evacuating == nil || i.awaitsRouting(r)) && o.State == Running && o.InstanceKey == r.InstanceKey &&
		o.Domain == r.Domain && o.reports(r)
}

// awaitsRouting reports whether the evacuating instance of the index has to serve on, because the one
// that the report is about cannot yet.
func (i Instance) awaitsRouting(r *Report) bool {
	return i.Evacuating != nil && i.Evacuating.InstanceKey != r.InstanceKey && !r.Routable
}

// started makes the index run what the report says, from the ordinary record or from a new one that
// was never stored.
func started(i Instance, from *Actual, r *Report, now time.Time) Outcome {
	next := from.reported(r)
	switch {
	case from.State != Running:
		next.State = Running
		next.Since = now.UnixNano()
		next.Tag = from.Tag.next()
	case !from.reports(r) || from.InstanceKey != r.InstanceKey:
		next.Tag = from.Tag.next()
	default:
		next = from
	}
	if i.Ordinary == nil {
		next.Tag.Index = 0
	}
	out := Outcome{After: Instance{Ordinary: next}}
	kept := i.awaitsRouting(r)
	if kept {
		out.After.Evacuating = i.Evacuating
	}
	back := i.Evacuating != nil && i.Evacuating.InstanceKey == r.InstanceKey
	switch {
	case back:
		// The cell is no longer being emptied: the same container life becomes the ordinary one, so
		// what is withdrawn is the record that waited for a replacement.
		out.Events = append(out.Events, Event{Kind: Changed, Before: i.Evacuating, After: next})
		if i.Ordinary != nil && i.Ordinary.InstanceKey != r.InstanceKey {
			out.Events = append(out.Events, Event{Kind: Removed, Before: i.Ordinary})
		}
	case i.Ordinary == nil:
		out.Events = append(out.Events, Event{Kind: Created, After: next})
	case next != from:
		out.Events = append(out.Events, Event{Kind: Changed, Before: from, After: next})
	}
	if i.Evacuating != nil && !back && !kept {
		out.Events = append(out.Events, Event{Kind: Removed, Before: i.Evacuating})
	}
	if i.Suspect != nil {
		out.Events = append(out.Events, Event{Kind: Removed, Before: i.Suspect})
	}
	return out
}

// reported copies a record with all that the report says; state, tag and time are the caller's.
func (a *Actual) reported(r *Report) *Actual {
	next := *a
	net := r.NetInfo
	next.InstanceKey = r.InstanceKey
	next.NetInfo = &net
	next.InternalRoutes = r.InternalRoutes
	next.MetricTags = sortedTags(r.MetricTags)
	next.Routable = r.Routable
	next.Zone = r.Zone
	next.PlacementError = ""
	if r.DefinitionID != "" {
		next.DefinitionID = r.DefinitionID
	}
	return &next
}

// reports tells whether the record holds all that the report says.
func (a *Actual) reports(r *Report) bool {
	return a.Routable == r.Routable && a.Zone == r.Zone && a.PlacementError == "" &&
		(r.DefinitionID == "" || r.DefinitionID == a.DefinitionID) &&
		a.NetInfo.equal(&r.NetInfo) &&
		slices.Equal(a.InternalRoutes, r.InternalRoutes) && tagsEqual(a.MetricTags, r.MetricTags)
}

func sortedTags(tags map[string]string) []TagValue {
	if len(tags) == 0 {
		return nil
	}
	sorted := make([]TagValue, 0, len(tags))
	for name, value := range tags {
		sorted = append(sorted, TagValue{Name: name, Value: value})
	}
	slices.SortFunc(sorted, func(a, b TagValue) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

func tagsEqual(stored []TagValue, reported map[string]string) bool {
	if len(stored) != len(reported) {
		return false
	}
	for _, tag := range stored {
		if value, ok := reported[tag.Name]; !ok || value != tag.Value {
			return false
		}
	}
	return true
}

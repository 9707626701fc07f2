package lrp

import (
	"slices"
)

// Update changes the header of a desired LRP. What is nil stays as it is.
type Update struct {
	Instances   *int32
	Routes      *[]Route // in order of router
	Annotation  *string
	MetricTags  *[]MetricTag // in order of name
	CrashPolicy *CrashPolicy
	// ClearCrashPolicy takes the LRP's own policy away.
	ClearCrashPolicy bool
	// CredentialsChanged says that the definition, which is not here, gets other image credentials.
	CredentialsChanged bool
	// IfTag refuses the update if the record has another tag.
	IfTag *ModificationTag
}

// StartDefinitionID is the definition that a new instance starts from.
func (d *Desired) StartDefinitionID() string { return d.ActiveDefinitionID }

// MarkHealthy records that an instance of the active definition has run. It returns d itself if that
// is known. Clients neither see nor cause it, so the tag, which guards their updates, stays.
func (d *Desired) MarkHealthy() *Desired {
	if d.HealthyDefinitionID == d.ActiveDefinitionID {
		return d
	}
	next := *d
	next.HealthyDefinitionID = d.ActiveDefinitionID
	return &next
}

// Desire creates an LRP and the records of its instances. want is complete but for tag and times;
// existing is the record of that guid, if any, and instances what is left of an earlier LRP of the
// guid, whose records are kept.
//
// It returns ErrExists if the guid is taken.
func Desire(existing, want *Desired, instances []Instance, at Stamp) (Change, error) {
	if existing != nil {
		return Change{Desired: existing}, ErrExists.With("desired LRP %q", want.ProcessGUID)
	}
	d := *want
	d.Tag = ModificationTag{Epoch: at.Epoch}
	d.CreatedAt = at.Now.UnixNano()
	d.UpdatedAt = d.CreatedAt
	change := Change{Desired: &d, Event: &DesiredEvent{After: &d}}
	change.Indices = fill(&d, 0, instances, at)
	return change, nil
}

// ApplyUpdate changes an LRP and creates or stops instances accordingly. An update that changes
// nothing says so by returning before itself, without events.
//
// It returns ErrNotFound if before is nil and ErrConflict if its tag is not the one asked for.
func ApplyUpdate(before *Desired, u Update, instances []Instance, at Stamp) (Change, error) {
	if before == nil {
		return Change{}, ErrNotFound
	}
	if u.IfTag != nil && *u.IfTag != before.Tag {
		return Change{Desired: before}, ErrConflict.With("desired LRP %q has tag index %d", before.ProcessGUID, before.Tag.Index)
	}
	d := before.updated(u)
	if d == nil {
		return Change{Desired: before}, nil
	}
	d.Tag = before.Tag.next()
	d.UpdatedAt = at.Now.UnixNano()
	change := Change{Desired: d, Event: &DesiredEvent{Before: before, After: d}}
	switch {
	case d.Instances > before.Instances:
		change.Indices = fill(d, before.Instances, instances, at)
	case d.Instances < before.Instances:
		change.Indices = stopFrom(d.Instances, instances)
	}
	return change, nil
}

// updated returns the changed copy, or nil if nothing differs.
func (d *Desired) updated(u Update) *Desired {
	next := *d
	changed := u.CredentialsChanged
	if u.Instances != nil && *u.Instances != d.Instances {
		next.Instances, changed = *u.Instances, true
	}
	if u.Annotation != nil && *u.Annotation != d.Annotation {
		next.Annotation, changed = *u.Annotation, true
	}
	if u.Routes != nil && !slices.EqualFunc(*u.Routes, d.Routes, Route.equal) {
		next.Routes, changed = *u.Routes, true
		next.InternalHostnames = internalHostnames(next.Routes)
	}
	if u.MetricTags != nil && !slices.Equal(*u.MetricTags, d.MetricTags) {
		next.MetricTags, changed = *u.MetricTags, true
	}
	if policy, set := u.crashPolicy(); set && !policy.equal(d.CrashPolicy) {
		next.CrashPolicy, changed = policy, true
	}
	if !changed {
		return nil
	}
	return &next
}

func (u Update) crashPolicy() (*CrashPolicy, bool) {
	return u.CrashPolicy, u.CrashPolicy != nil || u.ClearCrashPolicy
}

func (p *CrashPolicy) equal(o *CrashPolicy) bool {
	if p == nil || o == nil {
		return p == o
	}
	eq := func(a, b *uint32) bool { return a == b || a != nil && b != nil && *a == *b }
	return eq(p.ImmediateRestarts, o.ImmediateRestarts) &&
		eq(p.MaxSecondsBetweenRestarts, o.MaxSecondsBetweenRestarts) &&
		eq(p.MaxRestartAttempts, o.MaxRestartAttempts)
}

func (r Route) equal(o Route) bool { return r.Router == o.Router && sameValue(r.Value, o.Value) }

// RemoveDesired removes an LRP and stops its instances.
//
// It returns ErrNotFound if before is nil and ErrConflict if ifTag is not nil and not its tag.
func RemoveDesired(before *Desired, ifTag *ModificationTag, instances []Instance) (Change, error) {
	if before == nil {
		return Change{}, ErrNotFound
	}
	if ifTag != nil && *ifTag != before.Tag {
		return Change{Desired: before}, ErrConflict.With("desired LRP %q has tag index %d", before.ProcessGUID, before.Tag.Index)
	}
	return Change{
		Event:   &DesiredEvent{Before: before},
		Indices: stopFrom(0, instances),
	}, nil
}

// fill creates the records of the indices from first on that have none.
func fill(d *Desired, first int32, instances []Instance, at Stamp) []IndexOutcome {
	var created []IndexOutcome
	next := 0
	for index := first; index < d.Instances; index++ {
		for next < len(instances) && instances[next].Any().Index < index {
			next++
		}
		var present Instance
		if next < len(instances) && instances[next].Any().Index == index {
			present = instances[next]
		}
		if present.Ordinary != nil {
			continue
		}
		key := Key{ProcessGUID: d.ProcessGUID, Index: index}
		created = append(created, IndexOutcome{Key: key, Outcome: CreateUnclaimed(present, key, d, at)})
	}
	return created
}

// stopFrom stops the instances from index first on.
func stopFrom(first int32, instances []Instance) []IndexOutcome {
	var stopped []IndexOutcome
	for _, i := range instances {
		key := i.Any().Key
		if key.Index < first {
			continue
		}
		if out := StopAll(i); out.After != i {
			stopped = append(stopped, IndexOutcome{Key: key, Outcome: out})
		}
	}
	return stopped
}

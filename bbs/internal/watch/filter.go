package watch

import "slices"

// Filter chooses events. Its zero value lets nothing through; see All.
type Filter struct {
	Groups Group
	// CellID, if not empty, lets through what that cell holds or held.
	CellID string
	// Subjects, if not nil, are the process guids that pass, and task guids and names of domains alike.
	Subjects map[string]bool
	// Domain, if not empty, is the only one that passes.
	Domain string
	// WithoutTags leaves routes and tags out of the instances of the events that pass; see WithoutTags.
	WithoutTags bool
}

// All returns the filter that lets everything through.
func All() Filter { return Filter{Groups: GroupAll} }

// Unfiltered reports whether everything passes.
func (f *Filter) Unfiltered() bool {
	return f.Groups == GroupAll && f.CellID == "" && f.Subjects == nil && f.Domain == ""
}

// Passes reports whether an event is to be sent.
func (f *Filter) Passes(e *Event) bool {
	return f.Groups&e.Kind.group() != 0 &&
		(f.CellID == "" || slices.Contains(e.Cells, f.CellID)) &&
		(f.Domain == "" || e.Domain == f.Domain) &&
		(f.Subjects == nil || f.Subjects[e.Subject])
}

// Package selection decides which records the user asked to see, as far as the BBS does not decide it. It is pure: it reads flags
// that were parsed and records that were read.
package selection

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"diego.internal/cfdot/internal/fieldpath"
	"diego.internal/cfdot/internal/spec"
)

// Instances says which actual LRPs to show. Its zero value shows all.
type Instances struct {
	States, Presences, Zones []string
	// Crashed shows those that are down after a crash or have crashed since they last ran well.
	Crashed bool
	// PlacementError shows those that have no place and a reason.
	PlacementError bool
	// OlderThan shows those that have been in their state for longer.
	OlderThan time.Duration
	Selector  Selector
}

// Match says whether a record is shown.
func (i *Instances) Match(l *spec.ActualLRP, now time.Time) bool {
	return among(i.States, l.State) && among(i.Presences, l.Presence) && among(i.Zones, l.AvailabilityZone) &&
		(!i.Crashed || l.State == "CRASHED" || l.CrashCount > 0) &&
		(!i.PlacementError || l.PlacementError != "") &&
		older(l.Since, i.OlderThan, now) && i.Selector.Match(func(name string) string { return l.MetricTags[name] })
}

// Tasks says which tasks to show. Its zero value shows all.
type Tasks struct {
	States []string
	// Failed shows those that ended badly.
	Failed bool
	// OlderThan shows those that were made longer ago.
	OlderThan time.Duration
}

// Match says whether a task is shown.
func (t *Tasks) Match(task *spec.Task, now time.Time) bool {
	return among(t.States, task.State) && (!t.Failed || task.Failed) && older(task.CreatedAt, t.OlderThan, now)
}

func among(wanted []string, value string) bool {
	return len(wanted) == 0 || slices.Contains(wanted, value)
}

func older(since int64, than time.Duration, now time.Time) bool {
	return than == 0 || since != 0 && now.Sub(time.Unix(0, since)) > than
}

// Selector is conditions on tags, which must all hold. Its zero value holds always.
type Selector []condition

// condition on one text.
type condition struct {
	name, value string
	not         bool
}

var errCondition = errors.New("a condition is NAME=VALUE or NAME!=VALUE")

// ParseSelector reads conditions that are separated by commas.
func ParseSelector(text string) (Selector, error) {
	if text == "" {
		return nil, nil
	}
	var out Selector
	for part := range strings.SplitSeq(text, ",") {
		c, err := parseCondition(part)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func parseCondition(text string) (condition, error) {
	name, value, ok := strings.Cut(text, "=")
	name, not := strings.CutSuffix(name, "!")
	if !ok || name == "" {
		return condition{}, fmt.Errorf("%q: %w", text, errCondition)
	}
	return condition{name: name, value: value, not: not}, nil
}

// Match says whether all conditions hold for the tags.
func (s Selector) Match(tag func(name string) string) bool {
	for _, c := range s {
		if (tag(c.name) == c.value) == c.not {
			return false
		}
	}
	return true
}

// Until is conditions on members of a document, which must all hold. Its zero value never holds.
type Until []member

type member struct {
	condition
	path fieldpath.Path
}

// ParseUntil reads conditions that are separated by commas, with paths for names.
func ParseUntil(text string) (Until, error) {
	conditions, err := ParseSelector(text)
	if err != nil {
		return nil, err
	}
	var out Until
	for _, c := range conditions {
		path, err := fieldpath.Parse(c.name)
		if err != nil {
			return nil, err
		}
		out = append(out, member{condition: c, path: path})
	}
	return out, nil
}

// Match says whether one of the documents fulfils all conditions. A member that is not there is like an empty text.
func (u Until) Match(documents ...fieldpath.Document) bool {
	if len(u) == 0 {
		return false
	}
	for _, document := range documents {
		all := true
		for _, m := range u {
			text, _ := document.Get(m.path)
			all = all && (text == m.value) != m.not
		}
		if all {
			return true
		}
	}
	return false
}

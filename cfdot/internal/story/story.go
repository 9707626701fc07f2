// Package story tells events of the BBS as sentences that an operator reads: who, what, and why. It is pure.
package story

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	bbsv1 "diego.internal/proto/bbs/v1"
)

// Line is one thing that happened, or several of the same kind.
type Line struct {
	At time.Time `json:"-"`
	// Subject is PROCESS/INDEX, a process, a task or a domain.
	Subject string `json:"subject"`
	// What happened, without its reason.
	What   string `json:"what"`
	Reason string `json:"reason,omitempty"`
	CellID string `json:"cell_id,omitempty"`
	// Bad says that somebody may have to do something about it.
	Bad bool `json:"bad,omitempty"`

	Revision uint64 `json:"revision,omitempty"`
	// TraceID of the request that caused it.
	TraceID string `json:"trace_id,omitempty"`

	// Count is how often it happened, the first time at First and the last time at At; see Gather.
	Count int       `json:"count,omitempty"`
	First time.Time `json:"-"`
}

// Of tells an event that was committed at a time. It returns false for one that it does not know.
func Of(e *bbsv1.Event, revision uint64, at time.Time) (Line, bool) {
	line, known := of(e)
	line.Revision, line.At, line.First, line.TraceID, line.Count = revision, at, at, e.GetTraceId(), 1
	return line, known
}

func of(e *bbsv1.Event) (Line, bool) {
	switch event := e.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		d := event.DesiredLrpCreated.GetDesiredLrp()
		return Line{Subject: d.GetProcessGuid(), What: "desired, " + instances(d.GetInstances())}, true
	case *bbsv1.Event_DesiredLrpChanged:
		return desiredChanged(event.DesiredLrpChanged.GetBefore(), event.DesiredLrpChanged.GetAfter()), true
	case *bbsv1.Event_DesiredLrpRemoved:
		return Line{Subject: event.DesiredLrpRemoved.GetDesiredLrp().GetProcessGuid(), What: "desired no longer"}, true
	case *bbsv1.Event_ActualLrpInstanceCreated:
		return actualCreated(event.ActualLrpInstanceCreated.GetActualLrp()), true
	case *bbsv1.Event_ActualLrpInstanceChanged:
		return actualChanged(event.ActualLrpInstanceChanged.GetBefore(), event.ActualLrpInstanceChanged.GetAfter()), true
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		return actualRemoved(event.ActualLrpInstanceRemoved.GetActualLrp()), true
	case *bbsv1.Event_ActualLrpCrashed:
		c := event.ActualLrpCrashed
		return Line{
			Subject: subject(c.GetKey()), What: fmt.Sprintf("crashed (%d in a row)", c.GetCrashCount()), Reason: c.GetCrashReason(), CellID: c.GetInstanceKey().GetCellId(), Bad: true,
		}, true
	case *bbsv1.Event_TaskCreated:
		return Line{Subject: event.TaskCreated.GetTask().GetTaskGuid(), What: "task wanted"}, true
	case *bbsv1.Event_TaskChanged:
		return taskChanged(event.TaskChanged.GetBefore(), event.TaskChanged.GetAfter()), true
	case *bbsv1.Event_TaskRemoved:
		return Line{Subject: event.TaskRemoved.GetTask().GetTaskGuid(), What: "task deleted"}, true
	case *bbsv1.Event_DomainChanged:
		d := event.DomainChanged
		line := Line{Subject: d.GetDomain().GetDomain(), What: "domain is fresh"}
		if !d.GetFresh() {
			line.What, line.Bad = "domain is not fresh any more: surplus instances are left alone", true
		}
		return line, true
	default:
		return Line{}, false
	}
}

func instances(n int32) string {
	if n == 1 {
		return "1 instance"
	}
	return strconv.Itoa(int(n)) + " instances"
}

// Gather puts lines that say the same of the same subject together, as often repeated crashes do, and sorts by the last time.
func Gather(lines []Line) []Line {
	type same struct{ subject, what, reason, cell string }
	of := func(l Line) same {
		what, _, _ := strings.Cut(l.What, ", after ") // how many crashes differs each time
		if strings.HasPrefix(what, "crashed (") {
			what = "crashed"
		}
		return same{l.Subject, what, l.Reason, l.CellID}
	}
	at := map[same]int{}
	var out []Line
	for _, line := range lines {
		key := of(line)
		i, again := at[key]
		if !again {
			at[key] = len(out)
			out = append(out, line)
			continue
		}
		count, first := out[i].Count+line.Count, out[i].First
		if line.First.Before(first) {
			first = line.First
		}
		if line.At.Before(out[i].At) {
			line = out[i]
		}
		line.Count, line.First = count, first
		out[i] = line
	}
	slices.SortStableFunc(out, func(x, y Line) int { return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.Revision, y.Revision)) })
	return out
}

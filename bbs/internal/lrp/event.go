package lrp

// EventKind says what an event about an actual LRP tells.
type EventKind uint8

// The kinds of events.
const (
	// Created has After only.
	Created EventKind = iota + 1
	// Changed has Before and After.
	Changed
	// Removed has Before only: the record as it was last.
	Removed
	// CrashedEvent has Before, the instance that crashed, and Crash.
	CrashedEvent
)

func (k EventKind) String() string {
	switch k {
	case Created:
		return "created"
	case Changed:
		return "changed"
	case Removed:
		return "removed"
	case CrashedEvent:
		return "crashed"
	default:
		return "unknown"
	}
}

// Event tells watchers of one change of an actual LRP. A return to UNCLAIMED is told as Created of
// the waiting record and Removed of the instance, although one record was overwritten.
type Event struct {
	Kind   EventKind
	Before *Actual
	After  *Actual
	Crash  *CrashRecord
}

// CrashRecord is what a crash leaves behind, which no record holds if the instance restarts at once.
type CrashRecord struct {
	Count  int32 // this crash included
	Reason string
	Since  int64 // nanoseconds since the Unix epoch
}

// Outcome of a transition: all records of the index afterwards, and the events in the order in which
// watchers must see them. The store replaces the records that differ, by pointer, from those that it
// passed in; an outcome that equals them changes nothing and has no events.
type Outcome struct {
	After  Instance
	Events []Event
}

// IndexOutcome is the outcome for one index of an operation on several.
type IndexOutcome struct {
	Key     Key
	Outcome Outcome
}

// DesiredEvent tells of one change of a desired LRP: created if Before is nil, removed if After is
// nil.
type DesiredEvent struct {
	Before *Desired
	After  *Desired
}

// DomainEvent tells that a domain became fresh, stays so for another time, or ceased to be.
type DomainEvent struct {
	Domain *Domain
	Fresh  bool
}

// Change is the outcome of an operation on a desired LRP. An operation that changes nothing returns
// the header that it was given and nothing else.
type Change struct {
	// Desired afterwards; nil if it is removed.
	Desired *Desired
	// Event about the header, or nil. It precedes those of the instances.
	Event *DesiredEvent
	// Indices that changed, in order. Those left out stay as they are.
	Indices []IndexOutcome
}

// Package watch owns what follows a commit for those who watch: the log of recent batches in memory,
// cursors that read it in order, from the archive where memory does not reach back, and filters.
//
// It does not own the making of events (package lrp and package task), the archive (package store),
// nor the stream to a client (package api).
package watch

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind of an event. The numbers are those of the fields of bbs.v1.Event; they are stored.
type Kind uint8

// The kinds.
const (
	DesiredCreated Kind = iota + 1
	DesiredChanged
	DesiredRemoved
	ActualCreated
	ActualChanged
	ActualRemoved
	ActualCrashed
	TaskCreated
	TaskChanged
	TaskRemoved
	DomainChanged
)

// Group of kinds that a watcher may choose.
type Group uint8

// The groups.
const (
	GroupDesired Group = 1 << iota
	GroupActual
	GroupTask
	GroupDomain

	// GroupAll is all of them.
	GroupAll = GroupDesired | GroupActual | GroupTask | GroupDomain
)

func (k Kind) group() Group {
	switch k {
	case DesiredCreated, DesiredChanged, DesiredRemoved:
		return GroupDesired
	case ActualCreated, ActualChanged, ActualRemoved, ActualCrashed:
		return GroupActual
	case TaskCreated, TaskChanged, TaskRemoved:
		return GroupTask
	case DomainChanged:
		return GroupDomain
	}
	return 0
}

// Event is one change, ready to be sent. It is immutable; its encodings are shared with the state.
type Event struct {
	Kind Kind
	// Subject is the process guid, the task guid or the name of the domain.
	Subject string
	// Domain that the subject belongs to.
	Domain string
	// Cells that hold the subject, before or after the change.
	Cells []string
	// Before and After are encodings of the record: workload.v1.SchedulingInfo, ActualLRP or Task. For
	// ActualCrashed and DomainChanged, After is the encoding of the event itself.
	Before, After []byte
	// TraceID of the request that caused it.
	TraceID string
}

// The field of bbs.v1.Event that holds the trace id, which is no kind.
const fieldTraceID = 15

// payloadSize is the size of the message in the field of the kind.
func (e *Event) payloadSize() int {
	if e.whole() {
		return len(e.After)
	}
	size := 0
	for _, record := range [...][]byte{e.Before, e.After} {
		if record != nil {
			size += protowire.SizeTag(1) + protowire.SizeBytes(len(record))
		}
	}
	return size
}

// whole reports whether After is the message itself.
func (e *Event) whole() bool { return e.Kind == ActualCrashed || e.Kind == DomainChanged }

// Size of the encoding as bbs.v1.Event, in bytes.
func (e *Event) Size() int {
	size := protowire.SizeTag(protowire.Number(e.Kind)) + protowire.SizeBytes(e.payloadSize())
	if e.TraceID != "" {
		size += protowire.SizeTag(fieldTraceID) + protowire.SizeBytes(len(e.TraceID))
	}
	return size
}

// AppendTo appends the encoding as bbs.v1.Event.
func (e *Event) AppendTo(b []byte) []byte {
	b = protowire.AppendTag(b, protowire.Number(e.Kind), protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(e.payloadSize())) //nolint:gosec // a length
	if e.whole() {
		b = append(b, e.After...)
	} else {
		field := protowire.Number(1)
		for _, record := range [...][]byte{e.Before, e.After} {
			if record != nil {
				b = protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), record)
				field++
			}
		}
	}
	if e.TraceID != "" {
		b = protowire.AppendString(protowire.AppendTag(b, fieldTraceID, protowire.BytesType), e.TraceID)
	}
	return b
}

// Batch is what one revision changed. It is immutable once it is appended to the Log.
type Batch struct {
	Revision uint64
	At       time.Time
	Events   []Event

	shared sharedEncodings
}

// footprint estimates the memory that a batch holds, in bytes. Records that are also in the state,
// or in two events, count twice: the bound is on the safe side.
func (b *Batch) footprint() int {
	const batchOverhead, eventOverhead = 200, 200
	size := batchOverhead
	for i := range b.Events {
		size += eventOverhead + len(b.Events[i].Before) + len(b.Events[i].After)
	}
	return size
}

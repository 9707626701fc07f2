package watch

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxMessage bounds the size of one message, softly: a batch whose events exceed it is sent in several. With what
// surrounds the events it stays below 32 KiB, because gRPC of a reader gathers each message in a pooled buffer, and the next
// size of those is 1 MiB.
const maxMessage = 31 << 10

// Fields of bbs.v1.WatchResponse and its Changes.
const (
	responseChanges = 4

	changesRevision    = 1
	changesMore        = 2
	changesCommittedAt = 3
	changesEvents      = 4
)

// view is what watchers of everything may differ in.
type view struct {
	groups      Group
	withoutTags bool
}

// sharedEncodings are those of a new batch, made once for all watchers that want the same of everything.
type sharedEncodings struct {
	mu     sync.Mutex
	byView map[view][][]byte
	// old batches share nothing: only watchers that are behind still read them.
	old bool
}

// messages returns what the watchers with one view share, or false if each has to encode for itself.
func (s *sharedEncodings) messages(of view, encode func() [][]byte) ([][]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.old {
		return nil, false
	}
	messages, ok := s.byView[of]
	if !ok {
		if s.byView == nil {
			s.byView = map[view][][]byte{}
		}
		messages = encode()
		s.byView[of] = messages
	}
	return messages, true
}

// forget gives back the memory of the encodings.
func (s *sharedEncodings) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byView, s.old = nil, true
}

// Messages returns the encodings, as bbs.v1.WatchResponse, of the events of a batch that pass: one
// message, or several for a large batch, or none if nothing passes. They must not be modified.
func (b *Batch) Messages(filter *Filter) [][]byte {
	if filter.CellID == "" && filter.Subjects == nil && filter.Domain == "" {
		if messages, ok := b.shared.messages(view{filter.Groups, filter.WithoutTags}, func() [][]byte { return b.encode(filter) }); ok {
			return messages
		}
	}
	return b.encode(filter)
}

func (b *Batch) encode(filter *Filter) [][]byte {
	var messages [][]byte
	var chosen []*Event
	size := 0
	flush := func(more bool) {
		if len(chosen) > 0 {
			messages = append(messages, b.message(chosen, size, more))
			chosen, size = chosen[:0], 0
		}
	}
	for i := range b.Events {
		event := &b.Events[i]
		if !filter.Passes(event) {
			continue
		}
		if filter.WithoutTags {
			event = event.withoutTags()
		}
		if eventSize := event.Size(); size+eventSize > maxMessage {
			flush(true)
		}
		chosen = append(chosen, event)
		size += protowire.SizeTag(changesEvents) + protowire.SizeBytes(event.Size())
	}
	flush(false)
	return messages
}

// message encodes some events of a batch; eventsSize is what they take as fields of Changes.
func (b *Batch) message(events []*Event, eventsSize int, more bool) []byte {
	at, err := proto.Marshal(timestamppb.New(b.At))
	if err != nil {
		at = nil // a Timestamp always encodes
	}
	head := protowire.AppendVarint(protowire.AppendTag(nil, changesRevision, protowire.VarintType), b.Revision)
	if more {
		head = protowire.AppendVarint(protowire.AppendTag(head, changesMore, protowire.VarintType), 1)
	}
	head = protowire.AppendBytes(protowire.AppendTag(head, changesCommittedAt, protowire.BytesType), at)

	size := len(head) + eventsSize
	out := make([]byte, 0, size+8)
	out = protowire.AppendTag(out, responseChanges, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(size)) //nolint:gosec // a length
	out = append(out, head...)
	for _, event := range events {
		out = protowire.AppendTag(out, changesEvents, protowire.BytesType)
		out = protowire.AppendVarint(out, uint64(event.Size())) //nolint:gosec // a length
		out = event.AppendTo(out)
	}
	return out
}

// Fields of workload.v1.ActualLRP.
const (
	actualInternalRoutes = 10
	actualMetricTags     = 11
)

// withoutTags returns the event with instances without their routes and tags.
func (e *Event) withoutTags() *Event {
	switch e.Kind {
	case ActualCreated, ActualChanged, ActualRemoved:
		shorter := *e
		shorter.Before, shorter.After = WithoutTags(e.Before), WithoutTags(e.After)
		return &shorter
	case DesiredCreated, DesiredChanged, DesiredRemoved, ActualCrashed, TaskCreated, TaskChanged, TaskRemoved, DomainChanged:
	}
	return e
}

// WithoutTags returns the encoding of a workload.v1.ActualLRP without internal routes and metric tags; of nil it is nil.
func WithoutTags(actual []byte) []byte {
	if actual == nil {
		return nil
	}
	out := make([]byte, 0, len(actual))
	for len(actual) > 0 {
		number, _, size := protowire.ConsumeField(actual)
		if size < 0 {
			return append(out, actual...) // which does not happen: we made it
		}
		if number != actualInternalRoutes && number != actualMetricTags {
			out = append(out, actual[:size]...)
		}
		actual = actual[size:]
	}
	return out
}

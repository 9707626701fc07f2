package grpcserver

import (
	"errors"
	"fmt"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"diego.internal/servicekit/fault"
)

// ruled remembers which messages have rules. It depends on descriptors only, which are the same for
// every server of the process.
var ruled sync.Map //nolint:gochecknoglobals // a cache; descriptor → bool

// validate checks a message against the rules in its .proto file. Rules are compiled at the first
// message of a kind; messages without rules cost a look-up.
func (s *Server) validate(req any) error {
	msg, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	desc := msg.ProtoReflect().Descriptor()
	has, known := ruled.Load(desc)
	if !known {
		has, _ = ruled.LoadOrStore(desc, hasRules(desc, map[protoreflect.FullName]bool{}))
	}
	if !has.(bool) {
		return nil
	}
	err := s.valid.Validate(msg)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok { // the rules themselves are wrong: our fault, not the caller's
		return fmt.Errorf("validating a %s: %w", desc.FullName(), err)
	}
	violations := make([]fault.Violation, len(invalid.Violations))
	for i, v := range invalid.Violations {
		violations[i] = fault.Violation{
			Field:       protovalidate.FieldPathString(v.Proto.GetField()),
			Description: v.Proto.GetMessage(),
		}
	}
	return fault.InvalidRequest(violations...)
}

// hasRules looks for rules in a message and in all that it can hold.
func hasRules(desc protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[desc.FullName()] {
		return false
	}
	seen[desc.FullName()] = true
	if rules, err := protovalidate.ResolveMessageRules(desc); err != nil || rules != nil {
		return true // with an error, let the validator say what is wrong
	}
	oneofs := desc.Oneofs()
	for i := range oneofs.Len() {
		if rules, err := protovalidate.ResolveOneofRules(oneofs.Get(i)); err != nil || rules != nil {
			return true
		}
	}
	fields := desc.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if rules, err := protovalidate.ResolveFieldRules(field); err != nil || rules != nil {
			return true
		}
		if field.Message() != nil && hasRules(field.Message(), seen) {
			return true
		}
	}
	return false
}

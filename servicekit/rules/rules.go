// Package rules owns the checking of messages against the rules in their .proto files: Check names every field that breaks one,
// and Surely says quickly of most messages that none does.
//
// It does not own the rules themselves (the .proto files), nor what rules cannot say (the handlers).
package rules

import (
	"errors"
	"fmt"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"diego.internal/servicekit/fault"
)

// Check returns nil if a message keeps its rules, and else an InvalidArgument that names every field that breaks one. Rules are
// compiled at the first message of a kind. It is safe for concurrent use.
func Check(m proto.Message) error {
	if Surely(m) {
		return nil
	}
	err := protovalidate.Validate(m)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok { // the rules themselves are wrong: our fault, not the caller's
		return fmt.Errorf("validating a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
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

// Surely reports whether a message keeps its rules, if that can be said quickly. It is never true of a message that breaks one;
// of a message that keeps them it may be false, if they are of a kind that is not known here.
//
// The general validator makes a report of what it finds and how it got there; that takes a fifth of the time of a call that is
// otherwise cheap. Nearly all messages break no rule, which takes no report to find out.
func Surely(m proto.Message) bool {
	reflected := m.ProtoReflect()
	return planOf(reflected.Descriptor()).holds(reflected)
}

// plans remembers what is compiled. It depends on descriptors only, which are the same for the whole process.
var plans struct { //nolint:gochecknoglobals // a cache
	byDescriptor sync.Map // protoreflect.MessageDescriptor → *plan
	compiling    sync.Mutex
	compiler     compiler // of one at a time
}

func planOf(desc protoreflect.MessageDescriptor) *plan {
	if p, ok := plans.byDescriptor.Load(desc); ok {
		return p.(*plan)
	}
	plans.compiling.Lock()
	defer plans.compiling.Unlock()
	// Of many calls that come first together one compiles, and the others find what it made.
	p := plans.compiler.message(desc)
	plans.byDescriptor.Store(desc, p)
	return p
}

// plan is what has to hold of a message of one kind.
type plan struct {
	// unsure is set if there is a rule that is not known here.
	unsure bool
	// own are rules of the message as a whole; if not all of them are understood, the general validator is asked about them. It gets
	// no further than them.
	own       []check
	validator protovalidate.ValidationOption
	oneofs    []protoreflect.OneofDescriptor // of which a member must be set
	fields    []field
}

// field is what has to hold of a field.
type field struct {
	desc     protoreflect.FieldDescriptor
	required bool
	// optional fields are left alone unless they are set, and so are lists and maps that may be empty.
	optional bool
	checks   []check
	// cel, like plan.validator, is for rules that are not understood.
	cel protovalidate.ValidationOption
}

// check reports whether a value keeps one rule.
type check func(protoreflect.Value) bool

func (p *plan) holds(m protoreflect.Message) bool {
	if p.unsure {
		return false
	}
	if p.validator != nil && protovalidate.Validate(m.Interface(), p.validator) != nil {
		return false
	}
	if len(p.own) > 0 && !all(p.own, protoreflect.ValueOfMessage(m)) {
		return false
	}
	for _, oneof := range p.oneofs {
		if m.WhichOneof(oneof) == nil {
			return false
		}
	}
	for i := range p.fields {
		if !p.fields[i].holds(m) {
			return false
		}
	}
	return true
}

func (f *field) holds(m protoreflect.Message) bool {
	if (f.required || f.optional) && !m.Has(f.desc) {
		return !f.required
	}
	if len(f.checks) > 0 {
		value := m.Get(f.desc)
		for _, holds := range f.checks {
			if !holds(value) {
				return false
			}
		}
	}
	return f.cel == nil || protovalidate.Validate(m.Interface(), f.cel) == nil
}

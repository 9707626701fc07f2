package spec

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

// maxNesting bounds trees of actions.
const maxNesting = 4

// fill gives every field of a message a value that is not its zero, and each oneof one of its members.
func fill(t *rapid.T, message proto.Message) { fillMessage(t, message.ProtoReflect(), 0) }

func fillMessage(t *rapid.T, m protoreflect.Message, nesting int) {
	switch known := m.Interface().(type) {
	case *durationpb.Duration:
		proto.Merge(known, durationpb.New(time.Duration(rapid.IntRange(1, 1_000_000).Draw(t, "ms"))*time.Millisecond))
		return
	case *timestamppb.Timestamp:
		proto.Merge(known, timestamppb.New(time.Unix(0, rapid.Int64Range(1, 1<<60).Draw(t, "ns"))))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if one := field.ContainingOneof(); one != nil && !one.IsSynthetic() {
			continue
		}
		fillField(t, m, field, nesting)
	}
	oneofs := m.Descriptor().Oneofs()
	for i := range oneofs.Len() {
		if one := oneofs.Get(i); !one.IsSynthetic() {
			fillField(t, m, choose(t, one, nesting), nesting)
		}
	}
}

// choose picks a member; deep in a tree only one that holds no action.
func choose(t *rapid.T, one protoreflect.OneofDescriptor, nesting int) protoreflect.FieldDescriptor {
	var members []protoreflect.FieldDescriptor
	for i := range one.Fields().Len() {
		member := one.Fields().Get(i)
		if nesting < maxNesting || !holdsAction(member.Message()) {
			members = append(members, member)
		}
	}
	return rapid.SampledFrom(members).Draw(t, string(one.Name()))
}

func holdsAction(m protoreflect.MessageDescriptor) bool {
	if m == nil {
		return false
	}
	for i := range m.Fields().Len() {
		if inner := m.Fields().Get(i).Message(); inner != nil && inner.Name() == "Action" {
			return true
		}
	}
	return false
}

func fillField(t *rapid.T, m protoreflect.Message, field protoreflect.FieldDescriptor, nesting int) {
	if inner := field.Message(); inner != nil && inner.Name() == "Action" {
		nesting++
	}
	switch {
	case field.IsMap():
		value := m.Mutable(field).Map()
		for _, key := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}`), 1, 3, rapid.ID).Draw(t, string(field.Name())) {
			value.Set(protoreflect.ValueOfString(key).MapKey(), fillValue(t, field.MapValue(), value.NewValue, nesting))
		}
	case field.IsList():
		list := m.Mutable(field).List()
		for range rapid.IntRange(1, 2).Draw(t, string(field.Name())) {
			list.Append(fillValue(t, field, list.NewElement, nesting))
		}
	default:
		m.Set(field, fillValue(t, field, func() protoreflect.Value { return m.NewField(field) }, nesting))
	}
}

func fillValue(t *rapid.T, field protoreflect.FieldDescriptor, empty func() protoreflect.Value, nesting int) protoreflect.Value {
	name := string(field.Name())
	switch field.Kind() { //nolint:exhaustive // the others do not occur
	case protoreflect.MessageKind:
		value := empty()
		fillMessage(t, value.Message(), nesting)
		return value
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.IntRange(1, field.Enum().Values().Len()-1).Draw(t, name)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(rapid.SampledFrom([]string{`{"a":1}`, `[{"hostnames":["a.example"]}]`, `"text"`, `7`}).Draw(t, name)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32Range(1, 1<<31-1).Draw(t, name))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64Range(1, 1<<60).Draw(t, name))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32Range(1, 1<<32-1).Draw(t, name))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64Range(1, 1<<63).Draw(t, name))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.StringMatching(`[a-z<&"é]{1,8}`).Draw(t, name))
	default:
		t.Fatalf("field %s is of a kind that no test fills: %s", field.FullName(), field.Kind())
		return protoreflect.Value{}
	}
}

package rules

import (
	"cmp"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// scalar returns what the rules of a type say of one value, and whether that is all that they say.
func scalar(desc protoreflect.FieldDescriptor, rules *validate.FieldRules) ([]check, bool) {
	m := rules.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("type"))
	if !m.IsValid() || kind == nil {
		return nil, true
	}
	switch {
	case kind.Name() == "string" && desc.Kind() == protoreflect.StringKind:
		return text(rules.GetString())
	case kind.Name() == "bool" && desc.Kind() == protoreflect.BoolKind:
		want := rules.GetBool().GetConst()
		return []check{func(v protoreflect.Value) bool { return v.Bool() == want }}, within(rules.GetBool(), "const") && rules.GetBool().HasConst()
	case kind.Name() == "enum" && desc.Kind() == protoreflect.EnumKind:
		return enum(desc.Enum(), rules.GetEnum())
	case kind.Name() == "duration" && desc.Message() != nil && desc.Message().FullName() == "google.protobuf.Duration":
		return duration(rules.GetDuration())
	case string(kind.Name()) == desc.Kind().String(): // numbers are named alike
		return number(m.Get(kind).Message().Interface(), desc.Kind())
	}
	return nil, false
}

func text(r *validate.StringRules) ([]check, bool) {
	if !within(r, "min_len", "max_len", "min_bytes", "max_bytes", "pattern") {
		return nil, false
	}
	least, most := int(r.GetMinLen()), int(r.GetMaxLen()) //nolint:gosec // small numbers in .proto files
	var checks []check
	if r.HasMinLen() {
		checks = append(checks, func(v protoreflect.Value) bool {
			s := v.String()
			// Characters are counted only if it may matter.
			return len(s) >= least && (least <= 1 || utf8.RuneCountInString(s) >= least)
		})
	}
	if r.HasMaxLen() {
		checks = append(checks, func(v protoreflect.Value) bool {
			s := v.String()
			return len(s) <= most || utf8.RuneCountInString(s) <= most
		})
	}
	if r.HasMinBytes() || r.HasMaxBytes() {
		checks = append(checks, between(r.GetMinBytes(), r.HasMaxBytes(), r.GetMaxBytes(), func(v protoreflect.Value) int { return len(v.String()) }))
	}
	if r.HasPattern() {
		pattern, err := regexp.Compile(r.GetPattern())
		if err != nil {
			return nil, false
		}
		checks = append(checks, func(v protoreflect.Value) bool { return pattern.MatchString(v.String()) })
	}
	return checks, true
}

func enum(desc protoreflect.EnumDescriptor, r *validate.EnumRules) ([]check, bool) {
	if !within(r, "defined_only", "in", "not_in") {
		return nil, false
	}
	var checks []check
	if r.GetDefinedOnly() {
		checks = append(checks, func(v protoreflect.Value) bool { return desc.Values().ByNumber(v.Enum()) != nil })
	}
	if among := r.GetIn(); len(among) > 0 {
		checks = append(checks, func(v protoreflect.Value) bool { return slices.Contains(among, int32(v.Enum())) })
	}
	if not := r.GetNotIn(); len(not) > 0 {
		checks = append(checks, func(v protoreflect.Value) bool { return !slices.Contains(not, int32(v.Enum())) })
	}
	return checks, true
}

// number takes the rules of any type of whole numbers.
func number(rules proto.Message, kind protoreflect.Kind) ([]check, bool) {
	if !within(rules, "gt", "gte", "lt", "lte") {
		return nil, false
	}
	switch kind { //nolint:exhaustive // other numbers have no rules in our messages
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return bounds(rules, protoreflect.Value.Int)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return bounds(rules, protoreflect.Value.Uint)
	}
	return nil, false
}

func bounds[T cmp.Ordered](rules proto.Message, of func(protoreflect.Value) T) ([]check, bool) {
	var limits []func(T) bool
	var least, most []T
	rules.ProtoReflect().Range(func(desc protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if desc.Name() == "example" {
			return true
		}
		limit := of(value)
		switch desc.Name() {
		case "gt":
			least, limits = append(least, limit), append(limits, func(v T) bool { return v > limit })
		case "gte":
			least, limits = append(least, limit), append(limits, func(v T) bool { return v >= limit })
		case "lt":
			most, limits = append(most, limit), append(limits, func(v T) bool { return v < limit })
		case "lte":
			most, limits = append(most, limit), append(limits, func(v T) bool { return v <= limit })
		}
		return true
	})
	if len(least) > 0 && len(most) > 0 && least[0] >= most[0] {
		return nil, false // this way round they mean what is outside
	}
	return []check{func(v protoreflect.Value) bool {
		n := of(v)
		for _, keeps := range limits {
			if !keeps(n) {
				return false
			}
		}
		return true
	}}, true
}

func duration(r *validate.DurationRules) ([]check, bool) {
	if !within(r, "gt", "gte", "lt", "lte") {
		return nil, false
	}
	var limits []func(time.Duration) bool
	limit := func(bound *durationpb.Duration, keeps func(v, bound time.Duration) bool) {
		if bound != nil {
			at := bound.AsDuration()
			limits = append(limits, func(v time.Duration) bool { return keeps(v, at) })
		}
	}
	limit(r.GetGt(), func(v, bound time.Duration) bool { return v > bound })
	limit(r.GetGte(), func(v, bound time.Duration) bool { return v >= bound })
	limit(r.GetLt(), func(v, bound time.Duration) bool { return v < bound })
	limit(r.GetLte(), func(v, bound time.Duration) bool { return v <= bound })
	if len(limits) > 2 || len(limits) == 2 && !ordered(r) {
		return nil, false // see bounds
	}
	return []check{func(v protoreflect.Value) bool {
		d, ok := v.Message().Interface().(*durationpb.Duration)
		if !ok || d.CheckValid() != nil {
			return false
		}
		length := d.AsDuration()
		if length == time.Duration(1<<63-1) || length == -1<<63 {
			return false // it was cut off there
		}
		for _, keeps := range limits {
			if !keeps(length) {
				return false
			}
		}
		return true
	}}, true
}

// ordered reports whether the lower bound is below the upper one.
func ordered(r *validate.DurationRules) bool {
	least, most := r.GetGte(), r.GetLte()
	if r.HasGt() {
		least = r.GetGt()
	}
	if r.HasLt() {
		most = r.GetLt()
	}
	return least.AsDuration() < most.AsDuration()
}

package rules

import (
	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// compiler makes plans of messages and of all that they can hold, which may be messages of the same kind again.
type compiler struct {
	plans map[protoreflect.MessageDescriptor]*plan
}

func (c *compiler) message(desc protoreflect.MessageDescriptor) *plan {
	if p, ok := c.plans[desc]; ok {
		return p
	}
	if c.plans == nil {
		c.plans = map[protoreflect.MessageDescriptor]*plan{}
	}
	p := &plan{}
	c.plans[desc] = p
	rules, err := protovalidate.ResolveMessageRules(desc)
	switch {
	case err != nil || len(rules.GetOneof()) > 0:
		p.unsure = true
	default:
		var sure bool
		if p.own, sure = expressions(rules, func(source string) check { return ofMessage(desc, source) }); !sure {
			p.validator = only(desc)
		}
	}
	oneofs := desc.Oneofs()
	for i := range oneofs.Len() {
		rules, err := protovalidate.ResolveOneofRules(oneofs.Get(i))
		p.unsure = p.unsure || err != nil
		if rules.GetRequired() {
			p.oneofs = append(p.oneofs, oneofs.Get(i))
		}
	}
	fields := desc.Fields()
	for i := range fields.Len() {
		f, sure := c.field(fields.Get(i))
		p.unsure = p.unsure || !sure
		if f.required || len(f.checks) > 0 || f.cel != nil {
			p.fields = append(p.fields, f)
		}
	}
	return p
}

// withExpressions is what rules of a message and of a field have in common.
type withExpressions interface {
	GetCel() []*validate.Rule
	GetCelExpression() []string
}

// expressions compiles all rules in CEL of a message or field. It returns false if there are some that only the general validator
// understands.
func expressions(rules withExpressions, compile func(source string) check) ([]check, bool) {
	if len(rules.GetCelExpression()) > 0 {
		return nil, false // what they mean depends on the type of their value
	}
	var checks []check
	for _, rule := range rules.GetCel() {
		holds := compile(rule.GetExpression())
		if holds == nil {
			return nil, false
		}
		checks = append(checks, holds)
	}
	return checks, true
}

// only lets the general validator look at the rules of one message or field, and at nothing below it.
func only(desc protoreflect.Descriptor) protovalidate.ValidationOption {
	return protovalidate.WithFilter(protovalidate.FilterFunc(func(_ protoreflect.Message, d protoreflect.Descriptor) bool {
		return d == desc
	}))
}

// field returns what has to hold of a field, and whether that is all of its rules.
func (c *compiler) field(desc protoreflect.FieldDescriptor) (field, bool) {
	f := field{desc: desc, optional: desc.HasPresence()}
	rules, err := protovalidate.ResolveFieldRules(desc)
	if err != nil {
		return f, false
	}
	if rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS {
		return f, true
	}
	f.required = rules.GetRequired()
	var sure bool
	if f.checks, sure = c.value(desc, rules); !sure {
		return f, false
	}
	own, understood := expressions(rules, func(source string) check { return ofField(desc, source) })
	f.checks = append(f.checks, own...)
	if !understood {
		f.cel = only(desc)
	}
	if desc.Cardinality() == protoreflect.Repeated && f.cel == nil {
		empty := dynamicpb.NewMessage(desc.ContainingMessage()).Get(desc)
		f.optional = all(f.checks, empty)
	}
	return f, rules.GetIgnore() == validate.Ignore_IGNORE_UNSPECIFIED
}

// value returns what has to hold of the value of a field, which may be a list or a map.
func (c *compiler) value(desc protoreflect.FieldDescriptor, rules *validate.FieldRules) ([]check, bool) {
	switch {
	case desc.IsMap():
		return c.pairs(desc, rules)
	case desc.IsList():
		return c.items(desc, rules)
	}
	return c.single(desc, rules)
}

// single is for one value that is neither list nor map: of a field, an item, or of a pair.
func (c *compiler) single(desc protoreflect.FieldDescriptor, rules *validate.FieldRules) ([]check, bool) {
	checks, sure := scalar(desc, rules)
	if desc.Message() != nil && hasRules(desc.Message(), map[protoreflect.FullName]bool{}) {
		nested := c.message(desc.Message())
		checks = append(checks, func(v protoreflect.Value) bool { return nested.holds(v.Message()) })
	}
	return checks, sure
}

func (c *compiler) items(desc protoreflect.FieldDescriptor, rules *validate.FieldRules) ([]check, bool) {
	list := rules.GetRepeated()
	if !typed(rules, "repeated") || !within(list, "min_items", "max_items", "items") || !plain(list.GetItems()) {
		return nil, false
	}
	var checks []check
	if list.HasMinItems() || list.HasMaxItems() {
		checks = append(checks, between(list.GetMinItems(), list.HasMaxItems(), list.GetMaxItems(), func(v protoreflect.Value) int { return v.List().Len() }))
	}
	each, sure := c.single(desc, list.GetItems())
	if len(each) > 0 {
		checks = append(checks, func(v protoreflect.Value) bool {
			items := v.List()
			for i := range items.Len() {
				if !all(each, items.Get(i)) {
					return false
				}
			}
			return true
		})
	}
	return checks, sure
}

func (c *compiler) pairs(desc protoreflect.FieldDescriptor, rules *validate.FieldRules) ([]check, bool) {
	pairs := rules.GetMap()
	if !typed(rules, "map") || !within(pairs, "min_pairs", "max_pairs", "keys", "values") || !plain(pairs.GetKeys()) || !plain(pairs.GetValues()) {
		return nil, false
	}
	var checks []check
	if pairs.HasMinPairs() || pairs.HasMaxPairs() {
		checks = append(checks, between(pairs.GetMinPairs(), pairs.HasMaxPairs(), pairs.GetMaxPairs(), func(v protoreflect.Value) int { return v.Map().Len() }))
	}
	keys, keysSure := c.single(desc.MapKey(), pairs.GetKeys())
	values, valuesSure := c.single(desc.MapValue(), pairs.GetValues())
	if len(keys) > 0 || len(values) > 0 {
		checks = append(checks, func(v protoreflect.Value) bool {
			hold := true
			v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				hold = all(keys, key.Value()) && all(values, value)
				return hold
			})
			return hold
		})
	}
	return checks, keysSure && valuesSure
}

func all(checks []check, v protoreflect.Value) bool {
	for _, holds := range checks {
		if !holds(v) {
			return false
		}
	}
	return true
}

func between(least uint64, bounded bool, most uint64, size func(protoreflect.Value) int) check {
	return func(v protoreflect.Value) bool {
		n := uint64(size(v)) //nolint:gosec // a length
		return n >= least && (!bounded || n <= most)
	}
}

// plain reports whether the rules of items, keys or values are of their type alone.
func plain(rules *validate.FieldRules) bool {
	return len(rules.GetCel()) == 0 && len(rules.GetCelExpression()) == 0 && !rules.GetRequired() && rules.GetIgnore() == validate.Ignore_IGNORE_UNSPECIFIED
}

// typed reports whether the rules have none of a type, or those of the type that is named.
func typed(rules *validate.FieldRules, name protoreflect.Name) bool {
	m := rules.ProtoReflect()
	set := m.WhichOneof(m.Descriptor().Oneofs().ByName("type"))
	return set == nil || set.Name() == name
}

// within reports whether no rule is set but those that are named. What is new to us is so found out.
func within(rules proto.Message, names ...protoreflect.Name) bool {
	known := map[protoreflect.Name]bool{"example": true}
	for _, name := range names {
		known[name] = true
	}
	sure := true
	rules.ProtoReflect().Range(func(desc protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		sure = known[desc.Name()]
		return sure
	})
	return sure && len(rules.ProtoReflect().GetUnknown()) == 0
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

package rules

import (
	"testing"

	"cel.dev/cel-go/cel"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestExpressions holds compiled expressions against CEL itself, on messages that make each of them true and false.
func TestExpressions(t *testing.T) {
	t.Parallel()
	kind := func(k descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto_Type { return &k }
	messages := []proto.Message{
		&descriptorpb.FieldDescriptorProto{},
		&descriptorpb.FieldDescriptorProto{Name: new("ünï"), Number: new(int32(3)), OneofIndex: new(int32(3)), Type: kind(1)},
		&descriptorpb.FieldDescriptorProto{Name: new("name"), Number: new(int32(-1)), OneofIndex: new(int32(-2)), Type: kind(2), Proto3Optional: new(true)},
		&descriptorpb.DescriptorProto{},
		&descriptorpb.DescriptorProto{Name: new("x"), Field: []*descriptorpb.FieldDescriptorProto{{}, {Name: new("x"), Number: new(int32(2))}}},
		&descriptorpb.DescriptorProto{Name: new("y"), Field: []*descriptorpb.FieldDescriptorProto{{Name: new("x"), Number: new(int32(1))}}, ReservedName: []string{"a"}},
	}
	field, message := messages[0], messages[3]
	tests := map[string]struct {
		of  proto.Message
		not bool // understood
	}{
		"has(this.name)":                                                   {of: field},
		"!has(this.name) || this.number > 0":                               {of: field},
		"this.name != '' && this.number < 3":                               {of: field},
		"this.type == 1 || this.type == 2 ? has(this.name) : true":         {of: field},
		"(this.number >= 0) == has(this.name)":                             {of: field},
		"(this.number > 0) != this.proto3_optional":                        {of: field},
		"this.number <= this.oneof_index":                                  {of: field},
		"this.name.size() == 3":                                            {of: field},
		"size(this.name) == 4":                                             {of: field},
		"this.name.matches('^n.m')":                                        {of: field},
		"this.field.size() > 1":                                            {of: message},
		"this.field.exists(f, f.number == 2)":                              {of: message},
		"!this.field.exists(f, has(f.name) && f.name == this.name)":        {of: message},
		"this.name == 'x' && 1u == 1u":                                     {of: message, not: true},
		"this.name == 'x'":                                                 {of: message},
		"this.field.all(f, f.number == 2)":                                 {of: message, not: true},
		"this.field.exists(f, this.field.exists(g, g.number == f.number))": {of: message, not: true},
		"this.number + 1 == 4":                                             {of: field, not: true},
		"this.name in ['name']":                                            {of: field, not: true},
		"this.reserved_name.exists(n, n == 'a')":                           {of: message, not: true},
		"this.name.matches(this.name)":                                     {of: field, not: true},
		"this.name.startsWith('n')":                                        {of: field, not: true},
	}
	for source, tc := range tests {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			desc := tc.of.ProtoReflect().Descriptor()
			env, err := cel.NewEnv(cel.Types(tc.of), cel.Variable("this", cel.ObjectType(string(desc.FullName()))))
			require.NoError(t, err)
			parsed, issues := env.Compile(source)
			require.NoError(t, issues.Err())
			program, err := env.Program(parsed)
			require.NoError(t, err)

			compiled := ofMessage(desc, source)
			require.Equal(t, tc.not, compiled == nil)
			if tc.not {
				return
			}
			outcomes := map[bool]int{}
			for _, m := range messages {
				if m.ProtoReflect().Descriptor() != desc {
					continue
				}
				want, _, err := program.Eval(map[string]any{"this": m})
				require.NoError(t, err)
				require.Equal(t, want.Value(), compiled(protoreflect.ValueOfMessage(m.ProtoReflect())), "of %v", m)
				outcomes[want.Value() == true]++
			}
			require.Len(t, outcomes, 2, "a message for which it is true and one for which it is not")
		})
	}
	require.Nil(t, ofMessage(field.ProtoReflect().Descriptor(), "this.nothing == 1"), "no such field")
	require.Nil(t, ofMessage(field.ProtoReflect().Descriptor(), "this.number"), "not a condition")
	require.Nil(t, ofMessage(field.ProtoReflect().Descriptor(), "this.number =="), "not an expression")
}

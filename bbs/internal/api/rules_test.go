package api

import (
	"math/rand/v2"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/rules"
)

// TestRequestRules compares, for every request of the contract of the BBS, what the quick check says with what the general
// validator says, on messages of which most fields are good and some are just at or beyond a limit.
func TestRequestRules(t *testing.T) {
	t.Parallel()
	protoregistry.GlobalFiles.RangeFilesByPackage("bbs.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				name := methods.Get(j).Input().FullName()
				kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
				if err != nil {
					t.Fatal(err)
				}
				t.Run(string(name), func(t *testing.T) {
					t.Parallel()
					compareRules(t, kind)
				})
			}
		}
		return true
	})
}

func compareRules(t *testing.T, kind protoreflect.MessageType) {
	t.Helper()
	g := messages{Rand: rand.New(rand.NewPCG(1, 2))} // the same messages in every run
	const rounds = 500
	good := 0
	for round := range rounds {
		m := kind.New()
		// Messages with many rules are hardly ever good by chance.
		if sample := samples[kind.Descriptor().FullName()]; sample != nil && round%2 == 0 {
			proto.Merge(m.Interface(), sample)
			g.density = 3
		} else {
			g.density = 75
		}
		made := kind.New()
		g.fill(made, 0)
		proto.Merge(m.Interface(), made.Interface())
		err := protovalidate.Validate(m.Interface())
		if surely := rules.Surely(m.Interface()); surely != (err == nil) {
			t.Fatalf("Surely = %v, the validator says %v of %v", surely, err, m.Interface())
		}
		if err == nil {
			good++
		}
	}
	if good == 0 {
		t.Fatalf("none of %d messages is good", rounds)
	}
}

// samples are good requests of the kinds with the most rules.
var samples = map[protoreflect.FullName]proto.Message{ //nolint:gochecknoglobals // a constant table
	"bbs.v1.DesireLRPRequest":      &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP("app", 1)},
	"bbs.v1.DesireTaskRequest":     &bbsv1.DesireTaskRequest{TaskGuid: "task", Domain: "cf-apps", TaskDefinition: taskDefinition()},
	"bbs.v1.StartActualLRPRequest": startRequest("app", 0, instanceKey("instance", "cell")),
}

// messages makes messages by chance.
type messages struct {
	*rand.Rand
	density int // percent of the optional fields and of the texts of a message that are filled
}

// odd is true now and then.
func (g messages) odd() bool { return g.IntN(60) == 0 }

func (g messages) fill(m protoreflect.Message, depth int) {
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		d.Seconds = 1
		if g.odd() {
			d.Seconds = []int64{0, -1, 86400, 86401, 604800, 604801, 1 << 60}[g.IntN(7)]
		}
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.ContainingOneof() != nil && m.WhichOneof(fd.ContainingOneof()) != nil && !g.odd():
		case depth > 6 && fd.Message() != nil, g.IntN(100) >= g.density && (fd.HasPresence() || g.density < 50), g.odd():
		case fd.IsMap():
			for range g.IntN(3) {
				value := m.Mutable(fd).Map().NewValue()
				m.Mutable(fd).Map().Set(g.value(fd.MapKey(), protoreflect.Value{}, depth).MapKey(), g.value(fd.MapValue(), value, depth))
			}
		case fd.IsList():
			for range g.IntN(3) {
				var item protoreflect.Value
				if fd.Message() != nil {
					item = m.Mutable(fd).List().NewElement()
				}
				m.Mutable(fd).List().Append(g.value(fd, item, depth))
			}
		default:
			var value protoreflect.Value
			if fd.Message() != nil {
				value = m.NewField(fd)
			}
			m.Set(fd, g.value(fd, value, depth))
		}
	}
}

// value makes one value; of a message it is given an empty one.
func (g messages) value(fd protoreflect.FieldDescriptor, empty protoreflect.Value, depth int) protoreflect.Value {
	odd := g.odd()
	pick := func(choices ...int64) int64 {
		if !odd {
			return 1
		}
		return choices[g.IntN(len(choices))]
	}
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		g.fill(empty.Message(), depth+1)
		return empty
	case protoreflect.StringKind:
		if odd {
			long := [...]int{0, 63, 64, 255, 256, 1024, 1025, 4097, 10241}[g.IntN(9)]
			return protoreflect.ValueOfString(strings.Repeat([]string{"a", "ü", " "}[g.IntN(3)], long))
		}
		return protoreflect.ValueOfString([]string{"a", "b", "preloaded:c"}[g.IntN(3)])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("{}"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(pick(-1, 0, 2, 3, 99)))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(pick(-2, -1, 0, 100, 101, 255, 256, 100000, 100001)))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(pick(-1, 0, 1<<40))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(pick(0, 1000, 65535, 65536)))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(pick(0, 1<<40)))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(pick(-1, 0)))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(pick(-1, 0)))
	}
	return protoreflect.Value{}
}

// BenchmarkRules is the check of the requests that come most.
func BenchmarkRules(b *testing.B) {
	for name, m := range samples {
		b.Run(string(name)+"/quick", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !rules.Surely(m) {
					b.Fatal(protovalidate.Validate(m))
				}
			}
		})
		b.Run(string(name)+"/general", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := protovalidate.Validate(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

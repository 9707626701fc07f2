package bbsv1

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// quick is a message that decodes itself.
type quick interface {
	proto.Message
	UnmarshalQuick(encoding []byte) bool
}

// quicks are empty messages of every kind that decodes itself.
func quicks() []quick {
	return []quick{&ListActualLRPsResponse{}, &ListSchedulingInfosResponse{}, &ListRoutingInfosResponse{}, &StartActualLRPRequest{}}
}

func TestUnmarshalQuickDecodesEveryField(t *testing.T) {
	t.Parallel()
	for _, kind := range quicks() {
		t.Run(string(kind.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 2))
			for density := range 300 {
				m := proto.Clone(kind)
				fill(random, m.ProtoReflect(), density%100+1)
				encoding, err := proto.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				got := kind.ProtoReflect().New().Interface().(quick)
				if !got.UnmarshalQuick(encoding) {
					t.Fatalf("refused %v", m)
				}
				clear(encoding) // what was decoded must not need it
				if !proto.Equal(m, got) {
					t.Fatalf("decoded %v of %v", got, m)
				}
			}
		})
	}
}

// fill sets about density percent of the fields of a message, and all that it can hold.
func fill(random *rand.Rand, m protoreflect.Message, density int) {
	scalar := func(fd protoreflect.FieldDescriptor) protoreflect.Value {
		switch fd.Kind() { //nolint:exhaustive // of the kinds that these messages have
		case protoreflect.StringKind:
			return protoreflect.ValueOfString([]string{"", "a", "ünïcode", "a text that is longer than the others are"}[random.IntN(4)])
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([][]byte{{}, {0xff, 0}, []byte("[]")}[random.IntN(3)])
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(random.IntN(2) == 0)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(random.IntN(300) - 100))
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(random.Uint32()))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(int64(random.Uint64()))
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(random.Uint32() >> random.IntN(32))
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(random.Uint64() >> random.IntN(64))
		}
		panic("a kind that has no values here: " + fd.Kind().String())
	}
	value := func(fd protoreflect.FieldDescriptor, empty protoreflect.Value) protoreflect.Value {
		if fd.Message() == nil {
			return scalar(fd)
		}
		fill(random, empty.Message(), density)
		return empty
	}
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		switch {
		case random.IntN(100) >= density:
		case fd.IsMap():
			for range random.IntN(12) {
				entries := m.Mutable(fd).Map()
				entries.Set(scalar(fd.MapKey()).MapKey(), value(fd.MapValue(), entries.NewValue()))
			}
		case fd.IsList():
			for range random.IntN(4) {
				items := m.Mutable(fd).List()
				if fd.Message() == nil {
					items.Append(scalar(fd))
				} else {
					items.Append(value(fd, items.NewElement()))
				}
			}
		case fd.Message() != nil:
			m.Set(fd, value(fd, m.NewField(fd)))
		default:
			m.Set(fd, scalar(fd))
		}
	}
}

// FuzzUnmarshalQuick: of what is accepted, the generated code makes the same.
func FuzzUnmarshalQuick(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for kind, m := range quicks() {
		for range 5 {
			fill(random, m.ProtoReflect(), 90)
			encoding, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(kind), encoding)
			proto.Reset(m)
		}
	}
	f.Add(uint8(0), []byte{0x0a, 0x04, 0x0a, 0x02, 0x0a, 0x00}) // an empty guid
	f.Add(uint8(3), []byte{0x0a, 0x00, 0x0a, 0x00})             // a key twice
	f.Fuzz(func(t *testing.T, kind uint8, encoding []byte) {
		all := quicks()
		got := all[int(kind)%len(all)]
		if !got.UnmarshalQuick(encoding) {
			return
		}
		want := got.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(encoding, want); err != nil {
			t.Fatalf("accepted what the generated code refuses: %v", err)
		}
		if !proto.Equal(want, got) {
			t.Fatalf("decoded %v, the generated code %v", got, want)
		}
	})
}

func BenchmarkUnmarshalQuick(b *testing.B) {
	for _, m := range quicks() {
		fill(rand.New(rand.NewPCG(5, 6)), m.ProtoReflect(), 100)
		encoding, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		name := string(m.ProtoReflect().Descriptor().Name())
		b.Run(name+"/quick", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.ProtoReflect().New().Interface().(quick).UnmarshalQuick(encoding)
			}
		})
		b.Run(name+"/generated", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = proto.Unmarshal(encoding, m.ProtoReflect().New().Interface())
			}
		})
	}
}

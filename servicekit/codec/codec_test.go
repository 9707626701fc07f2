package codec

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// text decodes itself if asked to, and else leaves rubbish.
type text struct {
	*wrapperspb.StringValue
	quick bool
}

func (t *text) UnmarshalQuick(encoding []byte) bool {
	t.Value = "quick: " + string(encoding[2:])
	return t.quick
}

type encoded []byte

func (e encoded) Buffers() mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(e)} }

func TestCodec(t *testing.T) {
	t.Parallel()
	c := New()
	require.Equal(t, "proto", c.Name())
	encoding, err := proto.Marshal(wrapperspb.String("hello"))
	require.NoError(t, err)
	data := mem.BufferSlice{mem.SliceBuffer(encoding[:3]), mem.SliceBuffer(encoding[3:])}

	sent, err := c.Marshal(encoded(encoding))
	require.NoError(t, err)
	require.Equal(t, encoding, sent.Materialize(), "what is encoded is sent as it is")
	sent, err = c.Marshal(wrapperspb.String("hello"))
	require.NoError(t, err)
	require.Equal(t, encoding, sent.Materialize())

	var plain wrapperspb.StringValue
	require.NoError(t, c.Unmarshal(data, &plain))
	require.Equal(t, "hello", plain.GetValue())
	for quick, want := range map[bool]string{true: "quick: hello", false: "hello"} {
		got := &text{StringValue: &wrapperspb.StringValue{}, quick: quick}
		require.NoError(t, c.Unmarshal(data, got))
		require.Equal(t, want, got.GetValue())
	}
	bad := mem.BufferSlice{mem.SliceBuffer([]byte{0x0a, 0x05, 'x'})}
	require.Error(t, c.Unmarshal(bad, &text{StringValue: &wrapperspb.StringValue{}}))
	require.Error(t, c.Unmarshal(bad, &plain))
}

// Package codec owns how messages become bytes on the connections of package grpcserver and grpcclient: as gRPC does it for
// protobuf, with two shortcuts for the messages that come most. What is on the wire is the same with and without them.
//
// It knows no message.
package codec

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec for all that has no shortcut
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

const name = "proto"

// Encoded is a message that is encoded already. A handler passes it to SendMsg of its stream in the place of the message.
type Encoded interface {
	// Buffers returns the encoding. gRPC frees it when it is sent. It is called once.
	Buffers() mem.BufferSlice
}

// Quick is a message with a faster way to be decoded.
type Quick interface {
	proto.Message
	// UnmarshalQuick returns false if an encoding is not of the ordinary form. It must not keep the encoding.
	UnmarshalQuick(encoding []byte) bool
}

// codec is the codec of gRPC with the shortcuts.
type codec struct {
	encoding.CodecV2
}

// New returns a codec, which is safe for concurrent use.
func New() encoding.CodecV2 { return codec{encoding.GetCodecV2(name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if encoded, ok := v.(Encoded); ok {
		return encoded.Buffers(), nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	quick, ok := v.(Quick)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	if quick.UnmarshalQuick(buffer.ReadOnlyData()) {
		return nil
	}
	// It may be filled in part; this empties it first.
	if err := proto.Unmarshal(buffer.ReadOnlyData(), quick); err != nil {
		return fmt.Errorf("decoding a message: %w", err)
	}
	return nil
}

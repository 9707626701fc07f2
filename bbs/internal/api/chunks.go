package api

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// A chunk of a list has up to chunkBytes, unless one record alone has more, and chunkRows records: large enough that the cost of
	// a message does not count, small enough to be sent while the next one is made. It is a size of buffers that gRPC keeps for
	// reuse; the next one is 1 MiB.
	chunkBytes = 32 << 10
	chunkRows  = 500
	// firstBytes is the buffer that a list begins with, enough for the instances of most cells.
	firstBytes = 4 << 10
)

// chunks sends a list in chunks. Records are encoded already, or encoded once into the buffer that is sent: no message is built of
// them, and nothing is copied again before it is encrypted. On the wire it is the same.
type chunks struct {
	stream grpc.ServerStream
	field  protowire.Number
	// head is the encoding of what every chunk says besides its records.
	head []byte
	// wrap, if not 0, is the field of the message that is sent that holds the chunk.
	wrap protowire.Number

	// buffer, if not nil, begins with head and has rows records.
	buffer *[]byte
	rows   int
	sent   bool
}

// newChunks begins a list of records in the first field of responses like head.
func newChunks(stream grpc.ServerStream, head proto.Message) (*chunks, error) {
	encoded, err := proto.Marshal(head)
	return &chunks{stream: stream, field: 1, head: encoded}, err
}

// add appends one encoded record.
func (c *chunks) add(record []byte) error {
	if err := c.room(len(record)); err != nil {
		return err
	}
	b := protowire.AppendTag(*c.buffer, c.field, protowire.BytesType)
	*c.buffer = protowire.AppendBytes(b, record)
	return c.added()
}

// addEncoded appends one record of up to size bytes that encode appends to what it is given.
func (c *chunks) addEncoded(size int, encode func([]byte) []byte) error {
	return c.add(encode(make([]byte, 0, size)))
}

// addMessage appends one record that is not encoded yet.
func (c *chunks) addMessage(m proto.Message) error {
	size := proto.Size(m)
	if err := c.room(size); err != nil {
		return err
	}
	b := protowire.AppendTag(*c.buffer, c.field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // a length
	b, err := (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(b, m)
	if err != nil {
		return err
	}
	*c.buffer = b
	return c.added()
}

// room makes room in the buffer for a record of a size, and sends what is there if that does not fit any more.
func (c *chunks) room(size int) error {
	const overhead = 8 // of a field around a record
	size += overhead
	pool := mem.DefaultBufferPool()
	if c.buffer != nil && len(*c.buffer)+size > cap(*c.buffer) {
		if c.rows > 0 && len(*c.buffer)+size > chunkBytes {
			if err := c.flush(); err != nil {
				return err
			}
		} else {
			larger := pool.Get(max(chunkBytes, len(*c.buffer)+size))
			*larger = append((*larger)[:0], *c.buffer...)
			pool.Put(c.buffer)
			c.buffer = larger
		}
	}
	if c.buffer == nil {
		first := firstBytes
		if c.sent || len(c.head)+size > first {
			first = max(chunkBytes, len(c.head)+size)
		}
		c.buffer = pool.Get(first)
		*c.buffer = append((*c.buffer)[:0], c.head...)
	}
	return nil
}

func (c *chunks) added() error {
	c.rows++
	if c.rows >= chunkRows {
		return c.flush()
	}
	return nil
}

// flush sends the buffer, which is gRPC's from then on.
func (c *chunks) flush() error {
	out := encoded{mem.NewBuffer(c.buffer, mem.DefaultBufferPool())}
	if c.wrap != 0 {
		before := protowire.AppendVarint(protowire.AppendTag(nil, c.wrap, protowire.BytesType), uint64(len(*c.buffer)))
		out = encoded{mem.SliceBuffer(before), out[0]}
	}
	c.buffer, c.rows, c.sent = nil, 0, true
	return c.stream.SendMsg(out)
}

// end sends what is left, and for an empty list one chunk without records, so that the reader learns
// the revision.
func (c *chunks) end() error {
	if c.rows == 0 && c.sent {
		return nil
	}
	if err := c.room(0); err != nil {
		return err
	}
	return c.flush()
}

// encoded is a message that is encoded already; see package codec.
type encoded mem.BufferSlice

// Buffers implements codec.Encoded.
func (e encoded) Buffers() mem.BufferSlice { return mem.BufferSlice(e) }

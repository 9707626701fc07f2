package api

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// A chunk of a list has up to chunkBytes, softly, and chunkRows records: large enough that the
	// cost of a message does not count, small enough to be sent while the next one is made.
	chunkBytes = 256 << 10
	chunkRows  = 500
)

// chunks sends a list in chunks. Records are encoded already, or encoded once into the buffer; the
// message that carries them only has them spliced in, as fields that it does not know. On the wire
// that is the same as the field itself, and it saves building and walking hundreds of messages.
type chunks struct {
	field protowire.Number
	// send sends one chunk whose records are the raw bytes, which it must not keep.
	send func(raw []byte) error

	buffer  []byte
	scratch []byte
	rows    int
	sent    bool
}

// add appends one encoded record.
func (c *chunks) add(record []byte) error {
	c.buffer = protowire.AppendTag(c.buffer, c.field, protowire.BytesType)
	c.buffer = protowire.AppendBytes(c.buffer, record)
	return c.added()
}

// addEncoded appends one record that encode appends to what it is given.
func (c *chunks) addEncoded(encode func([]byte) []byte) error {
	c.scratch = encode(c.scratch[:0])
	return c.add(c.scratch)
}

// addMessage appends one record that is not encoded yet.
func (c *chunks) addMessage(m proto.Message) error {
	c.buffer = protowire.AppendTag(c.buffer, c.field, protowire.BytesType)
	c.buffer = protowire.AppendVarint(c.buffer, uint64(proto.Size(m))) //nolint:gosec // a length
	var err error
	if c.buffer, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(c.buffer, m); err != nil {
		return err
	}
	return c.added()
}

func (c *chunks) added() error {
	c.rows++
	if c.rows >= chunkRows || len(c.buffer) >= chunkBytes {
		return c.flush()
	}
	return nil
}

func (c *chunks) flush() error {
	err := c.send(c.buffer)
	c.buffer, c.rows, c.sent = c.buffer[:0], 0, true
	return err
}

// end sends what is left, and for an empty list one chunk without records, so that the reader learns
// the revision.
func (c *chunks) end() error {
	if c.rows > 0 || !c.sent {
		return c.flush()
	}
	return nil
}

// splice returns the message with raw fields added.
func splice[M proto.Message](m M, raw []byte) M {
	m.ProtoReflect().SetUnknown(raw)
	return m
}

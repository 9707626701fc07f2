package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// sender sends the statements of one batch as one pipeline. Parameters are made in the binary form of Postgres, most of them arrays
// with one element for each row: the form that is made for any type, by looking at it, cost more than all else of a write.
//
// A statement is made by calling the methods for its parameters in order, and then send.
type sender struct {
	pipeline *pgconn.Pipeline
	// buf holds the parameters of the statement that is being made, ends where each of them ends.
	buf  []byte
	ends []int
	// values and formats are what the pipeline takes.
	values  [][]byte
	formats []int16
}

// maxKept is how much memory a sender keeps for the next batch.
const maxKept = 1 << 20

// reset begins the statements of a pipeline.
func (s *sender) reset(pipeline *pgconn.Pipeline) {
	s.pipeline = pipeline
	if cap(s.buf) > maxKept {
		s.buf = nil
	}
}

// send adds the prepared statement to the pipeline, which copies the parameters.
func (s *sender) send(name string) {
	s.values, s.formats = s.values[:0], s.formats[:0]
	start := 0
	for _, end := range s.ends {
		s.values, s.formats = append(s.values, s.buf[start:end]), append(s.formats, 1)
		start = end
	}
	s.pipeline.SendQueryPrepared(name, s.values, s.formats, nil)
	s.buf, s.ends = s.buf[:0], s.ends[:0]
}

// end completes a parameter.
func (s *sender) end() { s.ends = append(s.ends, len(s.buf)) }

// long adds a bigint.
func (s *sender) long(v int64) {
	s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(v)) //nolint:gosec // two's complement
	s.end()
}

// integer adds an integer.
func (s *sender) integer(v int) {
	s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(v)) //nolint:gosec // two's complement
	s.end()
}

// blob adds a bytea or a uuid.
func (s *sender) blob(v []byte) {
	s.buf = append(s.buf, v...)
	s.end()
}

// moment adds a timestamptz.
func (s *sender) moment(v time.Time) {
	// Microseconds since this moment are the binary form.
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	s.long(v.UnixMicro() - epoch.UnixMicro())
}

// The types of elements of arrays.
const (
	oidBool  = 16
	oidBytea = 17
	oidInt8  = 20
	oidInt2  = 21
	oidInt4  = 23
	oidText  = 25
)

// array begins an array of one dimension with n elements, which are to follow.
func (s *sender) array(n int, element uint32) {
	const dimensions, mayHaveNulls, lowerBound = 1, 1, 1
	for _, v := range [...]uint32{dimensions, mayHaveNulls, element, uint32(n), lowerBound} { //nolint:gosec // a length
		s.buf = binary.BigEndian.AppendUint32(s.buf, v)
	}
}

// size begins an element.
func (s *sender) size(n int) {
	s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(n)) //nolint:gosec // a length, or -1 for null
}

// texts adds a text[]: the results of at for each row.
func (s *sender) texts(n int, at func(i int) string) {
	s.array(n, oidText)
	for i := range n {
		v := at(i)
		s.size(len(v))
		s.buf = append(s.buf, v...)
	}
	s.end()
}

// textsOrNull adds a text[]; nil is null.
func (s *sender) textsOrNull(values []*string) {
	s.array(len(values), oidText)
	for _, v := range values {
		if v == nil {
			s.size(-1)
			continue
		}
		s.size(len(*v))
		s.buf = append(s.buf, *v...)
	}
	s.end()
}

// blobs adds a bytea[]; nil is null.
func (s *sender) blobs(n int, at func(i int) []byte) {
	s.array(n, oidBytea)
	for i := range n {
		v := at(i)
		if v == nil {
			s.size(-1)
			continue
		}
		s.size(len(v))
		s.buf = append(s.buf, v...)
	}
	s.end()
}

// bools adds a bool[].
func (s *sender) bools(n int, at func(i int) bool) {
	s.array(n, oidBool)
	for i := range n {
		s.size(1)
		if at(i) {
			s.buf = append(s.buf, 1)
		} else {
			s.buf = append(s.buf, 0)
		}
	}
	s.end()
}

// shorts adds a smallint[].
func (s *sender) shorts(n int, at func(i int) uint8) {
	s.array(n, oidInt2)
	for i := range n {
		s.size(2)
		s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(at(i)))
	}
	s.end()
}

// integers adds an integer[].
func (s *sender) integers(n int, at func(i int) int32) {
	s.array(n, oidInt4)
	for i := range n {
		s.size(4)
		s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(at(i))) //nolint:gosec // two's complement
	}
	s.end()
}

// longs adds a bigint[].
func (s *sender) longs(n int, at func(i int) int64) {
	s.array(n, oidInt8)
	for i := range n {
		s.size(8)
		s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(at(i))) //nolint:gosec // two's complement
	}
	s.end()
}

// prepare makes all statements of batches known to a connection.
func prepare(ctx context.Context, conn *pgconn.PgConn) error {
	pipeline := conn.StartPipeline(ctx)
	for name, sql := range statements() {
		pipeline.SendPrepare(name, sql, nil)
	}
	if err := pipeline.Sync(); err != nil {
		_ = pipeline.Close() // the connection is broken
		return fmt.Errorf("preparing statements: %w", err)
	}
	if err := pipeline.Close(); err != nil {
		return fmt.Errorf("preparing statements: %w", err)
	}
	return nil
}

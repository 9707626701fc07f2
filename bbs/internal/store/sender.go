package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"diego.internal/bbs/internal/seal"
)

// sender makes the messages of one batch and sends them at once. Statements are prepared, and their parameters are in the binary form
// of Postgres, most of them arrays with one element for each row. Nothing in between looks at a parameter or copies it: that cost
// more than all else of a write.
//
// A statement is made by begin, the methods for its parameters in their order, and execute. After the last one, complete tells
// whether all went well, and exchange sends.
type sender struct {
	// buf holds the messages. It keeps its memory from batch to batch.
	buf []byte
	// statement is where the message that binds parameters to a statement begins, counted where it tells their number.
	statement, counted int
	parameters         uint16
	// plain holds what is to be sealed.
	plain message
	// err is the first error in making the messages.
	err error
}

const (
	// maxKept is how much memory a sender keeps for the next batch.
	maxKept = 1 << 20
	// maxMessage is the length of a message that Postgres ends the connection for.
	maxMessage = 1 << 30
)

var errTooLong = errors.New("the changes of a batch are too large for one statement")

// severityError is the severity of what ends a transaction but not its connection.
const severityError = "ERROR"

// The messages of the protocol that a batch consists of.
const (
	messageBind    = 'B'
	messageExecute = 'E'
	messageSync    = 'S'
)

// reset begins the messages of a batch.
func (s *sender) reset() {
	if cap(s.buf) > maxKept {
		s.buf, s.plain = nil, nil
	}
	s.buf, s.err = s.buf[:0], nil
}

// fail remembers the first error.
func (s *sender) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// open begins a message, or a parameter if kind is 0, and close completes it. What is between them follows its length.
func (s *sender) open(kind byte) int {
	if kind != 0 {
		s.buf = append(s.buf, kind)
	}
	s.buf = append(s.buf, 0, 0, 0, 0)
	return len(s.buf)
}

// close completes a message, whose length counts itself.
func (s *sender) close(start int) {
	size := len(s.buf) - start + 4
	if size >= maxMessage {
		s.fail(errTooLong)
	}
	binary.BigEndian.PutUint32(s.buf[start-4:], uint32(size)) //nolint:gosec // checked in the lines before
}

// begin begins to execute a prepared statement.
func (s *sender) begin(name string) {
	s.statement = s.open(messageBind)
	s.buf = append(s.buf, 0) // the portal without a name
	s.buf = append(append(s.buf, name...), 0)
	const oneFormat, binaryFormat = 1, 1 // for all parameters
	s.buf = binary.BigEndian.AppendUint16(s.buf, oneFormat)
	s.buf = binary.BigEndian.AppendUint16(s.buf, binaryFormat)
	s.counted, s.parameters = len(s.buf), 0
	s.buf = append(s.buf, 0, 0)
}

// execute completes a statement after its last parameter.
func (s *sender) execute() {
	binary.BigEndian.PutUint16(s.buf[s.counted:], s.parameters)
	s.buf = append(s.buf, 0, 0) // no formats of results: nobody reads any
	s.close(s.statement)
	message := s.open(messageExecute)
	s.buf = append(s.buf, 0, 0, 0, 0, 0) // the portal without a name, all rows
	s.close(message)
}

// complete ends the messages: as no statement begins a transaction, all up to the sync are one, which ends with it. It returns an
// error if they could not be made.
func (s *sender) complete() error {
	s.close(s.open(messageSync))
	return s.err
}

// exchange sends the messages and waits until Postgres has committed them. Nobody else may use the connection, and all that was read
// of it before must be complete.
//
// It returns a *pgconn.PgError of severity ERROR if Postgres refused a statement or the commit. With any other error the
// connection is of no use any more, and what became of the batch is not known.
func (s *sender) exchange(conn *pgconn.PgConn, deadline time.Time) error {
	if err := conn.Conn().SetDeadline(deadline); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	// The answers to a batch, which has few statements, are far too short to hold up Postgres while we write.
	if _, err := conn.Conn().Write(s.buf); err != nil {
		return fmt.Errorf("sending a batch: %w", err)
	}
	var refusal error
	for {
		message, err := conn.Frontend().Receive()
		if err != nil {
			return fmt.Errorf("waiting for the answer to a batch: %w", err)
		}
		switch message := message.(type) {
		case *pgproto3.ErrorResponse:
			refusal = pgconn.ErrorResponseToPgError(message)
			if message.SeverityUnlocalized != severityError {
				return refusal // Postgres has ended the connection and says no more
			}
		case *pgproto3.ReadyForQuery:
			return refusal
		}
	}
}

// parameter begins a parameter, which end completes.
func (s *sender) parameter() int {
	s.parameters++
	return s.open(0)
}

// end completes a parameter, whose length does not count itself.
func (s *sender) end(start int) {
	binary.BigEndian.PutUint32(s.buf[start-4:], uint32(len(s.buf)-start)) //nolint:gosec // less than its message, which is checked
}

// long adds a bigint.
func (s *sender) long(v int64) {
	start := s.parameter()
	s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(v)) //nolint:gosec // two's complement
	s.end(start)
}

// integer adds an integer.
func (s *sender) integer(v int) {
	start := s.parameter()
	s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(v)) //nolint:gosec // two's complement
	s.end(start)
}

// blob adds a bytea or a uuid.
func (s *sender) blob(v []byte) {
	start := s.parameter()
	s.buf = append(s.buf, v...)
	s.end(start)
}

// sealed adds a bytea that is sealed.
func (s *sender) sealed(keys sealer, plain []byte, place seal.Place) {
	start := s.parameter()
	s.seal(keys, plain, place)
	s.end(start)
}

// seal appends a sealed value.
func (s *sender) seal(keys sealer, plain []byte, place seal.Place) {
	sealed, err := keys.AppendSeal(s.buf, plain, place)
	if err != nil {
		s.fail(err)
		return
	}
	s.buf = sealed
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

// array begins a parameter that is an array of one dimension with n elements, which are to follow.
func (s *sender) array(n int, element uint32) int {
	start := s.parameter()
	const dimensions, mayHaveNulls, lowerBound = 1, 1, 1
	for _, v := range [...]uint32{dimensions, mayHaveNulls, element, uint32(n), lowerBound} { //nolint:gosec // a length
		s.buf = binary.BigEndian.AppendUint32(s.buf, v)
	}
	return start
}

// size begins an element.
func (s *sender) size(n int) {
	s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(n)) //nolint:gosec // a length, or -1 for null
}

// texts adds a text[]: the results of at for each row.
func (s *sender) texts(n int, at func(i int) string) {
	start := s.array(n, oidText)
	for i := range n {
		v := at(i)
		s.size(len(v))
		s.buf = append(s.buf, v...)
	}
	s.end(start)
}

// textsOrNull adds a text[]; nil is null.
func (s *sender) textsOrNull(values []*string) {
	start := s.array(len(values), oidText)
	for _, v := range values {
		if v == nil {
			s.size(-1)
			continue
		}
		s.size(len(*v))
		s.buf = append(s.buf, *v...)
	}
	s.end(start)
}

// blobs adds a bytea[]; nil is null.
func (s *sender) blobs(n int, at func(i int) []byte) {
	start := s.array(n, oidBytea)
	for i := range n {
		v := at(i)
		if v == nil {
			s.size(-1)
			continue
		}
		s.size(len(v))
		s.buf = append(s.buf, v...)
	}
	s.end(start)
}

// appended adds a bytea[] of which add appends the element of each row to buf; where there is none it is null.
func (s *sender) appended(n int, is func(i int) bool, add func(i int)) {
	start := s.array(n, oidBytea)
	for i := range n {
		if !is(i) {
			s.size(-1)
			continue
		}
		element := s.open(0)
		add(i)
		s.end(element)
	}
	s.end(start)
}

// bools adds a bool[].
func (s *sender) bools(n int, at func(i int) bool) {
	start := s.array(n, oidBool)
	for i := range n {
		s.size(1)
		if at(i) {
			s.buf = append(s.buf, 1)
		} else {
			s.buf = append(s.buf, 0)
		}
	}
	s.end(start)
}

// shorts adds a smallint[].
func (s *sender) shorts(n int, at func(i int) uint8) {
	start := s.array(n, oidInt2)
	for i := range n {
		s.size(2)
		s.buf = binary.BigEndian.AppendUint16(s.buf, uint16(at(i)))
	}
	s.end(start)
}

// integers adds an integer[].
func (s *sender) integers(n int, at func(i int) int32) {
	start := s.array(n, oidInt4)
	for i := range n {
		s.size(4)
		s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(at(i))) //nolint:gosec // two's complement
	}
	s.end(start)
}

// longs adds a bigint[].
func (s *sender) longs(n int, at func(i int) int64) {
	start := s.array(n, oidInt8)
	for i := range n {
		s.size(8)
		s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(at(i))) //nolint:gosec // two's complement
	}
	s.end(start)
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

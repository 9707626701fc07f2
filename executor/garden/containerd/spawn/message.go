package spawn

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"diego.internal/executor/garden/containerd/rights"
)

// kind of a message. Numbers never change their meaning: an init may be years older than the engine.
type kind uint8

const (
	askStart  kind = 1 // with the three files of the process and a file that holds its specification
	askSignal kind = 2
	askState  kind = 3
	askForget kind = 4
	tellReply kind = 16
	tellExit  kind = 17
)

// outcome of a request.
type outcome uint8

const (
	outcomeDone    outcome = 0
	outcomeUnknown outcome = 1
	outcomeTaken   outcome = 2
	outcomeFailed  outcome = 3 // nothing is left of the start; stage and number say why
	outcomeBad     outcome = 4 // the request is not understood
)

// message is any message; which fields mean something depends on its kind. All have one form, so that an end which is
// older than the other can answer what it does not know.
type message struct {
	kind kind
	// number of a request and its reply; of an exit, that of the request that started the process.
	number  uint64
	id      string // requests
	signal  uint8  // askSignal
	outcome outcome
	stage   Stage
	errno   uint32
	start   uint64 // replies to askState: the number of the request that started it
	exited  bool
	code    uint32 // of a process that has exited
}

// headBytes is the size of a message without the id.
const headBytes = 1 + 8 + 1 + 1 + 1 + 4 + 8 + 1 + 4

// maxMessage bounds what is read at a time.
const maxMessage = headBytes + MaxID

func (m *message) encode() []byte {
	b := make([]byte, 0, headBytes+len(m.id))
	b = append(b, byte(m.kind))
	b = binary.BigEndian.AppendUint64(b, m.number)
	b = append(b, m.signal, byte(m.outcome), byte(m.stage))
	b = binary.BigEndian.AppendUint32(b, m.errno)
	b = binary.BigEndian.AppendUint64(b, m.start)
	exited := byte(0)
	if m.exited {
		exited = 1
	}
	b = append(b, exited)
	b = binary.BigEndian.AppendUint32(b, m.code)
	return append(b, m.id...)
}

func decode(b []byte) (message, error) {
	if len(b) < headBytes || len(b) > maxMessage {
		return message{}, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	return message{
		kind:    kind(b[0]),
		number:  binary.BigEndian.Uint64(b[1:]),
		signal:  b[9],
		outcome: outcome(b[10]),
		stage:   Stage(b[11]),
		errno:   binary.BigEndian.Uint32(b[12:]),
		start:   binary.BigEndian.Uint64(b[16:]),
		exited:  b[24] != 0,
		code:    binary.BigEndian.Uint32(b[25:]),
		id:      string(b[headBytes:]),
	}, nil
}

// receive waits for one message and returns it with its files, which the caller closes, also after an error.
func receive(socket *os.File) (message, []int, error) {
	// One byte more than there may be, so that longer ones are noticed.
	var content [maxMessage + 1]byte
	n, files, err := rights.Receive(socket, content[:])
	if err != nil {
		return message{}, files, err
	}
	m, err := decode(content[:n])
	return m, files, err
}

// fail makes a reply say that a start has failed.
func (m *message) fail(e *StartError) {
	m.outcome, m.stage, m.errno = outcomeFailed, e.Stage, uint32(e.Errno) //nolint:gosec // far below
}

// err is what a reply says.
func (m *message) err() error {
	switch m.outcome {
	case outcomeDone:
		return nil
	case outcomeUnknown:
		return ErrUnknown
	case outcomeTaken:
		return ErrTaken
	case outcomeFailed:
		return &StartError{Stage: m.stage, Errno: unix.Errno(m.errno)}
	case outcomeBad:
	}
	return fmt.Errorf("%w: outcome %d", ErrMessage, m.outcome)
}

// Specifications are written by the engine and read by Launch, by way of a file. Lists and strings begin with their
// lengths. Fields are only ever added at the end: a reader leaves alone what it does not know and takes what is missing
// for zero.

func (p *Process) encode() []byte {
	var b []byte
	b = appendStrings(b, p.Args)
	b = appendStrings(b, p.Env)
	b = appendString(b, p.Dir)
	b = binary.AppendUvarint(b, uint64(p.UID))
	b = binary.AppendUvarint(b, uint64(p.GID))
	b = binary.AppendUvarint(b, uint64(len(p.Groups)))
	for _, group := range p.Groups {
		b = binary.AppendUvarint(b, uint64(group))
	}
	return binary.AppendUvarint(b, p.OpenFiles)
}

func decodeProcess(b []byte) (Process, error) {
	r := &reader{rest: b}
	p := Process{Args: r.strings(), Env: r.strings(), Dir: r.text(), UID: uint32(r.number(1<<32 - 1)), GID: uint32(r.number(1<<32 - 1))} //nolint:gosec // bounded
	for range r.number(uint64(len(r.rest))) {
		p.Groups = append(p.Groups, uint32(r.number(1<<32-1))) //nolint:gosec // bounded
	}
	p.OpenFiles = r.number(1<<64 - 1)
	if r.bad || len(p.Args) == 0 {
		return Process{}, fmt.Errorf("%w: specification of %d bytes", ErrMessage, len(b))
	}
	return p, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, all []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendString(b, s)
	}
	return b
}

// reader takes a specification apart. Once something is wrong everything that follows is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(most uint64) uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > most || r.bad {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() string {
	n := r.number(uint64(len(r.rest)))
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) strings() []string {
	var all []string
	for range r.number(uint64(len(r.rest))) {
		all = append(all, r.text())
	}
	return all
}

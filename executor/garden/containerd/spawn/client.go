package spawn

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"diego.internal/executor/garden/containerd/rights"
)

const (
	// reachTimeout bounds the wait for an init that was started a moment ago.
	reachTimeout = 10 * time.Second
	// reachAgain is the first pause between looks whether it is ready; each is half as long again.
	reachAgain = 200 * time.Microsecond
)

// ErrRefused says that the kernel does not let us have a file of the init: it is older than 5.6, or forbids traces.
var ErrRefused = errors.New("files of the init cannot be had")

// Client is a connection to one init. It is safe for concurrent use. One engine at a time may have one: the replies to two
// would be shared among them.
type Client struct {
	socket *os.File
	gone   chan struct{} // the init has ended, or Close was called

	mu      sync.Mutex
	next    uint64
	replies map[uint64]chan message // that are waited for
	living  map[uint64]*Child       // whose exit is waited for, by the request that started them
}

// Reach connects to the init with process id pid, and waits for it to be ready if it has just been started, for 10 s at
// most. Confirm is asked, once the process is held, whether it is the one that is meant: numbers are used again.
func Reach(ctx context.Context, pid int, confirm func() bool) (*Client, error) {
	socket, err := reach(ctx, pid, confirm)
	if err != nil {
		return nil, fmt.Errorf("reaching init %d: %w", pid, err)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	c := &Client{
		socket: socket, gone: make(chan struct{}),
		// What a former engine has left unread must not be taken for ours.
		next:    binary.BigEndian.Uint64(random[:]),
		replies: map[uint64]chan message{}, living: map[uint64]*Child{},
	}
	go c.read()
	return c, nil
}

func reach(ctx context.Context, pid int, confirm func() bool) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, errors.New("it does not get ready"))
	defer cancel()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, refusal(err)
	}
	defer func() { _ = unix.Close(process) }()
	if !confirm() {
		return nil, ErrGone
	}
	for pause := reachAgain; ; pause += pause / 2 {
		fd, err := unix.PidfdGetfd(process, engineDescriptor, 0)
		if err == nil {
			return check(fd, pid)
		}
		if !errors.Is(err, unix.EBADF) {
			return nil, refusal(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

func refusal(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// check makes sure that what we took is what it should be.
func check(fd, pid int) (*os.File, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && kind != unix.SOCK_SEQPACKET {
		err = unix.EPROTOTYPE
	}
	var maker *unix.Ucred
	if err == nil {
		maker, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	}
	if err == nil && int(maker.Pid) != pid {
		err = unix.EBADMSG
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrRefused, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "init"), nil
}

// Close lets go of the init; processes go on. Calls that are under way return ErrGone.
func (c *Client) Close() error {
	err := c.socket.Close()
	<-c.gone
	return err
}

// Gone is closed when the init has ended, with all processes of its container, or Close was called.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// read hands out what the init says, until it has ended.
func (c *Client) read() {
	defer close(c.gone)
	for {
		m, files, err := receive(c.socket)
		rights.CloseAll(files) // an init never sends any
		switch {
		case errors.Is(err, ErrMessage), errors.Is(err, rights.ErrTooLong):
			continue // the container's own loss
		case err != nil:
			return
		}
		switch m.kind {
		case tellReply:
			c.replied(m)
		case tellExit:
			c.exited(m.number, m.code)
		case askStart, askSignal, askState, askForget:
		}
	}
}

func (c *Client) replied(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if waiting := c.replies[m.number]; waiting != nil {
		delete(c.replies, m.number)
		waiting <- m // there is room for one
	}
}

func (c *Client) exited(start uint64, code uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if child := c.living[start]; child != nil {
		delete(c.living, start)
		child.code = int(min(code, maxCode))
		close(child.exited)
	}
}

// maxCode is the highest that a process can have.
const maxCode = 255

// ask sends a request and waits for its reply. A child that begins with it is entered beforehand: its exit may come first.
func (c *Client) ask(ctx context.Context, request message, begins *Child, files ...*os.File) (message, error) {
	reply := make(chan message, 1)
	c.mu.Lock()
	c.next++
	request.number = c.next
	c.replies[request.number] = reply
	if begins != nil {
		begins.start = request.number
		c.living[request.number] = begins
	}
	c.mu.Unlock()
	if err := rights.Send(c.socket, request.encode(), files...); err != nil {
		c.give(request.number, begins)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed) {
			return message{}, ErrGone
		}
		return message{}, err
	}
	select {
	case m := <-reply:
		if err := m.err(); err != nil {
			c.give(request.number, begins)
			return m, err
		}
		return m, nil
	case <-c.gone:
		c.give(request.number, begins)
		return message{}, ErrGone
	case <-ctx.Done():
		c.give(request.number, begins)
		return message{}, context.Cause(ctx)
	}
}

// give forgets a request that nobody waits for any more.
func (c *Client) give(number uint64, begins *Child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.replies, number)
	if begins != nil {
		delete(c.living, begins.start)
	}
}

// Child is a process that the init started and has not forgotten.
type Child struct {
	client *Client
	id     string
	start  uint64
	exited chan struct{}
	code   int // valid when exited is closed
}

// Start starts a process and returns when it runs its program. Its files are stdin, stdout and stderr; they may be closed
// afterwards. It returns ErrTaken, or a StartError that says why there is no process. When ctx ends first, whether there is one
// can be found out by Find.
func (c *Client) Start(ctx context.Context, id string, p Process, files [3]*os.File) (*Child, error) {
	if id == "" || len(id) > MaxID {
		return nil, fmt.Errorf("starting process %q: %w: length of the id", id, ErrMessage)
	}
	specification, err := p.file()
	if err != nil {
		return nil, fmt.Errorf("starting process %q: %w", id, err)
	}
	defer func() { _ = specification.Close() }()
	child := &Child{client: c, id: id, exited: make(chan struct{})}
	if _, err := c.ask(ctx, message{kind: askStart, id: id}, child, files[0], files[1], files[2], specification); err != nil {
		return nil, fmt.Errorf("starting process %q: %w", id, err)
	}
	return child, nil
}

// file holds the specification: it may be longer than a message, and the init has no use for it.
func (p *Process) file() (*os.File, error) {
	fd, err := unix.MemfdCreate("process", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a file for the specification: %w", err)
	}
	file := os.NewFile(uintptr(fd), "process")
	if _, err := file.Write(p.encode()); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the specification: %w", err), file.Close())
	}
	return file, nil
}

// Find takes up a process that this or a former engine started. It returns ErrUnknown.
func (c *Client) Find(ctx context.Context, id string) (*Child, error) {
	m, err := c.ask(ctx, message{kind: askState, id: id}, nil)
	if err != nil {
		return nil, fmt.Errorf("looking for process %q: %w", id, err)
	}
	child := c.expect(id, m.start)
	// Only now its exit would find somebody, and it may have come before.
	if m, err = c.ask(ctx, message{kind: askState, id: id}, nil); err != nil {
		return nil, fmt.Errorf("looking for process %q: %w", id, err)
	}
	if m.exited {
		c.exited(m.start, m.code)
	}
	return child, nil
}

// expect waits for the exit of a process.
func (c *Client) expect(id string, start uint64) *Child {
	c.mu.Lock()
	defer c.mu.Unlock()
	child := c.living[start]
	if child == nil {
		child = &Child{client: c, id: id, start: start, exited: make(chan struct{})}
		c.living[start] = child
	}
	return child
}

// Wait returns the exit code, or 128 plus the number of the signal that ended the process. It returns ErrGone if the init
// ended first.
func (c *Child) Wait(ctx context.Context) (int, error) {
	select {
	case <-c.exited:
		return c.code, nil
	default:
	}
	select {
	case <-c.exited:
		return c.code, nil
	case <-c.client.gone:
		return 0, fmt.Errorf("waiting for process %q: %w", c.id, ErrGone)
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for process %q: %w", c.id, context.Cause(ctx))
	}
}

// Signal reaches the process and those of its children that did not leave its group. One that has ended is no error.
func (c *Child) Signal(ctx context.Context, signal unix.Signal) error {
	_, err := c.client.ask(ctx, message{kind: askSignal, id: c.id, signal: uint8(signal)}, nil) //nolint:gosec // at most 64
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrGone) {
		return fmt.Errorf("signalling process %q: %w", c.id, err)
	}
	return nil
}

// Forget lets the init forget a process that has ended. It may be repeated.
func (c *Client) Forget(ctx context.Context, id string) error {
	_, err := c.ask(ctx, message{kind: askForget, id: id}, nil)
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrGone) {
		return fmt.Errorf("forgetting process %q: %w", id, err)
	}
	return nil
}

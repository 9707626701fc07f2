package simulated

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// answer is what a simulated application says to every HTTP request.
const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// Dial connects to an address of a container, for health checks. Every port of a container with a running process takes
// connections and answers HTTP requests with 200; everything else refuses. No socket is opened, and nothing takes time: who is
// called late, on a machine that hosts more cells than it has time for, connects all the same.
func (e *Engine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	e.mu.Lock()
	c := e.addresses[target.Addr()]
	e.mu.Unlock()
	if c == nil || !c.listening() {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(target), Err: syscall.ECONNREFUSED}
	}
	return newConn(target), nil
}

// listening says whether a process runs.
func (c *container) listening() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.processes {
		select {
		case <-p.done:
		default:
			return true
		}
	}
	return false
}

// conn is a connection to a simulated application. It has no goroutine: what is read follows from what was written. Most are
// closed as soon as they are open, by checks, so that it is one small object.
type conn struct {
	remote netip.AddrPort

	mu      sync.Mutex
	changed sync.Cond // on mu; signalled when it is closed, or the reply is there
	closed  bool
	request []byte        // until the header is whole
	reply   *bytes.Reader // nil until then
}

func newConn(remote netip.AddrPort) *conn {
	c := &conn{remote: remote}
	c.changed.L = &c.mu
	return c
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.reply != nil {
		return len(p), nil // the body, or a second request that gets no answer
	}
	c.request = append(c.request, p...)
	if bytes.Contains(c.request, []byte("\r\n\r\n")) {
		c.request, c.reply = nil, bytes.NewReader([]byte(answer))
		c.changed.Broadcast()
	}
	return len(p), nil
}

// Read waits for a request and then for nothing: after the answer comes the end.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed && c.reply == nil {
		c.changed.Wait()
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.reply.Read(p)
}

func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4zero} }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// Deadlines are not kept: whoever asks an application that always answers does not need them, and closes.
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

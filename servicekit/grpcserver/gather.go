package grpcserver

import (
	"net"
	"sync"
)

// TLS cuts what is written into records of at most maxRecord bytes and writes each by itself. A large message, as streams to many readers
// have them, would so be two or three calls of the kernel, and the reader would be woken for each. A gathered connection hands the
// records of one write to the kernel together.

const (
	maxRecord = 16 << 10
	// gathered is what the records of one write of gRPC take, which has a buffer of 32 KiB.
	gathered = 36 << 10
)

// records is the connection under TLS. It keeps what is written while gRPC writes something large.
type records struct {
	net.Conn
	buffers *sync.Pool // of *[]byte

	mu     sync.Mutex // TLS may write an alert while gRPC writes
	buffer *[]byte    // nil if nothing is gathered
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buffer == nil {
		return r.Conn.Write(b)
	}
	*r.buffer = append(*r.buffer, b...)
	return len(b), nil
}

// gather begins to keep what is written.
func (r *records) gather() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buffer, _ = r.buffers.Get().(*[]byte)
	if r.buffer == nil {
		r.buffer = new(make([]byte, 0, gathered))
	}
}

// send writes what was kept.
func (r *records) send() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.Conn.Write(*r.buffer)
	*r.buffer = (*r.buffer)[:0]
	r.buffers.Put(r.buffer)
	r.buffer = nil
	return err
}

// gatheredConn is the connection above TLS. Like that of gRPC it has one writer at a time.
type gatheredConn struct {
	net.Conn
	records *records
}

func (c *gatheredConn) Write(b []byte) (int, error) {
	if len(b) <= maxRecord {
		return c.Conn.Write(b)
	}
	c.records.gather()
	n, err := c.Conn.Write(b)
	if sendErr := c.records.send(); err == nil && sendErr != nil {
		return 0, sendErr
	}
	return n, err
}

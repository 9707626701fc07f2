package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
)

// half is a connection whose two directions end separately.
type half interface {
	net.Conn
	CloseWrite() error
}

// Buffers: most connections carry little and wait long, so each direction waits with a small one and borrows a large one
// while it is busy, which it is until a read brings less than busyRead.
const (
	smallBuffer = 2 << 10
	largeBuffer = 32 << 10
	busyRead    = 8 << 10
)

// relay carries bytes both ways and closes both connections when both directions have ended. The end of one direction is passed
// on, and the other goes on: a client may end its request and wait for the answer. When one direction is cut off, cut is called,
// which must end both connections such that neither side takes it for the end of the other.
func relay(client, app half, cut func(), large *sync.Pool) {
	var both sync.WaitGroup
	carry := func(to, from half) {
		err := pass(to, from, large)
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil {
			cut()
		}
	}
	both.Go(func() { carry(app, client) })
	carry(client, app)
	both.Wait()
	_ = errors.Join(client.Close(), app.Close()) // all has been passed on
}

// pass copies until the end, which is no error.
func pass(to io.Writer, from io.Reader, large *sync.Pool) error {
	small := make([]byte, smallBuffer)
	buffer := small
	var borrowed *[]byte
	giveBack := func() {
		if borrowed != nil {
			large.Put(borrowed)
			borrowed, buffer = nil, small
		}
	}
	defer giveBack()
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return err //nolint:wrapcheck // nobody reads it
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // nobody reads it
		}
		switch {
		case n == smallBuffer && borrowed == nil:
			borrowed, _ = large.Get().(*[]byte)
			buffer = *borrowed
		case n < busyRead:
			giveBack()
		}
	}
}

func newLargeBuffers() *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, largeBuffer)
		return &b
	}}
}

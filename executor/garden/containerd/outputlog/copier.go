package outputlog

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Copier moves what comes out of a pipe into a stream. The process at the other end never waits for more than the pipe.
type Copier struct {
	pipe   *os.File
	writer *Writer
	err    error
}

// NewCopier takes over the reading end of a pipe; folder and name are those of the stream.
func NewCopier(pipe uintptr, folder, name string) *Copier {
	// A descriptor that does not block belongs to the poller, which makes deadlines work.
	_ = unix.SetNonblock(int(pipe), true)
	return &Copier{pipe: os.NewFile(pipe, name), writer: NewWriter(folder, name)}
}

// Copy returns at the end of the pipe, when all writers are gone, or, after Finish, when nothing is in it. The error is the
// first of the disk; output that the disk did not take is missing from the stream.
func (c *Copier) Copy() error {
	defer func() { _ = c.pipe.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := c.pipe.Read(buffer)
		c.store(buffer[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.drain(buffer)
			break
		}
		if err != nil {
			break // io.EOF: every writer is gone
		}
	}
	return errors.Join(c.err, c.writer.Close())
}

// Finish lets Copy take what is in the pipe and return. It may be repeated and may come when Copy has returned.
func (c *Copier) Finish() {
	_ = c.pipe.SetReadDeadline(time.Unix(1, 0)) // wakes a read that waits
}

func (c *Copier) drain(buffer []byte) {
	_ = c.pipe.SetReadDeadline(time.Time{})
	raw, err := c.pipe.SyscallConn()
	if err != nil {
		return
	}
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buffer)
			return true // never wait: an empty pipe is the end here
		})
		if err != nil || n <= 0 {
			return
		}
		c.store(buffer[:n])
	}
}

// store keeps the first error for the end; the process whose output this is must not notice.
func (c *Copier) store(p []byte) {
	if _, err := c.writer.Write(p); err != nil && c.err == nil {
		c.err = err
	}
}

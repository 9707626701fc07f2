// Package rights sends messages together with open files between processes of one machine, over unix sockets that keep
// messages apart (SOCK_SEQPACKET). It knows what no message means. Sockets are files that do not block, so that whoever waits
// costs a goroutine and not a thread.
package rights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many files a message can have.
const MaxFiles = 4

// ErrTooLong says that a message, or what came with it, was longer than expected; the rest of it is lost.
var ErrTooLong = errors.New("message is too long")

// Send writes one message with files, and waits for room. The kernel takes each message whole or not at all: a sender that is
// killed leaves no half of one. What was sent can be received also when the sender has closed its socket or has ended.
func Send(socket *os.File, content []byte, files ...*os.File) error {
	var control []byte
	if len(files) > 0 {
		var numbers []int
		for _, file := range files {
			numbers = append(numbers, int(file.Fd()))
		}
		control = unix.UnixRights(numbers...)
	}
	err := when(socket, syscallWrite, func(fd int) error {
		return unix.Sendmsg(fd, content, control, nil, unix.MSG_NOSIGNAL)
	})
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// Receive waits for one message, writes it to buffer and returns its length with its files, which the caller closes, also
// after an error. It returns io.EOF when the other end is gone.
func Receive(socket *os.File, buffer []byte) (int, []int, error) {
	control := make([]byte, unix.CmsgSpace(MaxFiles*4))
	var n, controls, flags int
	err := when(socket, syscallRead, func(fd int) (err error) {
		n, controls, flags, _, err = unix.Recvmsg(fd, buffer, control, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("receiving: %w", err)
	}
	files, err := filesIn(control[:controls])
	switch {
	case err != nil:
		return 0, files, err
	case n == 0 && controls == 0:
		return 0, files, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return 0, files, ErrTooLong
	}
	return n, files, nil
}

func filesIn(control []byte) ([]int, error) {
	if len(control) == 0 {
		return nil, nil
	}
	parts, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("receiving files: %w", err)
	}
	var files []int
	for at := range parts {
		if found, err := unix.ParseUnixRights(&parts[at]); err == nil {
			files = append(files, found...)
		}
	}
	return files, nil
}

// CloseAll closes files that were received.
func CloseAll(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd)
	}
}

type direction bool

const (
	syscallRead  direction = false
	syscallWrite direction = true
)

// when makes a call as soon as the socket is ready for it.
func when(socket *os.File, way direction, call func(fd int) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var called error
	try := func(fd uintptr) bool {
		for {
			called = call(int(fd))
			if !errors.Is(called, unix.EINTR) {
				return !errors.Is(called, unix.EAGAIN)
			}
		}
	}
	if way == syscallWrite {
		err = raw.Write(try)
	} else {
		err = raw.Read(try)
	}
	return errors.Join(err, called)
}

// socket makes one that does not block.
func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("making socket: %w", err)
	}
	return fd, nil
}

// address is that of a socket in a folder that is open: the kernel takes no paths of more than 107 bytes.
func address(folder *os.File, name string) unix.Sockaddr {
	return &unix.SockaddrUnix{Name: filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), name)}
}

// Listen makes a socket in a folder, for our own user only.
func Listen(folder, name string) (*os.File, error) {
	dir, err := os.Open(folder) //nolint:gosec // the caller's own
	if err != nil {
		return nil, fmt.Errorf("opening folder of socket: %w", err)
	}
	defer func() { _ = dir.Close() }()
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	// The file gets the rights that the socket has, from the moment that it exists.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, address(dir, name))
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Accept waits for the next connection.
func Accept(listening *os.File) (*os.File, error) {
	var fd int
	err := when(listening, syscallRead, func(at int) (err error) {
		fd, _, err = unix.Accept4(at, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("accepting: %w", err)
	}
	return os.NewFile(uintptr(fd), "accepted"), nil
}

// Dial connects to a socket that listens. It does not wait.
func Dial(ctx context.Context, folder, name string) (*os.File, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	dir, err := os.Open(folder) //nolint:gosec // the caller's own
	if err != nil {
		return nil, fmt.Errorf("opening folder of socket: %w", err)
	}
	defer func() { _ = dir.Close() }()
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, address(dir, name)); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

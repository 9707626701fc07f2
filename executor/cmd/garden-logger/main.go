// Command garden-logger is started by containerd's shim beside each process of a container. It moves what the process
// writes into files (package outputlog), so that neither a stopped rep nor a restarted containerd loses output or
// holds the process up. It ends when the process and its children have closed their output, or, on SIGTERM, after it
// has taken what is in the pipes.
//
// The shim passes the pipes as descriptors 3 (stdout) and 4 (stderr), and 5 to close when ready. Arguments: dir FOLDER.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"diego.internal/executor/garden/containerd/outputlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "garden-logger:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// One of these runs per process of the cell: one thread for Go code is enough and keeps each small.
	runtime.GOMAXPROCS(1)
	if len(args) != 2 || args[0] != "dir" {
		return fmt.Errorf("want arguments: dir FOLDER, have %q", args)
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)

	streams := []*stream{newStream(3, args[1], "stdout"), newStream(4, args[1], "stderr")}
	var wait sync.WaitGroup
	for _, s := range streams {
		wait.Go(s.copy)
	}
	go func() {
		<-terminated
		for _, s := range streams {
			// Wakes the reads that wait; copy then takes the rest.
			_ = s.pipe.SetReadDeadline(time.Unix(1, 0))
		}
	}()
	if err := os.NewFile(5, "ready").Close(); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	wait.Wait()
	return errors.Join(streams[0].err, streams[1].err)
}

type stream struct {
	pipe   *os.File
	writer *outputlog.Writer
	err    error
}

func newStream(fd int, folder, name string) *stream {
	// A descriptor that does not block belongs to the poller, which makes deadlines work.
	_ = unix.SetNonblock(fd, true)
	return &stream{pipe: os.NewFile(uintptr(fd), name), writer: outputlog.NewWriter(folder, name)}
}

// copy ends at the end of the pipe, or, after SIGTERM, when nothing is in it.
func (s *stream) copy() {
	buffer := make([]byte, 32<<10)
	for {
		n, err := s.pipe.Read(buffer)
		s.store(buffer[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.drain(buffer)
			break
		}
		if err != nil {
			break // io.EOF: every writer is gone
		}
	}
	s.err = errors.Join(s.err, s.writer.Close())
}

func (s *stream) drain(buffer []byte) {
	_ = s.pipe.SetReadDeadline(time.Time{})
	raw, err := s.pipe.SyscallConn()
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
		s.store(buffer[:n])
	}
}

// store keeps the first error for the exit; the process whose output this is must not notice.
func (s *stream) store(p []byte) {
	if _, err := s.writer.Write(p); err != nil && s.err == nil {
		s.err = err
	}
}

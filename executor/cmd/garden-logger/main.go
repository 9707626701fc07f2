// Command garden-logger is started by containerd's shim beside a container, or beside a process that runc starts in one. It
// moves what processes write into files (package outputlog), so that neither a stopped rep nor a restarted containerd loses
// output or holds a process up.
//
// The shim passes the pipes of the process as descriptors 3 (stdout) and 4 (stderr), and 5 to close when ready. Arguments:
//
//	dir FOLDER    store this output in FOLDER, and end when the process and its children have closed it
//	keep FOLDER   store the output of all processes that the rep tells of below FOLDER, which is a container's; this output,
//	              that of its init, is thrown away and means by its end that the container is no more
//
// On SIGTERM it takes what is in the pipes, and ends.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"diego.internal/executor/garden/containerd/outputlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "garden-logger:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// One of these runs per container of the cell: one thread for Go code is enough and keeps each small.
	runtime.GOMAXPROCS(1)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	if len(args) == 2 && args[0] == "dir" {
		return store(args[1], terminated)
	}
	if len(args) == 2 && args[0] == "keep" {
		return keep(args[1], terminated)
	}
	return fmt.Errorf("want arguments: dir FOLDER or keep FOLDER, have %q", args)
}

func ready() error {
	if err := os.NewFile(5, "ready").Close(); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	return nil
}

// store serves one process.
func store(folder string, terminated <-chan os.Signal) error {
	copiers := []*outputlog.Copier{outputlog.NewCopier(3, folder, outputlog.Stdout), outputlog.NewCopier(4, folder, outputlog.Stderr)}
	errs := make([]error, len(copiers))
	var wait sync.WaitGroup
	for at, c := range copiers {
		wait.Go(func() { errs[at] = c.Copy() })
	}
	go func() {
		<-terminated
		for _, c := range copiers {
			c.Finish()
		}
	}()
	if err := ready(); err != nil {
		return err
	}
	wait.Wait()
	return errors.Join(errs...)
}

// keep serves a container.
func keep(folder string, terminated <-chan os.Signal) error {
	keeper, err := outputlog.NewKeeper(folder)
	if err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	go keeper.Serve()
	var streams sync.WaitGroup
	for fd, name := range map[uintptr]string{3: outputlog.Stdout, 4: outputlog.Stderr} {
		streams.Go(func() {
			// An init says nothing, unless it fails; then the shim must not wait for somebody to read it.
			_ = syscall.SetNonblock(int(fd), true) // waiting is the poller's, not a thread's
			_, _ = io.Copy(io.Discard, os.NewFile(fd, name))
		})
	}
	ended := make(chan struct{})
	go func() {
		streams.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-terminated:
	}
	keeper.Close()
	return nil
}

// Package lifecycle owns how a process begins and ends: signals, the deadline of a stop, and exit
// codes that say why. It does not own what runs in between; that is the run function of each process.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"diego.internal/servicekit/telemetry"
)

// Exit codes of every process of the product. A supervisor may restart after all of them but
// ExitConfig, which cannot get better by trying again.
const (
	ExitOK       = 0 // asked to stop, or nothing left to do
	ExitFailure  = 1 // any failure without a code of its own
	ExitConfig   = 2 // the configuration or the arguments are wrong
	ExitLockLost = 3 // the lock was lost: a restart comes up as a standby
	ExitStore    = 4 // fenced off, or the store is in a state that needs an operator
	ExitForced   = 5 // a second signal, or the stop took longer than StopTimeout
)

// StopTimeout is how long run may take to return after the first signal.
const StopTimeout = 15 * time.Second

// stackLimit bounds the goroutine dump of a forced exit; 1 MiB holds a few thousand goroutines.
const stackLimit = 1 << 20

// ErrSignal is the cause of a context that ended because the process was asked to stop.
var ErrSignal = errors.New("asked to stop by a signal")

// Main runs one process and returns its exit code, for os.Exit.
//
// The context ends with cause ErrSignal at the first SIGTERM or SIGINT. A second signal, or
// StopTimeout without a return of run, ends the process at once with ExitForced. An error of run is
// reported once: a configuration error as text on stderr, for the person who has just started the
// process, any other one as a fatal line in the log on stdout.
func Main(name string, run func(ctx context.Context, args []string) error) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)

	// Room for two signals, so that an impatient second one is never dropped.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	result := make(chan error, 1)
	go func() { result <- guarded(ctx, run, os.Args[1:]) }()

	select {
	case err := <-result:
		return report(name, err, false)
	case sig := <-signals:
		cancel(fmt.Errorf("%w: %v", ErrSignal, sig))
	}

	deadline := time.NewTimer(StopTimeout)
	defer deadline.Stop()
	select {
	case err := <-result:
		return report(name, err, true)
	case sig := <-signals:
		fmt.Fprintf(os.Stderr, "%s: second signal (%v), ending at once\n", name, sig)
	case <-deadline.C:
		fmt.Fprintf(os.Stderr, "%s: not stopped after %v, ending at once\n", name, StopTimeout)
		dumpGoroutines(os.Stderr)
	}
	return ExitForced
}

// guarded turns a panic of run into an error, because the exit code of a Go panic is 2, which a
// supervisor would read as a bad configuration.
func guarded(ctx context.Context, run func(context.Context, []string) error, args []string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return run(ctx, args)
}

type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// report prints what has to be told about err and returns the exit code.
func report(name string, err error, stopping bool) int {
	code := exitCode(err, stopping)
	switch code {
	case ExitOK:
	case ExitConfig:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	default:
		var stack []byte
		if p, ok := errors.AsType[*panicError](err); ok {
			stack = p.stack
		}
		telemetry.Fatal(name, err, code, stack)
	}
	return code
}

// exitCode finds the code of err. A code attached by WithExitCode wins; a cancelled context is a
// success only if a signal cancelled it.
func exitCode(err error, stopping bool) int {
	if err == nil {
		return ExitOK
	}
	// By method and not by type: package config has a type of its own.
	if coded, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return coded.ExitCode()
	}
	if stopping && (errors.Is(err, context.Canceled) || errors.Is(err, ErrSignal)) {
		return ExitOK
	}
	return ExitFailure
}

// WithExitCode returns err with the exit code that Main shall use for it. The outermost code wins.
// It returns nil if err is nil.
func WithExitCode(err error, code int) error {
	if err == nil {
		return nil
	}
	return &codedError{err: err, code: code}
}

type codedError struct {
	err  error
	code int
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }
func (e *codedError) ExitCode() int { return e.code }

func dumpGoroutines(w io.Writer) {
	buf := make([]byte, stackLimit)
	// The process ends here whatever happens to the write.
	_, _ = w.Write(buf[:runtime.Stack(buf, true)])
}

package simulated

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"diego.internal/executor/garden"
)

// Exit codes of processes that a signal ended.
const (
	exitTerminated = 128 + 15
	exitKilled     = 128 + 9
)

// Fate is what becomes of a process. The zero value exits with 0 at once.
type Fate struct {
	// Err makes Run fail with it; nothing else happens.
	Err error
	// Stdout and Stderr are written when the process starts.
	Stdout, Stderr string
	// Files appear in the container when the process starts: absolute path to content.
	Files map[string]string
	// UntilSignalled lets it run until a signal ends it; otherwise it ends After its start with Code.
	UntilSignalled bool
	After          time.Duration
	Code           int
	OutOfMemory    bool
	OutOfDisk      bool
	// IgnoreTerminate makes SIGTERM no reason to end.
	IgnoreTerminate bool
	// IgnoreKill makes SIGKILL no reason either, as for a process that waits in the kernel; its container's end is one.
	IgnoreKill bool
	// OnTerminate, if set, is how it ends on SIGTERM; the usual is exit code 143.
	OnTerminate *garden.ExitStatus
}

// process is one scripted process. It has no goroutine: output is written by the caller that starts or attaches.
type process struct {
	id   string
	fate Fate
	done chan struct{}

	mu     sync.Mutex
	status garden.ExitStatus // valid once done is closed
	exit   *time.Timer       // ends the process by itself
	kill   *time.Timer       // armed by Stop

	// deliver is held while pending output goes to the writers; it is separate from mu, so that a slow writer
	// does not hold up signals.
	deliver        sync.Mutex
	out            *garden.ProcessIO // nil: nobody is attached
	stdout, stderr bytes.Buffer      // not delivered yet
}

var _ garden.Process = (*process)(nil)

func newProcess(id string, fate Fate) *process {
	p := &process{id: id, fate: fate, done: make(chan struct{})}
	p.stdout.WriteString(fate.Stdout)
	p.stderr.WriteString(fate.Stderr)
	return p
}

func (p *process) ID() string { return p.id }

// begin starts the clock of a process that ends by itself.
func (p *process) begin() {
	if p.fate.UntilSignalled {
		return
	}
	status := garden.ExitStatus{Code: p.fate.Code, OutOfMemory: p.fate.OutOfMemory, OutOfDisk: p.fate.OutOfDisk}
	if p.fate.After <= 0 {
		p.end(status)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = time.AfterFunc(p.fate.After, func() { p.end(status) })
}

// end closes the process once; later ends change nothing.
func (p *process) end(status garden.ExitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return
	default:
	}
	p.status = status
	for _, timer := range []*time.Timer{p.exit, p.kill} {
		if timer != nil {
			timer.Stop()
		}
	}
	close(p.done)
}

// attach makes out the receiver of output; nil keeps output for the next one.
func (p *process) attach(out *garden.ProcessIO) {
	p.deliver.Lock()
	defer p.deliver.Unlock()
	p.out = out
	if out == nil {
		return
	}
	flush(&p.stdout, out.Stdout)
	flush(&p.stderr, out.Stderr)
}

func flush(pending *bytes.Buffer, w io.Writer) {
	if pending.Len() > 0 && w != nil {
		// A writer that fails has had its chance: the real engine does not offer bytes twice either.
		_, _ = w.Write(pending.Bytes())
	}
	pending.Reset()
}

func (p *process) Wait(ctx context.Context) (garden.ExitStatus, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return garden.ExitStatus{}, fmt.Errorf("waiting for process %q: %w", p.id, context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, nil
}

func (p *process) Signal(ctx context.Context, signal garden.Signal) error {
	if ctx.Err() != nil {
		return fmt.Errorf("signalling process %q: %w", p.id, context.Cause(ctx))
	}
	switch signal {
	case garden.SignalKill:
		if p.fate.IgnoreKill {
			return nil
		}
		p.end(garden.ExitStatus{Code: exitKilled})
	case garden.SignalTerminate:
		p.terminate()
	default:
		return fmt.Errorf("signalling process %q: %w: signal %d", p.id, garden.ErrInvalidSpec, signal)
	}
	return nil
}

func (p *process) terminate() {
	switch {
	case p.fate.IgnoreTerminate:
	case p.fate.OnTerminate != nil:
		p.end(*p.fate.OnTerminate)
	default:
		p.end(garden.ExitStatus{Code: exitTerminated})
	}
}

func (p *process) stop(kill bool) {
	if kill {
		p.end(garden.ExitStatus{Code: exitKilled})
		return
	}
	p.terminate()
	select {
	case <-p.done:
		return
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kill == nil {
		p.kill = time.AfterFunc(stopGrace, func() { p.end(garden.ExitStatus{Code: exitKilled}) })
	}
}

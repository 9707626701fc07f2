package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/outputlog"
)

const (
	// exitKilled is the code of a process that SIGKILL ended; it also stands for an end that nobody saw, because
	// the container was removed with all that was in it.
	exitKilled = 128 + 9
	// lastOutput bounds the wait for a logger that does not say that it is done; it does, unless it was killed.
	lastOutput = 5 * time.Second
	// chunkBytes is how much output is delivered at a time.
	chunkBytes = 32 << 10
)

// process is one process of a container as this program sees it. Three goroutines serve it until it has ended: one
// waits for its exit, two deliver its output.
type process struct {
	container *container
	id        string
	name      string // what containerd and the init call it
	folder    string
	source    source      // who started it; set before anybody else sees the process
	oomKills  uint64      // before it started
	noted     *exitRecord // read from disk: it ended before this program began

	exited    chan struct{} // its status is known and its logger has ended
	abandoned chan struct{} // its container is being removed
	done      chan struct{} // status is valid and all output was delivered

	mu     sync.Mutex
	told   bool // Wait has returned the status
	sinks  map[string]io.Writer
	status garden.ExitStatus
	left   bool // abandoned is closed
}

var _ garden.Process = (*process)(nil)

const (
	stdout = outputlog.Stdout
	stderr = outputlog.Stderr
)

func (c *container) newProcess(id string) *process {
	return &process{
		container: c,
		id:        id,
		name:      engineName(id),
		folder:    c.processFolder(id),
		exited:    make(chan struct{}),
		abandoned: make(chan struct{}),
		done:      make(chan struct{}),
	}
}

func (p *process) ID() string { return p.id }

// attach makes out the receiver of what is delivered from now on.
func (p *process) attach(out garden.ProcessIO) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sinks = map[string]io.Writer{stdout: orDiscard(out.Stdout), stderr: orDiscard(out.Stderr)}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func (p *process) sink(stream string) io.Writer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sinks[stream]
}

// follow begins to serve the process. It goes on until the process has ended, its container is removed or the Backend
// is closed.
func (p *process) follow() error {
	b := p.container.backend
	output := filepath.Join(p.folder, outputFolder)
	changes, err := b.tails.watch(output)
	if err != nil {
		return err
	}
	var readers []*outputlog.Reader
	for _, stream := range []string{stdout, stderr} {
		reader, err := outputlog.OpenReader(output, stream)
		if err != nil {
			b.tails.unwatch(output)
			return fmt.Errorf("opening output of process %q: %w", p.id, err)
		}
		readers = append(readers, reader)
	}
	b.wait.Go(func() {
		var streams sync.WaitGroup
		streams.Go(p.awaitExit)
		streams.Go(func() { p.deliver(stdout, readers[0], changes.stdout) })
		streams.Go(func() { p.deliver(stderr, readers[1], changes.stderr) })
		streams.Wait()
		b.tails.unwatch(output)
		if b.ctx.Err() == nil {
			close(p.done)
		}
	})
	return nil
}

// awaitExit learns the exit status, notes it on disk and only then lets its source forget it. That also makes the logger
// take what is left in the pipes and end, so that a child which keeps them open cannot hold up Wait.
func (p *process) awaitExit() {
	b := p.container.backend
	if p.noted == nil {
		code, ok := p.askExit()
		if !ok {
			return
		}
		p.noted = &exitRecord{
			Code:        code,
			OutOfMemory: machineCgroups().oomKills(p.container.cgroup()) > p.oomKills,
			OutOfDisk:   code != 0 && p.container.outOfDisk(),
		}
		if err := writeJSON(filepath.Join(p.folder, "exit.json"), p.noted); err != nil && !isMissing(err) {
			b.cfg.Log.ErrorContext(b.ctx, "exit-status-not-noted", "handle", p.container.handle, "process", p.id, "error", err)
		}
	}
	// Also when it was noted by a program that may have been killed right after.
	if err := p.source.release(b.ctx, p); err != nil && b.ctx.Err() == nil {
		b.cfg.Log.WarnContext(b.ctx, "process-not-deleted", "handle", p.container.handle, "process", p.id, "error", err)
	}
	p.mu.Lock()
	p.status = garden.ExitStatus{Code: p.noted.Code, OutOfMemory: p.noted.OutOfMemory, OutOfDisk: p.noted.OutOfDisk}
	p.mu.Unlock()
	close(p.exited)
}

// askExit waits for the exit code. It gives up when the Backend is closed, and takes a process for killed when its
// container is removed.
func (p *process) askExit() (code int, ok bool) {
	b := p.container.backend
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	go func() {
		select {
		case <-p.abandoned:
			cancel()
		case <-ctx.Done():
		}
	}()
	if code, ok := p.source.wait(ctx, p); ok {
		return code, true
	}
	return exitKilled, b.ctx.Err() == nil
}

// deliver gives one stream to whoever is attached, until its end.
func (p *process) deliver(stream string, reader *outputlog.Reader, changed <-chan struct{}) {
	defer reader.Close()
	b := p.container.backend
	log := b.cfg.Log.With("handle", p.container.handle, "process", p.id, "stream", stream)
	defer func() {
		if reader.Dropped() > 0 {
			log.WarnContext(b.ctx, "output-dropped", "bytes", reader.Dropped())
		}
	}()
	exited := p.exited
	var overdue <-chan time.Time
	for {
		// Made for each look, which reads all there is: two of them for every idle process would be most of our memory.
		ended, err := reader.Deliver(sinkWriter{p, stream}, make([]byte, chunkBytes))
		if err != nil {
			log.WarnContext(b.ctx, "output-not-delivered", "error", err)
		}
		if ended {
			return
		}
		select {
		case <-changed:
		case <-exited:
			// The logger has ended; look once more, and if it left no end, not for long.
			exited = nil
			timer := time.NewTimer(lastOutput)
			defer timer.Stop()
			overdue = timer.C
		case <-overdue:
			log.WarnContext(b.ctx, "output-has-no-end")
			return
		case <-p.abandoned:
			return
		case <-b.ctx.Done():
			return
		}
	}
}

// sinkWriter writes to whoever is attached at the moment of each write.
type sinkWriter struct {
	process *process
	stream  string
}

func (w sinkWriter) Write(chunk []byte) (int, error) { return w.process.sink(w.stream).Write(chunk) }

// abandon ends the service of a process whose container is removed, and returns when it has ended.
func (p *process) abandon() {
	p.mu.Lock()
	if !p.left {
		p.left = true
		close(p.abandoned)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
	case <-p.container.backend.ctx.Done():
	}
}

func (p *process) isAbandoned() bool {
	select {
	case <-p.abandoned:
		return true
	default:
		return false
	}
}

// over tells that the process has ended and that somebody has been told.
func (p *process) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// errClosed is what waiters get when the Backend is closed under them.
var errClosed = errors.New("backend was closed")

// Wait can be called by several at a time and again later.
func (p *process) Wait(ctx context.Context) (garden.ExitStatus, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = true
		return p.status, nil
	case <-ctx.Done():
		return garden.ExitStatus{}, fmt.Errorf("waiting for process %q: %w", p.id, context.Cause(ctx))
	case <-p.container.backend.ctx.Done():
		return garden.ExitStatus{}, fmt.Errorf("waiting for process %q: %w", p.id, errClosed)
	}
}

// Signal reaches the process and those of its children that did not leave its group.
func (p *process) Signal(ctx context.Context, signal garden.Signal) error {
	var number unix.Signal
	switch signal {
	case garden.SignalTerminate:
		number = unix.SIGTERM
	case garden.SignalKill:
		number = unix.SIGKILL
	default:
		return fmt.Errorf("signalling process %q: %w: signal %d", p.id, garden.ErrInvalidSpec, signal)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("signalling process %q: %w", p.id, context.Cause(ctx))
	}
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := p.source.signal(p.container.backend.within(ctx), p, number); err != nil {
		return fmt.Errorf("signalling process %q: %w", p.id, err)
	}
	return nil
}

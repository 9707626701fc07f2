package step

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/logs"
)

const (
	// killTime is how long a process may take to go after SIGKILL.
	killTime = time.Second
	// signalTime bounds the delivery of a signal.
	signalTime = 10 * time.Second
	// startTime bounds the start of a process that was interrupted meanwhile.
	startTime = time.Minute
	// attachPause is the pause between attempts to take up a process while the engine does not answer.
	attachPause = time.Second
)

// process is one run step at work.
type process struct {
	env      *Env
	action   *container.RunAction
	id       string
	mark     ProcessMark
	out, err *logs.Writer
	// interruption is under way once the context has ended.
	interruption sync.WaitGroup
}

func (e *Env) run(action container.RunAction, id string) Step {
	return func(ctx context.Context, ready func()) error {
		p := &process{env: e, action: &action, id: id}
		if e.probing {
			p.id = attemptID(id, time.Now())
			defer func() {
				if !e.detached() {
					e.Progress.SetProcess(p.id, ProcessMark{})
				}
			}()
		}
		var (
			running garden.Process
			err     error
		)
		Aside(func() { running, err = p.begin(ctx, ready) })
		if running == nil {
			return err
		}
		return p.supervise(ctx, running)
	}
}

// begin has the process run and says that it is ready, or returns the result of the step and no process.
func (p *process) begin(ctx context.Context, ready func()) (garden.Process, error) {
	p.mark = p.env.Progress.Process(p.id)
	if p.mark.Ended {
		ready()
		return nil, p.result()
	}
	if ctx.Err() != nil && !p.mark.Starting {
		return nil, interrupted(ctx)
	}
	p.out, p.err = p.writers()
	running, err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	ready()
	return running, nil
}

func (p *process) source() string { return p.env.source(p.action.LogSource) }

func (p *process) writers() (out, err *logs.Writer) {
	if p.action.SuppressLogOutput && !p.env.probing {
		return nil, nil
	}
	source := p.source()
	return p.env.Log.Writer(source, logs.Out), p.env.Log.Writer(source, logs.Err)
}

func (p *process) io() garden.ProcessIO {
	var io garden.ProcessIO
	if p.out != nil { // a nil *logs.Writer in an interface would not be nil
		io.Stdout, io.Stderr = p.out, p.err
	}
	return io
}

func (p *process) flush() {
	if p.out != nil {
		p.out.Flush()
		p.err.Flush()
	}
}

// start runs the process, or takes up the one that an earlier process of ours started in this place.
func (p *process) start(ctx context.Context) (garden.Process, error) {
	// An interruption while the engine starts the process must not leave one that nobody knows: it is started, then
	// interrupted like any other.
	starting, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), startTime, errors.New("engine took too long to start the process"))
	defer cancel()
	if p.mark.Starting {
		running, err := p.attach(ctx, starting)
		switch {
		case err == nil:
			p.noteStarted()
			return running, nil
		case !errors.Is(err, garden.ErrUnknownProcess):
			return nil, p.lost(ctx, err)
		case p.mark.Started:
			return nil, p.lost(ctx, err)
		case ctx.Err() != nil:
			return nil, interrupted(ctx)
		}
	}
	p.mark = ProcessMark{Starting: true}
	p.env.Progress.SetProcess(p.id, p.mark)
	running, err := p.env.Container.Run(starting, p.spec(), p.io())
	if err != nil {
		p.env.Progress.SetProcess(p.id, ProcessMark{})
		if errors.Is(err, garden.ErrUnknownHandle) {
			return nil, ErrMissingContainer
		}
		p.emit(fmt.Sprintf("failed-creating-process: %v", err))
		return nil, err // the engine names the process
	}
	p.noteStarted()
	return running, nil
}

func (p *process) noteStarted() {
	p.mark = ProcessMark{Starting: true, Started: true}
	p.env.Progress.SetProcess(p.id, p.mark)
}

// attach repeats until ctx ends while the engine does not answer, because its containers go on without it. The calls
// themselves are made with another context: a process must be taken up even if only to be interrupted.
func (p *process) attach(ctx, calls context.Context) (garden.Process, error) {
	for {
		running, err := p.env.Container.Attach(calls, p.id, p.io())
		if err == nil || errors.Is(err, garden.ErrUnknownProcess) || errors.Is(err, garden.ErrUnknownHandle) {
			return running, err
		}
		if ctx.Err() != nil {
			return nil, err
		}
		p.env.Slog.Warn("attaching-process-failed", slog.String("handle", p.env.Container.Handle()), slog.String("process", p.id), slog.Any("error", err))
		timer := time.NewTimer(attachPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, interrupted(ctx)
		case <-timer.C:
		}
	}
}

// lost is the result when the engine does not know a process that was running.
func (p *process) lost(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, garden.ErrUnknownHandle):
		return ErrMissingContainer
	case ctx.Err() != nil:
		return interrupted(ctx)
	default:
		return fmt.Errorf("%s: process vanished: %w", p.source(), err)
	}
}

func (p *process) spec() garden.ProcessSpec {
	variables := p.env.Variables()
	env := make([]garden.EnvVar, 0, len(p.action.Env)+len(variables))
	for _, v := range p.action.Env {
		env = append(env, garden.EnvVar(v))
	}
	return garden.ProcessSpec{
		ID:     p.id,
		Path:   p.action.Path,
		Args:   p.action.Args,
		Env:    append(env, variables...),
		Dir:    p.action.Dir,
		User:   p.action.User,
		Nofile: p.action.Nofile,
	}
}

type exit struct {
	status garden.ExitStatus
	err    error
}

// supervise waits for the end, and brings it about when ctx ends. It waits in its caller's goroutine, so that a process
// that nobody interrupts has one goroutine in all.
func (p *process) supervise(ctx context.Context, running garden.Process) error {
	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaiting()
	over := make(chan struct{})
	p.interruption.Add(1)
	revoke := context.AfterFunc(ctx, func() {
		defer p.interruption.Done()
		defer stopWaiting()
		p.interrupt(ctx, running, over)
	})
	end := p.wait(waiting, running)
	close(over)
	if !revoke() {
		p.interruption.Wait() // it is gone before we are, and what it noted is read below
	}
	cut := end.err != nil && waiting.Err() != nil
	switch {
	case !cut:
		return p.finish(ctx, end)
	case p.leaving(ctx):
		p.flush()
		return ErrDetached
	default:
		p.flush()
		return ErrNotExited
	}
}

// interrupt ends a process by SIGTERM and, if it does not go, by SIGKILL. It returns when over is closed, when the process
// has had its time after SIGKILL, or at once when processes are to go on without us.
func (p *process) interrupt(ctx context.Context, running garden.Process, over <-chan struct{}) {
	if p.leaving(ctx) {
		return
	}
	p.mark.Interrupted = true
	calls := context.WithoutCancel(ctx)
	p.signal(calls, running, garden.SignalTerminate)
	if p.await(over, p.env.GraceTime) || p.env.detached() {
		return
	}
	p.mark.Killed = true
	p.env.Counters.ExitedOnTimeout.Add(1)
	p.signal(calls, running, garden.SignalKill)
	p.await(over, killTime)
}

// leaving says whether ctx ended only because this process of ours ends.
func (p *process) leaving(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), ErrDetached) || p.env.detached()
}

// await returns false when the time has passed or we are leaving.
func (p *process) await(over <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-over:
		return true
	case <-timer.C:
	case <-p.env.Detached:
	}
	return false
}

func (p *process) signal(ctx context.Context, running garden.Process, signal garden.Signal) {
	ctx, cancel := context.WithTimeout(ctx, signalTime)
	defer cancel()
	// A signal that fails is answered by the next one, and at last by the destruction of the container.
	if err := running.Signal(ctx, signal); err != nil {
		p.env.Slog.Warn("signalling-process-failed", slog.String("handle", p.env.Container.Handle()), slog.String("process", p.id), slog.Any("error", err))
	}
}

// wait outlives breaks in the connection to the engine.
func (p *process) wait(ctx context.Context, running garden.Process) exit {
	for {
		status, err := running.Wait(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, garden.ErrUnknownProcess) || errors.Is(err, garden.ErrUnknownHandle) {
			return exit{status: status, err: err}
		}
		running, err = p.attach(ctx, ctx)
		if err != nil {
			return exit{err: err}
		}
	}
}

// finish notes the end for good, logs it and words the result.
func (p *process) finish(ctx context.Context, end exit) error {
	p.flush() // the exit line comes behind the last output
	if end.err != nil {
		return p.lost(ctx, end.err)
	}
	p.mark.Ended, p.mark.Status = true, end.status
	if !p.env.probing {
		p.env.Progress.SetProcess(p.id, p.mark)
		line := fmt.Sprintf("Exit status %d", end.status.Code)
		if p.mark.Killed {
			line += fmt.Sprintf(" (exceeded %v graceful shutdown interval)", p.env.GraceTime)
		}
		p.emit(line + p.exhausted())
	}
	return p.result()
}

func (p *process) emit(message string) {
	if !p.action.SuppressLogOutput || p.env.probing {
		p.env.Log.Emit(p.source(), logs.Out, message)
	}
}

// exhausted says what the container had used up when the process failed.
func (p *process) exhausted() string {
	switch status := p.mark.Status; {
	case status.Code == 0:
		return ""
	case status.OutOfMemory:
		return " (out of memory)"
	case status.OutOfDisk:
		return " (out of disk)"
	}
	return ""
}

func (p *process) result() error {
	switch {
	case p.mark.Killed:
		return ErrGraceExceeded
	case p.mark.Interrupted:
		return ErrCancelled
	case p.mark.Status.Code != 0:
		return &ShownError{Text: fmt.Sprintf("%s: Exited with status %d%s", p.source(), p.mark.Status.Code, p.exhausted())}
	default:
		return nil
	}
}

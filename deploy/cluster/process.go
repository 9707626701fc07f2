package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Restarts of a process that ended without being asked come after pauses that double between these.
const (
	minRestartPause = time.Second
	maxRestartPause = 30 * time.Second
	// stopTimeout is how long a process has to end before it is killed.
	stopTimeout = 20 * time.Second
)

// Process is one supervised process: when it ends by itself it is started again, as a service manager would. One that was
// killed or stopped through its methods stays down until Start.
type Process struct {
	// Name is unique in the cluster: bbs-1, rep-2 …
	Name string
	// Log is the file with everything it printed, over all its runs.
	Log string

	path string
	args []string

	mu      sync.Mutex
	wanted  bool          // guarded by mu; restart when it ends
	cmd     *exec.Cmd     // guarded by mu; nil while it does not run
	ended   chan struct{} // guarded by mu; closed when the present run has ended
	runs    int           // guarded by mu
	last    string        // guarded by mu; how the last run ended
	stopped chan struct{} // guarded by mu; closed to break off a pause before a restart
	group   sync.WaitGroup
}

// Start starts the process unless it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	if p.wanted {
		p.mu.Unlock()
		return nil
	}
	p.wanted, p.stopped = true, make(chan struct{})
	stopped := p.stopped
	p.mu.Unlock()
	first := make(chan error, 1)
	p.group.Go(func() { p.supervise(stopped, first) })
	return <-first
}

// supervise runs the process again and again until it is not wanted. The thread is kept because the kernel ends the
// process when the thread that started it ends; that is how nothing of ours survives us.
func (p *Process) supervise(stopped <-chan struct{}, first chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := minRestartPause
	for {
		cmd, err := p.launch()
		first <- err
		first = make(chan error, 1)
		if err == nil {
			began := time.Now()
			p.wait(cmd)
			if time.Since(began) > maxRestartPause {
				pause = minRestartPause
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-stopped:
			timer.Stop()
			return
		case <-timer.C:
			pause = min(2*pause, maxRestartPause)
		}
		if !p.isWanted() {
			return
		}
	}
}

func (p *Process) launch() (*exec.Cmd, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }()     // the child has its own
	cmd := exec.Command(p.path, p.args...) //nolint:gosec,noctx // our own binary; it lives until somebody ends it
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that a Ctrl-C in the terminal reaches us alone and we stop things in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted {
		return nil, fmt.Errorf("starting %s: it was stopped meanwhile", p.Name)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	p.runs++
	return cmd, nil
}

func (p *Process) wait(cmd *exec.Cmd) {
	err := cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = cmd.ProcessState.String()
	if err != nil {
		if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			p.last = err.Error()
		}
	}
	p.cmd = nil
	close(p.ended)
}

func (p *Process) isWanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted
}

// PID of the present run; 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Runs counts how often it was started, and tells how its last run ended.
func (p *Process) Runs() (n int, last string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs, p.last
}

// Kill ends the process with SIGKILL and keeps it down.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks the process to end, kills it if it does not within 20 s, and keeps it down.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Crash kills the process with SIGKILL; the supervisor starts it again.
func (p *Process) Crash() { p.signal(syscall.SIGKILL) }

// Pause stops the process from running at all, as a machine that hangs; Resume lets it go on.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Signal sends any signal to the process, if it runs.
func (p *Process) Signal(s syscall.Signal) { p.signal(s) }

func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s) // it may have just ended
	}
}

func (p *Process) end(s syscall.Signal) {
	p.mu.Lock()
	if p.wanted {
		p.wanted = false
		close(p.stopped)
	}
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(s)
		_ = cmd.Process.Signal(syscall.SIGCONT) // a paused one could not end
		timer := time.NewTimer(stopTimeout)
		select {
		case <-ended:
		case <-timer.C:
			_ = cmd.Process.Kill()
			<-ended
		}
		timer.Stop()
	}
	p.group.Wait()
}

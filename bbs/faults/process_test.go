package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is one bbs. It ends with its test, and with the test binary however that ends.
type process struct {
	name    string
	address string // of its gRPC listener; it keeps it over restarts
	config  string // file
	log     string // file
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it has ended
}

// newProcess writes the configuration of a process that is to be started.
func newProcess(t *testing.T, name, address, config string) *process {
	t.Helper()
	folder := t.TempDir()
	p := &process{name: name, address: address, config: filepath.Join(folder, name+".yml"), log: filepath.Join(folder, name+".log")}
	require.NoError(t, os.WriteFile(p.config, []byte(config), 0o600))
	t.Cleanup(func() {
		if p.running() {
			p.kill(t)
		}
		if t.Failed() {
			t.Logf("the end of the log of %s: %s", name, p.lastLines())
		}
	})
	return p
}

// start runs the process, anew if it has run before.
func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	cmd, ended := exec.Command(program, "-config", p.config), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel ends the process with the thread that started it
		defer close(ended)
		err := cmd.Start()
		started <- errors.Join(err, log.Close())
		if err == nil {
			_ = cmd.Wait() // exitCode tells how it ended
		}
	}()
	require.NoError(t, <-started)
	p.cmd, p.ended = cmd, ended
}

func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process in the middle of whatever it does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	<-p.ended
}

// pause stops all threads of the process, and returns when none runs any more.
func (p *process) pause(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	eventually(t, p.name+" is stopped", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			return err
		}
		if state := stat[bytes.LastIndexByte(stat, ')')+2]; state != 'T' {
			return fmt.Errorf("it is in state %c", state)
		}
		return nil
	})
}

func (p *process) resume(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
}

// awaitExit returns the exit code of a process that ends by itself.
func (p *process) awaitExit(t *testing.T) int {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s did not end by itself", p.name)
		return 0
	}
}

// lastLines is the end of what the process has logged.
func (p *process) lastLines() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// patience is how long a test waits for what should take a few seconds. The machine may be busy.
const patience = time.Minute

// eventually asks until there is no error.
func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

// passes waits for a time that is part of the fault, such as how long the load runs before a kill.
func passes(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

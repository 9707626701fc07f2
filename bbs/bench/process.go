package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is more than what a process of the product takes to stop or to give up stopping.
const stopTimeout = 20 * time.Second

// build makes the programs that are measured, as they are in the source tree around the working folder.
func build(ctx context.Context, folder string) error {
	//nolint:gosec // a folder that was made here
	cmd := exec.CommandContext(ctx, "go", "build", "-o", folder+"/", "diego.internal/bbs/cmd/bbs", "diego.internal/locket/cmd/locket")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building bbs and locket: %w: %s", err, out)
	}
	return nil
}

// process is a program that runs. It ends with this program, however that one ends.
type process struct {
	name    string
	log     string
	address string // of its gRPC listener
	debug   string // of its debug listener
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it has ended
}

// spawn starts a program with a configuration file, and its output in a file beside that.
func spawn(name, program, config string) (*process, error) {
	folder := filepath.Dir(program)
	file := filepath.Join(folder, name+".yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	p := &process{name: name, log: filepath.Join(folder, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.cmd = exec.Command(program, "-config", file) //nolint:gosec,noctx // it was built here, and is stopped in order
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches only us, who stop things in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel ends the process with the thread that started it
		defer close(p.ended)
		err := p.cmd.Start()
		started <- errors.Join(err, log.Close())
		if err == nil {
			_ = p.cmd.Wait() // whoever waits for its end knows whether it was asked to
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop asks the process to end, and ends it if it does not.
func (p *process) stop() error {
	if !p.running() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it fails only if the process has just ended
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s did not stop within %v", p.name, stopTimeout)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// lastLines is the end of what the process printed, for an error.
func (p *process) lastLines() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// memory returns one of the sizes that the system knows of the process, in MiB: VmRSS is what is resident, VmHWM the most that
// ever was.
func (p *process) memory(size string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, size+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("the memory of %s is not known", p.name)
}

// freeAddress returns a local address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// poll calls f every few milliseconds until it returns true, or an error, or the process ends.
func (p *process) poll(ctx context.Context, f func() (bool, error)) error {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s", p.name, p.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %s", p.name, context.Cause(ctx), p.lastLines())
		}
	}
}

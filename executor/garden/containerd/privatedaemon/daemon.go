// Package privatedaemon runs a containerd of its own in one folder: own root, state, socket and FIFOs, without the CRI
// plugin and without touching the containerd of the machine. Tests and the one-machine launcher use it. It owns the
// processes that it starts and stops exactly those; what containers contain is the business of whoever creates them.
package privatedaemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

const (
	// startTimeout bounds the time from fork to the first answer; half a second is usual.
	startTimeout = 30 * time.Second
	// stopTimeout is how long containerd has to end before it is killed.
	stopTimeout = 10 * time.Second
	// pollInterval is the pause between looks at something that has no event to wait for.
	pollInterval = 10 * time.Millisecond
)

// configuration is what differs from containerd's defaults. The FIFO folder is the client's choice and not in it.
const configuration = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.native", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = %q

[ttrpc]
  address = %q

[debug]
  level = "warn"
`

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("program missing (Debian packages containerd and runc)")

// Daemon is one running containerd. Its methods must not be called concurrently.
type Daemon struct {
	folder string
	cmd    *exec.Cmd
	done   chan struct{} // closed when the daemon has ended
}

// Socket is the address of the daemon that lives in folder.
func Socket(folder string) string { return filepath.Join(folder, "containerd.sock") }

// Start starts containerd in folder, which is made if missing and may hold what an earlier daemon left: its containers
// go on. It returns when the daemon answers; the daemon outlives ctx. The path must be short enough for a unix socket
// (about 90 characters).
func Start(ctx context.Context, folder string) (*Daemon, error) {
	d := &Daemon{folder: folder}
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Address is the socket at which the daemon answers.
func (d *Daemon) Address() string { return Socket(d.folder) }

// Start starts the daemon again after Halt.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("starting containerd in %s: %w", d.folder, err)
	}
	return nil
}

func (d *Daemon) start(ctx context.Context) error {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err := os.MkdirAll(d.folder, 0o711); err != nil { //nolint:gosec // containers look their root up below this folder
		return fmt.Errorf("making folder: %w", err)
	}
	path := filepath.Join(d.folder, "config.toml")
	content := fmt.Sprintf(configuration, filepath.Join(d.folder, "root"), d.stateFolder(), d.Address(), d.Address()+".ttrpc")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("writing configuration: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(d.folder, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	defer func() { _ = log.Close() }()

	// No CommandContext: the daemon outlives the call that starts it, and its shims outlive the daemon.
	cmd := exec.Command(binary, "--config", path) //nolint:gosec,noctx // see above; the path is the installed containerd
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting process: %w", err)
	}
	d.cmd, d.done = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(d.done)
	}()
	if err := d.awaitAnswer(ctx); err != nil {
		return errors.Join(err, d.Halt())
	}
	return nil
}

// awaitAnswer polls the socket, then waits for the first answer of the API behind it.
func (d *Daemon) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("containerd did not answer in time, see containerd.log"))
	defer cancel()
	var last error
	for {
		if last = d.ask(ctx); last == nil {
			return nil
		}
		timer := time.NewTimer(pollInterval)
		select {
		case <-timer.C:
		case <-d.done:
			return fmt.Errorf("containerd ended at once: %s", d.logTail())
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}

func (d *Daemon) ask(ctx context.Context) error {
	if _, err := os.Stat(d.Address()); err != nil {
		return fmt.Errorf("looking for the socket: %w", err)
	}
	c, err := client.New(d.Address(), client.WithTimeout(startTimeout))
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Version(ctx); err != nil {
		return fmt.Errorf("asking for the version: %w", err)
	}
	return nil
}

func (d *Daemon) logTail() string {
	content, err := os.ReadFile(filepath.Join(d.folder, "containerd.log"))
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-1000):])
}

// Halt ends the daemon and leaves its containers running, as a restart of containerd does.
func (d *Daemon) Halt() error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-d.done:
	case <-timer.C:
		_ = d.cmd.Process.Kill()
		<-d.done
	}
	d.cmd = nil
	return nil
}

// Kill ends the daemon without warning.
func (d *Daemon) Kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	<-d.done
	d.cmd = nil
}

// Stop ends the daemon and everything it left: containers, shims and mounts below its folder. The folder itself is the
// caller's to remove. It may be repeated.
func (d *Daemon) Stop() error {
	err := d.Halt()
	return errors.Join(err, Sweep(d.folder))
}

func (d *Daemon) stateFolder() string { return filepath.Join(d.folder, "state") }

// Sweep kills a daemon of this folder that lost its launcher, and what it or an earlier one has left behind (shims and the
// containers below them), and unmounts what is mounted below the folder. It may be repeated and finds nothing the second time.
func Sweep(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	var errs []error
	for range 3 {
		// A shim that dies leaves its children to init; they carry no trace of the folder, so they are found first.
		found, err := processesOf(folder)
		if err != nil {
			return fmt.Errorf("sweeping %s: %w", folder, err)
		}
		if len(found) == 0 {
			break
		}
		errs = errs[:0]
		for _, p := range found {
			errs = append(errs, p.kill())
		}
		// The children come last and their groups go first.
		for _, p := range slices.Backward(found) {
			p.wipe()
		}
	}
	errs = append(errs, unmountBelow(folder))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweeping %s: %w", folder, err)
	}
	return nil
}

// refersTo tells whether a command line names the folder or something below it.
func refersTo(commandLine []byte, folder string) bool {
	for argument := range bytes.SplitSeq(commandLine, []byte{0}) {
		if string(argument) == folder || bytes.HasPrefix(argument, []byte(folder+"/")) {
			return true
		}
	}
	return false
}

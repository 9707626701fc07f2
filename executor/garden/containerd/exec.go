package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// askAgain is the pause before containerd is asked again, after it went away.
	askAgain = 200 * time.Millisecond
	// deleteTries bounds how often it is asked to delete what it refuses to.
	deleteTries = 25
)

// source is who started a process, and so knows of its end.
type source interface {
	// wait returns the exit code, or false if ctx ends first. It goes on through restarts of containerd.
	wait(ctx context.Context, p *process) (code int, ok bool)
	// signal reaches the process and those of its children that did not leave its group. One that has ended is no error.
	signal(ctx context.Context, p *process, signal unix.Signal) error
	// release forgets a process whose end is on disk, and makes its logger store what is in the pipes and end.
	release(ctx context.Context, p *process) error
}

// execSource is containerd: the process is a runc exec with a logger of its own.
type execSource struct{ pid int }

// exec registers the process with containerd and lets runc start it.
func (c *container) exec(ctx context.Context, p *process, oci *specs.Process) (source, error) {
	encoded, err := typeurl.MarshalAnyToProto(oci)
	if err != nil {
		return nil, fmt.Errorf("encoding specification: %w", err)
	}
	logger := c.backend.cfg.logger("dir", filepath.Join(p.folder, outputFolder))
	service := c.backend.client.TaskService()
	_, err = service.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: c.id, ExecID: p.name, Spec: encoded, Stdout: logger, Stderr: logger})
	if err != nil {
		return nil, fmt.Errorf("registering process: %w", errgrpc.ToNative(err))
	}
	started, err := service.Start(ctx, &tasks.StartRequest{ContainerID: c.id, ExecID: p.name})
	if err != nil {
		return nil, fmt.Errorf("starting process: %w", errgrpc.ToNative(err))
	}
	return execSource{pid: int(started.GetPid())}, nil
}

// logger is what a shim is to start with the pipes of a process.
func (c *Config) logger(mode, folder string) string {
	return (&url.URL{Scheme: "binary", Path: c.LoggerBinary, RawQuery: url.Values{mode: {folder}}.Encode()}).String()
}

// findExec takes up an exec of this or of an earlier program; nil if there is none that ran.
func (c *container) findExec(ctx context.Context, p *process) (source, error) {
	state, err := c.backend.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: c.id, ExecID: p.name})
	switch {
	case gone(err):
		return nil, nil //nolint:nilnil // there is none
	case err != nil:
		return nil, fmt.Errorf("looking for process: %w", errgrpc.ToNative(err))
	case state.GetProcess().GetStatus() == tasktypes.Status_CREATED:
		return nil, c.deleteExec(ctx, p.name)
	}
	return execSource{pid: int(state.GetProcess().GetPid())}, nil
}

// undoExec removes an exec that may or may not have started.
func (c *container) undoExec(ctx context.Context, p *process) error {
	service := c.backend.client.TaskService()
	if _, err := service.Kill(ctx, &tasks.KillRequest{ContainerID: c.id, ExecID: p.name, Signal: uint32(unix.SIGKILL)}); err == nil {
		// Only a process that did start is waited for; the others, which are usual here, refuse the signal.
		_, _ = service.Wait(ctx, &tasks.WaitRequest{ContainerID: c.id, ExecID: p.name})
	}
	return c.deleteExec(ctx, p.name)
}

func (c *container) deleteExec(ctx context.Context, exec string) error {
	_, err := c.backend.client.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: c.id, ExecID: exec})
	if err != nil && !gone(err) {
		return fmt.Errorf("deleting process: %w", errgrpc.ToNative(err))
	}
	return nil
}

func (execSource) wait(ctx context.Context, p *process) (int, bool) {
	b := p.container.backend
	for {
		response, err := b.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: p.container.id, ExecID: p.name})
		switch {
		case err == nil:
			return int(response.GetExitStatus()), true
		case ctx.Err() != nil:
			return 0, false
		case gone(err):
			return exitKilled, true
		}
		b.cfg.Log.DebugContext(ctx, "asking-for-exit-again", "handle", p.container.handle, "process", p.id, "error", errgrpc.ToNative(err))
		if !pause(ctx, askAgain) {
			return 0, false
		}
	}
}

func (s execSource) signal(_ context.Context, p *process, signal unix.Signal) error {
	// runc makes each process the leader of a group. The number could be another's only if the process has ended
	// and we have not heard of it yet, so look whose it is.
	if s.pid <= 0 || !p.container.owns(s.pid) {
		return nil
	}
	if err := unix.Kill(-s.pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// release asks again when containerd has just gone away: the logger of the process waits for it.
func (execSource) release(ctx context.Context, p *process) error {
	for try := 1; ; try++ {
		err := p.container.deleteExec(ctx, p.name)
		if err == nil || try == deleteTries || p.isAbandoned() || !pause(ctx, askAgain) {
			return err
		}
	}
}

// pause returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// endedSource is that of a process whose end was noted by an earlier program, which may have been killed before it let go of
// it.
type endedSource struct{}

func (endedSource) wait(context.Context, *process) (int, bool) { return 0, false }

func (endedSource) signal(context.Context, *process, unix.Signal) error { return nil }

func (endedSource) release(ctx context.Context, p *process) error {
	return errors.Join(p.container.releaseSpawned(ctx, p), execSource{}.release(ctx, p))
}

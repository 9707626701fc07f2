package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden/containerd/outputlog"
	"diego.internal/executor/garden/containerd/spawn"
)

// childSource is the init of the container: the process is its child, and the keeper of the container has its output.
// docs/decisions/0011-processes-are-started-by-the-init.md says why.
type childSource struct{ child *spawn.Child }

// notSpawnedError says that the init did not start a process and that nothing is left of the attempt.
type notSpawnedError struct{ err error }

func (e *notSpawnedError) Error() string { return "not started by the init: " + e.err.Error() }

func (e *notSpawnedError) Unwrap() error { return e.err }

// errNoSpawn is for containers of a release whose init starts nothing, and for those whose init could not be reached.
var errNoSpawn = errors.New("its init starts no processes")

// reachInit connects to the container's init, once for all callers.
func (c *container) reachInit(ctx context.Context) (*spawn.Client, error) {
	c.reach.Lock()
	defer c.reach.Unlock()
	if c.link != nil {
		return c.link, nil
	}
	if !c.record.Spawns || c.unreachable {
		return nil, errNoSpawn
	}
	pid := c.pid()
	link, err := spawn.Reach(ctx, pid, func() bool { return c.owns(pid) })
	if err != nil {
		// What the machine refuses now it will refuse the next time, and asking for it takes long.
		if c.unreachable = ctx.Err() == nil; c.unreachable {
			c.backend.noteUnreachable(ctx, c.handle, err)
		}
		return nil, err
	}
	c.link = link
	return link, nil
}

// noteUnreachable warns once: what one init refuses is usually the machine's doing.
func (b *Backend) noteUnreachable(ctx context.Context, handle string, err error) {
	first := false
	b.unreachable.Do(func() { first = true })
	if first {
		b.cfg.Log.WarnContext(ctx, "init-not-reached", "handle", handle, "error", err)
		return
	}
	b.cfg.Log.DebugContext(ctx, "init-not-reached", "handle", handle, "error", err)
}

// letGo closes the connection to the init, which needs none.
func (c *container) letGo() {
	c.reach.Lock()
	defer c.reach.Unlock()
	if c.link != nil {
		_ = c.link.Close()
		c.link = nil
	}
}

// outputName is what the keeper calls the folder of a process's output.
func (p *process) outputName() string {
	return filepath.Join(processesFolder, filepath.Base(p.folder), outputFolder)
}

// spawn lets the init start a process. Any error but a notSpawnedError leaves it open whether it did.
func (c *container) spawn(ctx context.Context, p *process, oci *specs.Process) (source, error) {
	link, err := c.reachInit(ctx)
	if err != nil {
		return nil, &notSpawnedError{err}
	}
	files, err := c.keep(ctx, p, c.record.Users.host(oci.User.UID))
	if err != nil {
		return nil, &notSpawnedError{err}
	}
	defer files.close()
	wanted := spawn.Process{Args: oci.Args, Env: oci.Env, Dir: oci.Cwd, UID: oci.User.UID, GID: oci.User.GID, Groups: oci.User.AdditionalGids}
	for _, limit := range oci.Rlimits {
		wanted.OpenFiles = limit.Hard // the only one there is
	}
	child, err := link.Start(ctx, p.name, wanted, [3]*os.File{c.backend.nothing, files.stdout, files.stderr})
	if _, ok := errors.AsType[*spawn.StartError](err); ok || errors.Is(err, spawn.ErrTaken) {
		return nil, &notSpawnedError{err}
	}
	if err != nil {
		return nil, err
	}
	return childSource{child}, nil
}

// pipes are what a process writes to.
type pipes struct{ stdout, stderr *os.File }

func (o pipes) close() {
	_ = o.stdout.Close()
	_ = o.stderr.Close()
}

// keep makes pipes and gives their reading ends to the keeper. That comes before the process is started: one that runs has
// somebody who reads, however early we are killed. If it is not started, the keeper sees the end of the pipes.
func (c *container) keep(ctx context.Context, p *process, owner uint32) (pipes, error) {
	var read, write [2]*os.File
	defer func() {
		for _, file := range read {
			_ = file.Close() // nil is harmless
		}
	}()
	for at := range read {
		var pair [2]int
		// Not by package os, which makes pipes that do not block: the writing ends are for programs that do not expect it.
		if err := unix.Pipe2(pair[:], unix.O_CLOEXEC); err != nil {
			pipes{write[0], write[1]}.close()
			return pipes{}, fmt.Errorf("making pipes: %w", err)
		}
		read[at], write[at] = os.NewFile(uintptr(pair[0]), "output"), os.NewFile(uintptr(pair[1]), "output")
	}
	made := pipes{write[0], write[1]}
	// The user may open what /dev/stdout leads to.
	err := errors.Join(write[0].Chown(int(owner), -1), write[1].Chown(int(owner), -1))
	if err == nil {
		err = outputlog.Follow(ctx, c.folder, p.outputName(), read[0], read[1])
	}
	if err != nil {
		made.close()
		return pipes{}, fmt.Errorf("preparing output: %w", err)
	}
	return made, nil
}

// findSpawned takes up a process that the init started for this or an earlier program; nil if there is none.
func (c *container) findSpawned(ctx context.Context, p *process) (source, error) {
	link, err := c.reachInit(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // it has none
	}
	child, err := link.Find(ctx, p.name)
	switch {
	case errors.Is(err, spawn.ErrUnknown), errors.Is(err, spawn.ErrGone):
		return nil, nil //nolint:nilnil // there is none
	case err != nil:
		return nil, err
	}
	return childSource{child}, nil
}

// undoSpawn removes a process that may or may not have started.
func (c *container) undoSpawn(ctx context.Context, p *process) error {
	found, err := c.findSpawned(ctx, p)
	if err != nil || found == nil {
		return err
	}
	if err := found.signal(ctx, p, unix.SIGKILL); err != nil {
		return err
	}
	if _, ok := found.wait(ctx, p); !ok {
		return fmt.Errorf("waiting for the end of process: %w", context.Cause(ctx))
	}
	return found.release(ctx, p)
}

func (s childSource) wait(ctx context.Context, _ *process) (int, bool) {
	code, err := s.child.Wait(ctx)
	switch {
	case err == nil:
		return code, true
	case ctx.Err() != nil:
		return 0, false
	}
	return exitKilled, true // with its init
}

func (s childSource) signal(ctx context.Context, _ *process, signal unix.Signal) error {
	return s.child.Signal(ctx, signal)
}

func (childSource) release(ctx context.Context, p *process) error {
	return p.container.releaseSpawned(ctx, p)
}

// releaseSpawned does nothing for a process that the init does not know.
func (c *container) releaseSpawned(ctx context.Context, p *process) error {
	link, err := c.reachInit(ctx)
	if err != nil {
		return nil //nolint:nilerr // an init that cannot be reached has started nothing, or has ended
	}
	if err := outputlog.Finish(ctx, c.folder, p.outputName()); err != nil && !keeperGone(err) {
		return err
	}
	return link.Forget(ctx, p.name)
}

// keeperGone tells that nobody keeps the output of a container any more: all streams have ended by that.
func keeperGone(err error) bool {
	for _, sign := range []error{os.ErrNotExist, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, io.EOF} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

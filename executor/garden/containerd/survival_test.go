package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/privatedaemon"
)

// output is a buffer that a follower and the test use at the same time.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func shell(id, script string) garden.ProcessSpec {
	return garden.ProcessSpec{ID: id, Path: "/bin/sh", Args: []string{"-c", script}}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			require.Fail(t, "timed out", "waiting until %s", what)
		}
	}
}

// TestDaemonRestarts halts and kills containerd under running processes: they go on, their waiters hear of their ends
// and no output is lost.
func TestDaemonRestarts(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "gd") //nolint:usetesting // short, because a socket lies below it
	require.NoError(t, err)
	require.NoError(t, os.Chmod(folder, 0o711)) // users of containers look their root up below it
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	daemon, err := privatedaemon.Start(t.Context(), folder)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, daemon.Stop()) })
	b := newBench(t, func(c *Config) { c.Socket = daemon.Address() })

	c := b.create(t, "h")
	var out output
	p, err := c.Run(t.Context(), shell("p", "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 6"), garden.ProcessIO{Stdout: &out})
	require.NoError(t, err)
	for _, end := range []func(){func() { require.NoError(t, daemon.Halt()) }, daemon.Kill} {
		end()
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		require.ErrorIs(t, b.backend.Ping(short), garden.ErrEngineNotRunning)
		cancel()
		seen := len(out.String())
		eventually(t, "output comes without containerd", func() bool { return len(out.String()) > seen })
		require.NoError(t, daemon.Start(t.Context()))
		eventually(t, "containerd is found again", func() bool { return b.backend.Ping(t.Context()) == nil })
	}
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 6, status.Code)
	require.Equal(t, 300, strings.Count(out.String(), "\n"))
	require.NoError(t, b.backend.Destroy(t.Context(), "h"))
}

// TestKilledAnywhere runs a creation in a child process and kills it after different times: whatever it had made by
// then, the next start over the same state leaves nothing but whole containers.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.create(t, "warm") // unpacks the image, so that the time goes into what is killed
	require.NoError(t, b.backend.Destroy(t.Context(), "warm"))
	require.NoError(t, b.backend.Close())
	for delay := range 16 {
		kill(t, b.cfg, time.Duration(delay*8)*time.Millisecond)
		b.open(t)
		listed, err := b.backend.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
		require.NoError(t, err)
		for _, c := range listed {
			p, err := c.Run(t.Context(), shell("p", "exit 3"), garden.ProcessIO{})
			require.NoError(t, err, "after %d: what is listed works", delay)
			status, err := p.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, 3, status.Code)
			require.NoError(t, b.backend.Destroy(t.Context(), c.Handle()))
		}
		eventually(t, "nothing is left", func() bool { return len(b.leftovers(t)) == 0 })
		require.NoError(t, b.backend.Close())
	}
	b.open(t)
}

const (
	childStateFolder = "GARDEN_TEST_CHILD_STATE_FOLDER"
	childSocket      = "GARDEN_TEST_CHILD_SOCKET"
	childCell        = "GARDEN_TEST_CHILD_CELL"
	childPool        = "GARDEN_TEST_CHILD_POOL"
)

// kill runs child in a process of its own and kills it some time after it begins to create.
func kill(t *testing.T, cfg Config, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childStateFolder+"="+cfg.StateFolder, childSocket+"="+cfg.Socket, childCell+"="+cfg.CellID, childPool+"="+cfg.NetworkPool.String())
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ready := make([]byte, len("creating"))
	_, err = stdout.Read(ready)
	require.NoError(t, err)
	require.Equal(t, "creating", string(ready))
	timer := time.NewTimer(after)
	<-timer.C
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}

// TestMachineRestart stands for a reboot: records are there, containers are not.
func TestMachineRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h")
	require.NoError(t, b.backend.Close())
	init := c.(*container).pid()
	found, err := os.FindProcess(init)
	require.NoError(t, err)
	require.NoError(t, found.Kill())
	eventually(t, "the init is gone", func() bool {
		_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(init)))
		return os.IsNotExist(err)
	})
	b.open(t)
	listed, err := b.backend.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(t, err)
	require.Empty(t, listed)
	require.Empty(t, b.leftovers(t))
}

// TestInitDies is the death of a container under a client that watches it.
func TestInitDies(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h")
	p, err := c.Run(t.Context(), shell("p", "sleep 1000"), garden.ProcessIO{})
	require.NoError(t, err)
	found, err := os.FindProcess(c.(*container).pid())
	require.NoError(t, err)
	require.NoError(t, found.Kill())
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 137, status.Code)
	_, err = c.Run(t.Context(), shell("q", "true"), garden.ProcessIO{})
	require.Error(t, err)
	require.NoError(t, b.backend.Destroy(t.Context(), "h"))
}

func TestSecondBackendIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := New(t.Context(), b.cfg)
	require.ErrorIs(t, err, ErrInUse)
}

// TestCellsCoexist has two cells with one daemon, and containers of one handle: neither sees or harms the other's.
func TestCellsCoexist(t *testing.T) {
	t.Parallel()
	one, two := newBench(t), newBench(t)
	one.create(t, "same")
	kept := two.create(t, "same")
	require.NoError(t, one.backend.Clean(t.Context()))
	two.reopen(t)
	c, err := two.backend.Lookup(t.Context(), kept.Handle())
	require.NoError(t, err)
	p, err := c.Run(t.Context(), shell("p", "exit 3"), garden.ProcessIO{})
	require.NoError(t, err)
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, status.Code)
}

// TestPrivileged has what an unprivileged container is refused.
func TestPrivileged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: b.image(), Privileged: true})
	require.NoError(t, err)
	p, err := c.Run(t.Context(), shell("p", "mkdir -p /mnt && mount -t tmpfs none /mnt"), garden.ProcessIO{})
	require.NoError(t, err)
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Code)
}

// TestManyProcesses runs more short processes than are kept, as checks do, and then looks for the first and the last.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h")
	last := ""
	for n := range keepEnded + 3 {
		last = "p-" + strconv.Itoa(n)
		p, err := c.Run(t.Context(), shell(last, "true"), garden.ProcessIO{})
		require.NoError(t, err)
		_, err = p.Wait(t.Context())
		require.NoError(t, err)
	}
	_, err := c.Attach(t.Context(), "p-0", garden.ProcessIO{})
	require.ErrorIs(t, err, garden.ErrUnknownProcess)
	p, err := c.Attach(t.Context(), last, garden.ProcessIO{})
	require.NoError(t, err)
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Code)
	entries, err := os.ReadDir(filepath.Join(c.(*container).folder, processesFolder))
	require.NoError(t, err)
	require.Len(t, entries, keepEnded)
}

// TestDaemonKilledAnywhere kills containerd at different moments of a creation. The creation fails or it does not; when
// containerd is back, what failed can be destroyed and leaves nothing, and what did not works.
func TestDaemonKilledAnywhere(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "gk") //nolint:usetesting // short, because a socket lies below it
	require.NoError(t, err)
	require.NoError(t, os.Chmod(folder, 0o711)) // users of containers look their root up below it
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	daemon, err := privatedaemon.Start(t.Context(), folder)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, daemon.Stop()) })
	b := newBench(t, func(c *Config) { c.Socket = daemon.Address() })
	b.create(t, "warm")
	require.NoError(t, b.backend.Destroy(t.Context(), "warm"))
	failed := 0
	for round := range 16 {
		handle := fmt.Sprintf("h%d", round)
		created := make(chan error, 1)
		go func() {
			_, err := b.backend.Create(t.Context(), garden.ContainerSpec{
				Handle: handle, Image: b.image(), Limits: garden.Limits{DiskInBytes: 8 * mebi}, NetIn: []garden.NetIn{{ContainerPort: 8080}},
				BindMounts: []garden.BindMount{{SrcPath: shared.rootfs, DstPath: "/mnt", ReadOnly: true}},
			})
			created <- err
		}()
		timer := time.NewTimer(time.Duration(round*8) * time.Millisecond)
		<-timer.C
		daemon.Kill()
		err := <-created
		require.NoError(t, daemon.Start(t.Context()))
		eventually(t, "containerd is found again", func() bool { return b.backend.Ping(t.Context()) == nil })
		if err == nil {
			c, err := b.backend.Lookup(t.Context(), handle)
			require.NoError(t, err)
			require.Equal(t, "works\n", run(t, c, shell("p", "echo works")))
		} else {
			failed++
			require.ErrorIs(t, err, garden.ErrEngineNotRunning, "round %d", round)
		}
		// The first attempt may come while containerd still finds out what it has.
		eventually(t, "it can be destroyed", func() bool {
			err := b.backend.Destroy(t.Context(), handle)
			return err == nil || errors.Is(err, garden.ErrUnknownHandle)
		})
		eventually(t, "nothing is left", func() bool { return len(b.leftovers(t)) == 0 })
	}
	require.Positive(t, failed, "some creations were cut off")
}

// TestForgottenShim is a shim that does not end by itself after its container was destroyed.
func TestForgottenShim(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h").(*container)
	_, err := c.Run(t.Context(), shell("p", "sleep 1000"), garden.ProcessIO{})
	require.NoError(t, err)
	require.NoError(t, b.backend.destroyLate(b.backend.within(t.Context()), c.id))
	shims, err := shimsOf(func(id string) bool { return id == c.id })
	require.NoError(t, err)
	require.Empty(t, shims)
	require.NoError(t, b.backend.Destroy(t.Context(), "h"))
	eventually(t, "nothing is left", func() bool { return len(b.leftovers(t)) == 0 })
}

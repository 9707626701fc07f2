package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newShell makes a process that runs a script.
func newShell(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{Name: "shell", Log: filepath.Join(t.TempDir(), "shell.log"), path: "/bin/sh", args: []string{"-c", script}}
	t.Cleanup(p.Kill)
	return p
}

func logOf(t *testing.T, p *Process) string {
	t.Helper()
	text, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	return string(text)
}

func TestProcessIsStartedAgainWhenItEndsByItself(t *testing.T) {
	t.Parallel()
	p := newShell(t, "echo run; exit 3")
	require.NoError(t, p.Start())
	require.Eventually(t, func() bool { runs, _ := p.Runs(); return runs >= 2 }, 10*time.Second, 10*time.Millisecond)
	_, last := p.Runs()
	require.Equal(t, "exit status 3", last)
	require.GreaterOrEqual(t, strings.Count(logOf(t, p), "run"), 1)
}

func TestProcessThatWasKilledStaysDownUntilStart(t *testing.T) {
	t.Parallel()
	p := newShell(t, "echo run; exec sleep 1000")
	require.NoError(t, p.Start())
	require.NotZero(t, p.PID())
	p.Kill()
	require.Zero(t, p.PID())
	runs, last := p.Runs()
	require.Equal(t, 1, runs)
	require.Equal(t, "signal: killed", last)
	require.NoError(t, p.Start())
	require.NotZero(t, p.PID())
	p.Stop()
	require.Zero(t, p.PID())
	runs, last = p.Runs()
	require.Equal(t, 2, runs)
	require.Equal(t, "signal: terminated", last)
}

func TestProcessThatIsPausedCanBeStopped(t *testing.T) {
	t.Parallel()
	p := newShell(t, "exec sleep 1000")
	require.NoError(t, p.Start())
	p.Pause()
	p.Stop()
	require.Zero(t, p.PID())
}

func TestProcessThatCannotBeStartedSaysSo(t *testing.T) {
	t.Parallel()
	p := &Process{Name: "nothing", Log: filepath.Join(t.TempDir(), "log"), path: "/does/not/exist"}
	t.Cleanup(p.Kill)
	require.ErrorContains(t, p.Start(), "starting nothing")
}

func TestStartTimeTellsProcessesApart(t *testing.T) {
	t.Parallel()
	own, err := startTime(os.Getpid())
	require.NoError(t, err)
	p := newShell(t, "exec sleep 1000")
	require.NoError(t, p.Start())
	other, err := startTime(p.PID())
	require.NoError(t, err)
	require.GreaterOrEqual(t, other, own)
	p.Signal(syscall.SIGKILL)
	p.Kill()
	_, err = startTime(1 << 30)
	require.Error(t, err)
}

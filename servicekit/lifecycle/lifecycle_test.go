package lifecycle_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/lifecycle"
)

// scenario is the environment variable by which the test binary runs itself as a process of its own.
const scenario = "LIFECYCLE_TEST_SCENARIO"

// processes are what such a process does.
var processes = map[string]func(ctx context.Context, args []string) error{
	"ok":      func(context.Context, []string) error { return nil },
	"failure": func(context.Context, []string) error { return errors.New("it broke") },
	"done":    func(context.Context, []string) error { return config.ErrDone },
	"config": func(context.Context, []string) error {
		return lifecycle.WithExitCode(errors.New("bad key"), lifecycle.ExitConfig)
	},
	"lock": func(context.Context, []string) error {
		return fmt.Errorf("holding: %w", lifecycle.WithExitCode(errors.New("lost"), lifecycle.ExitLockLost))
	},
	"panic":      func(context.Context, []string) error { panic("on purpose") },
	"cancelled":  func(context.Context, []string) error { return context.Canceled },
	"wait":       func(ctx context.Context, _ []string) error { ready(); <-ctx.Done(); return ctx.Err() },
	"wait-cause": func(ctx context.Context, _ []string) error { ready(); <-ctx.Done(); return context.Cause(ctx) },
	"wait-lost": func(ctx context.Context, _ []string) error {
		ready()
		<-ctx.Done()
		return lifecycle.WithExitCode(ctx.Err(), lifecycle.ExitLockLost)
	},
	"stuck": func(ctx context.Context, _ []string) error {
		ready()
		<-ctx.Done()
		ready()
		select {}
	},
}

func ready() { fmt.Println("ready") }

func TestMain(m *testing.M) {
	if name := os.Getenv(scenario); name != "" {
		os.Exit(lifecycle.Main("test", processes[name]))
	}
	os.Exit(m.Run())
}

// process is a running scenario.
type process struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, name string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), os.Args[0])}
	p.cmd.Env = append(os.Environ(), scenario+"="+name)
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdout = bufio.NewReader(out)
	require.NoError(t, p.cmd.Start())
	return p
}

// end waits and returns the exit code and what is left of stdout.
func (p *process) end(t *testing.T) (code int, stdout string) {
	t.Helper()
	var out bytes.Buffer
	_, err := p.stdout.WriteTo(&out)
	require.NoError(t, err)
	err = p.cmd.Wait()
	if err != nil {
		_, isExit := errors.AsType[*exec.ExitError](err)
		require.True(t, isExit, "%v", err)
	}
	return p.cmd.ProcessState.ExitCode(), out.String()
}

func (p *process) waitReady(t *testing.T) {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
}

func TestMainExitCodes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		scenario       string
		want           int
		stdout, stderr string
	}{
		"no error is success":                   {scenario: "ok", want: lifecycle.ExitOK},
		"work that is done is success":          {scenario: "done", want: lifecycle.ExitOK},
		"an error is a failure in the log":      {scenario: "failure", want: lifecycle.ExitFailure, stdout: `"error":"it broke"`},
		"a bad configuration is told on stderr": {scenario: "config", want: lifecycle.ExitConfig, stderr: "test: bad key"},
		"a lost lock has its own code":          {scenario: "lock", want: lifecycle.ExitLockLost, stdout: "holding: lost"},
		"a panic is a failure with its stack":   {scenario: "panic", want: lifecycle.ExitFailure, stdout: "lifecycle_test.go"},
		"cancelled without signal is a failure": {scenario: "cancelled", want: lifecycle.ExitFailure, stdout: "context canceled"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, test.scenario)
			code, stdout := p.end(t)
			require.Equal(t, test.want, code, "%s%s", stdout, &p.stderr)
			require.Contains(t, stdout, test.stdout)
			require.Contains(t, p.stderr.String(), test.stderr)
			told := strings.Count(stdout, "\n") + strings.Count(p.stderr.String(), "\n")
			require.LessOrEqual(t, told, 1, "an error is told once: %s%s", stdout, &p.stderr)
		})
	}
}

func TestMainSignals(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		scenario string
		signal   syscall.Signal
		want     int
	}{
		"SIGTERM is a clean stop":                  {scenario: "wait", signal: syscall.SIGTERM, want: lifecycle.ExitOK},
		"SIGINT is a clean stop":                   {scenario: "wait", signal: syscall.SIGINT, want: lifecycle.ExitOK},
		"the cause of the stop is no failure":      {scenario: "wait-cause", signal: syscall.SIGTERM, want: lifecycle.ExitOK},
		"a failure during the stop keeps its code": {scenario: "wait-lost", signal: syscall.SIGTERM, want: lifecycle.ExitLockLost},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, test.scenario)
			p.waitReady(t)
			require.NoError(t, p.cmd.Process.Signal(test.signal))
			code, stdout := p.end(t)
			require.Equal(t, test.want, code, "%s%s", stdout, &p.stderr)
		})
	}
}

func TestMainSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, "stuck")
	p.waitReady(t)
	began := time.Now()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.waitReady(t) // it has seen the first signal
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	code, _ := p.end(t)
	require.Equal(t, lifecycle.ExitForced, code)
	require.Less(t, time.Since(began), lifecycle.StopTimeout)
}

func TestWithExitCode(t *testing.T) {
	t.Parallel()
	require.NoError(t, lifecycle.WithExitCode(nil, 3))
	cause := errors.New("x")
	require.ErrorIs(t, lifecycle.WithExitCode(cause, 3), cause)
}

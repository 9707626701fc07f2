package spawn

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// initEnvironment makes the test binary an init: it is what Serve and Launch take for their own program.
const initEnvironment = "SPAWN_TEST_INIT"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == LaunchArgument {
		Launch()
	}
	if os.Getenv(initEnvironment) != "" {
		fmt.Fprintln(os.Stderr, Serve())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serve starts an init that is not in a container.
func serve(t *testing.T) *exec.Cmd {
	t.Helper()
	init := exec.Command(os.Args[0])
	init.Env = append(os.Environ(), initEnvironment+"=1")
	init.Stderr = os.Stderr
	require.NoError(t, init.Start())
	t.Cleanup(func() {
		_ = init.Process.Kill()
		_ = init.Wait()
	})
	return init
}

func reachInit(t *testing.T, init *exec.Cmd) *Client {
	t.Helper()
	c, err := Reach(t.Context(), init.Process.Pid, func() bool { return true })
	require.NoError(t, err, "it needs root and Linux 5.6")
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// start runs a script whose output goes to a file.
func start(t *testing.T, c *Client, id, script string) (*Child, string, error) {
	t.Helper()
	said := filepath.Join(t.TempDir(), "said")
	file, err := os.Create(said)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	child, err := c.Start(t.Context(), id, Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/nowhere:/bin", "A=b"}, Dir: "/"}, [3]*os.File{file, file, file})
	return child, said, err
}

func TestClient(t *testing.T) {
	t.Parallel()
	init := serve(t)
	c := reachInit(t, init)

	child, said, err := start(t, c, "one", "echo $A; exit 7")
	require.NoError(t, err)
	code, err := child.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, code)
	content, err := os.ReadFile(said)
	require.NoError(t, err)
	require.Equal(t, "b\n", string(content))

	_, _, err = start(t, c, "one", "true")
	require.ErrorIs(t, err, ErrTaken, "its exit is still remembered")
	require.NoError(t, child.Signal(t.Context(), unix.SIGKILL), "one that has ended is no error")
	require.NoError(t, c.Forget(t.Context(), "one"))
	require.NoError(t, c.Forget(t.Context(), "one"), "and again")
	_, err = c.Find(t.Context(), "one")
	require.ErrorIs(t, err, ErrUnknown)

	lasting, _, err := start(t, c, "one", "sleep 1000; true")
	require.NoError(t, err)
	require.Error(t, c.Forget(t.Context(), "one"), "its exit would be lost")
	require.NoError(t, lasting.Signal(t.Context(), unix.SIGTERM))
	code, err = lasting.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 143, code)
}

func TestClientFailures(t *testing.T) {
	t.Parallel()
	c := reachInit(t, serve(t))
	nothing, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer func() { require.NoError(t, nothing.Close()) }()
	for sentence, test := range map[string]struct {
		process Process
		stage   Stage
		errno   unix.Errno
	}{
		"no program":            {Process{Args: []string{"/no/such"}, Dir: "/"}, StageProgram, unix.ENOENT},
		"no program in PATH":    {Process{Args: []string{"such"}, Env: []string{"PATH=/"}, Dir: "/"}, StageProgram, unix.ENOENT},
		"a folder as program":   {Process{Args: []string{"/tmp"}, Dir: "/"}, StageProgram, unix.EACCES},
		"no folder":             {Process{Args: []string{"/bin/true"}, Dir: "/no/such"}, StageFolder, unix.ENOENT},
		"nothing":               {Process{Dir: "/"}, StageSpecification, unix.EBADMSG},
		"a user without rights": {Process{Args: []string{"/proc/1/mem"}, Dir: "/", UID: 4711, GID: 4711}, StageProgram, unix.EACCES},
	} {
		_, err := c.Start(t.Context(), "p", test.process, [3]*os.File{nothing, nothing, nothing})
		var failure *StartError
		require.ErrorAs(t, err, &failure, sentence)
		require.Equal(t, StartError{test.stage, test.errno}, *failure, sentence)
		_, err = c.Find(t.Context(), "p")
		require.ErrorIs(t, err, ErrUnknown, sentence)
	}
}

// TestClientAfterClient is a restart of the engine: the second one finds what the first one started, what has ended
// meanwhile and what has not, and is not confused by what the first one has not read.
func TestClientAfterClient(t *testing.T) {
	t.Parallel()
	init := serve(t)
	first := reachInit(t, init)
	for n := range 20 {
		_, _, err := start(t, first, fmt.Sprintf("ends-%d", n), "sleep 0.2; exit 3")
		require.NoError(t, err)
	}
	lasting, _, err := start(t, first, "lasts", "read x </dev/zero; sleep 1000")
	require.NoError(t, err)
	require.NoError(t, first.Close())
	_, err = lasting.Wait(t.Context())
	require.ErrorIs(t, err, ErrGone)
	second := reachInit(t, init)
	for n := range 20 {
		child, err := second.Find(t.Context(), fmt.Sprintf("ends-%d", n))
		require.NoError(t, err)
		code, err := child.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, code)
	}
	found, err := second.Find(t.Context(), "lasts")
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = found.Wait(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, found.Signal(t.Context(), unix.SIGKILL))
	code, err := found.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 137, code)
}

// TestNobodyReads has more exits than a socket holds, while no engine is there.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	s := newServer(os.NewFile(uintptr(pair[0]), "engine"))
	engine := os.NewFile(uintptr(pair[1]), "init")
	const exits = 1000
	for n := range exits {
		id := fmt.Sprintf("p-%d", n)
		s.children[id] = &child{id: id, start: uint64(n), exited: true, code: uint32(n % 256)}
	}
	s.wakeLocked()
	told := make(chan struct{})
	go func() {
		defer close(told)
		s.tell()
	}()
	codes := map[uint64]uint32{}
	for range exits {
		m, _, err := receive(engine)
		require.NoError(t, err)
		codes[m.number] = m.code
	}
	require.Len(t, codes, exits, "each is told once")
	require.EqualValues(t, 7, codes[256+7])
	close(s.wake)
	<-told
	require.NoError(t, s.socket.Close())
	require.NoError(t, engine.Close())
}

func TestInitEnds(t *testing.T) {
	t.Parallel()
	init := serve(t)
	c := reachInit(t, init)
	child, _, err := start(t, c, "p", "sleep 1000")
	require.NoError(t, err)
	require.NoError(t, init.Process.Kill())
	_, err = child.Wait(t.Context())
	require.ErrorIs(t, err, ErrGone)
	_, _, err = start(t, c, "q", "true")
	require.ErrorIs(t, err, ErrGone)
	require.Error(t, init.Wait())
	_, err = Reach(t.Context(), init.Process.Pid, func() bool { return true })
	require.ErrorIs(t, err, ErrGone)
}

// TestReachWrong has a process that is not an init, and one that is another than was meant.
func TestReachWrong(t *testing.T) {
	t.Parallel()
	sleep := exec.CommandContext(t.Context(), "sleep", "1000")
	require.NoError(t, sleep.Start())
	defer func() { _ = sleep.Wait() }()
	defer func() { require.NoError(t, sleep.Process.Kill()) }()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Reach(short, sleep.Process.Pid, func() bool { return true })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = Reach(t.Context(), sleep.Process.Pid, func() bool { return false })
	require.ErrorIs(t, err, ErrGone)
}

// TestLargeProcess has more variables than fit into a message.
func TestLargeProcess(t *testing.T) {
	t.Parallel()
	c := reachInit(t, serve(t))
	said := filepath.Join(t.TempDir(), "said")
	file, err := os.Create(said)
	require.NoError(t, err)
	large := []string{"PATH=/bin:/usr/bin"}
	for n := range 10 {
		large = append(large, fmt.Sprintf("LARGE_%d=%s", n, strings.Repeat("x", 100_000)))
	}
	child, err := c.Start(t.Context(), "p", Process{Args: []string{"env"}, Env: large, Dir: "/"}, [3]*os.File{file, file, file})
	require.NoError(t, err)
	_, err = child.Wait(t.Context())
	require.NoError(t, err)
	require.NoError(t, file.Close())
	content, err := os.ReadFile(said)
	require.NoError(t, err)
	require.Equal(t, 1_000_000, bytes.Count(content, []byte("x")))
}

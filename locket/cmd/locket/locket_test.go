package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgres/privateserver"
)

var discard = slog.New(slog.DiscardHandler)

// patience is how long a test waits for what should take a second or two.
const patience = 30 * time.Second

// installation is a database of its own and two locket processes.
type installation struct {
	ca       *mtlstest.Authority
	binary   string
	database *privateserver.Server
	folder   string
	port     int
	lockets  []*process
	ttl      time.Duration // of what hold holds; 0 is the default
}

// build makes the binary, once for all tests.
var build = sync.OnceValues(func() (string, error) { //nolint:gochecknoglobals // one build for all tests of the package
	folder, err := os.MkdirTemp("", "locket-test-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(folder, "locket")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building locket: %w: %s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	if settings := os.Getenv(contenderEnv); settings != "" {
		contend(settings) // this binary is also the contender of TestLocksAreLinearizable
		return
	}
	code := m.Run()
	if binary, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary)) // a temporary folder
	}
	os.Exit(code)
}

// prepare makes an installation without lockets. Its database listens on port, if that is not 0, as well
// as on its socket.
func prepare(t *testing.T, port int) *installation {
	t.Helper()
	binary, err := build()
	require.NoError(t, err)
	folder, err := os.MkdirTemp("", "locket-pg-") //nolint:usetesting // short, for its socket, and its parents let the server's user through
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	in := &installation{ca: mtlstest.NewAuthority(t), binary: binary, folder: folder, port: port}
	in.startDatabase(t)
	t.Cleanup(func() { in.stopDatabase(t) })
	return in
}

func install(t *testing.T) *installation {
	t.Helper()
	in := prepare(t, 0)
	for range 2 {
		in.lockets = append(in.lockets, in.start(t, place{}))
	}
	return in
}

// place is where a locket listens and how it reaches its database; what is empty is chosen.
type place struct{ listen, database string }

func (in *installation) startDatabase(t *testing.T) {
	t.Helper()
	var err error // not Unsafe: that loses the data when it stops
	in.database, err = privateserver.Start(context.WithoutCancel(t.Context()), privateserver.Config{Folder: in.folder, Port: in.port})
	require.NoError(t, err)
}

func (in *installation) stopDatabase(t *testing.T) {
	t.Helper()
	if in.database == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	require.NoError(t, in.database.Stop(ctx))
	in.database = nil
}

// process is one running locket.
type process struct {
	cmd    *exec.Cmd
	exited <-chan struct{}
	grpc   string
	debug  string

	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (in *installation) config(t *testing.T, at place) string {
	t.Helper()
	if at.listen == "" {
		at.listen = "127.0.0.1:0"
	}
	if at.database == "" {
		at.database = in.database.ConnectionString("postgres")
	}
	files := in.ca.Issue(mtls.Identity{Role: mtls.RoleLocket})
	file := filepath.Join(t.TempDir(), "locket.yml")
	text := fmt.Sprintf("grpc:\n  listen: %s\n  tls: {ca: %s, certificate: %s, key: %s}\ndatabase:\n  connection_string: %q\n",
		at.listen, files.CA, files.Certificate, files.Key, at.database)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func (in *installation) start(t *testing.T, at place) *process {
	t.Helper()
	p := &process{}
	p.cmd = exec.Command(in.binary, "-config", in.config(t, at))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.exited = launch(t, p.cmd)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended already
		<-p.exited
		if t.Failed() {
			t.Logf("log of locket %d:\n%s", p.cmd.Process.Pid, p.logged())
		}
	})
	eventually(t, "locket to tell its addresses", func() bool { return p.readAddresses() })
	eventually(t, "locket to be ready", func() bool { return p.ready() == http.StatusOK })
	return p
}

// launch starts cmd from a thread that lives as long as it: the kernel kills it when that thread ends, so
// that it does not outlive this process. The channel is closed when it has ended.
func launch(t *testing.T, cmd *exec.Cmd) <-chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit code is in ProcessState
		}
	}()
	require.NoError(t, <-started)
	return exited
}

// readAddresses finds the start line.
func (p *process) readAddresses() bool {
	for line := range strings.SplitSeq(p.logged(), "\n") {
		var entry struct {
			Message string `json:"message"`
			Data    struct {
				Listen map[string]string `json:"listen"`
			} `json:"data"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil || !strings.HasSuffix(entry.Message, "started") {
			continue
		}
		for name, address := range entry.Data.Listen {
			if strings.HasPrefix(name, "grpc") {
				p.grpc = address
			} else {
				p.debug = address
			}
		}
	}
	return p.grpc != "" && p.debug != ""
}

// ready is the status of /readyz, or 0 if nobody answers.
func (p *process) ready() int { status, _ := p.get("/readyz"); return status }

func (p *process) get(path string) (status int, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.debug+path, http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }() // nothing to do about it
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(sig))
}

func (in *installation) addresses() []string {
	var all []string
	for _, p := range in.lockets {
		all = append(all, p.grpc)
	}
	return all
}

func (in *installation) backend(t *testing.T, id mtls.Identity) lockclient.Backend {
	t.Helper()
	return in.backendAt(t, id, in.addresses()...)
}

func (in *installation) backendAt(t *testing.T, id mtls.Identity, addresses ...string) lockclient.Backend {
	t.Helper()
	cfg := grpcclient.Config{Addresses: addresses}
	conn, err := grpcclient.Dial(cfg, grpcclient.Options{
		Source: in.ca.Source(id), Server: mtls.Peer{Role: mtls.RoleLocket}, HealthService: "locket.v1",
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return lockclient.NewLocket(conn)
}

// mustBeUnavailable fails unless err says that locket could not be asked. Which way it says so depends on
// where the client was in its attempts when its patience ended.
func mustBeUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Contains(t, []codes.Code{codes.Unavailable, codes.DeadlineExceeded}, fault.Code(err), "%v", err)
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %v for %s", patience, what)
		case <-tick.C:
		}
	}
}

// pass lets d pass.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// holder holds a lock and a presence through both lockets.
type holder struct {
	lock     *lockclient.Lock
	held     chan error // what Hold returned
	stop     context.CancelFunc
	presence *lockclient.Presence
	watched  func() []string // events of presences, without the beginning
}

func (in *installation) hold(t *testing.T) *holder {
	t.Helper()
	return in.holdAt(t, in.addresses()...)
}

func (in *installation) holdAt(t *testing.T, addresses ...string) *holder {
	t.Helper()
	log := discard
	h := &holder{held: make(chan error, 1)}
	bbs := in.backendAt(t, mtls.Identity{Role: mtls.RoleBBS}, addresses...)
	var err error
	h.lock, err = lockclient.Acquire(t.Context(), lockclient.LockConfig{Key: "bbs", Owner: "bbs-1", TTL: in.ttl, Backend: bbs, Log: log})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	h.stop = cancel
	go func() { h.held <- h.lock.Hold(ctx) }()

	h.presence = lockclient.NewPresence(lockclient.PresenceConfig{
		Key: "cell-1", TTL: in.ttl, Incarnation: 1, Log: log, Backend: in.backendAt(t, mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"}, addresses...),
	})
	var mu sync.Mutex
	var events []string
	var running sync.WaitGroup
	running.Go(func() { _ = h.presence.Run(ctx) }) // it returns no error for a valid config
	require.NoError(t, h.presence.WaitHeld(t.Context()))
	synced := make(chan struct{})
	var once sync.Once
	running.Go(func() {
		_ = lockclient.WatchPresences(ctx, bbs, log, func(e lockclient.PresenceEvent) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind == lockclient.Synced {
				once.Do(func() { events = nil; close(synced) })
				return
			}
			events = append(events, e.Kind.String()+" "+e.Held.Key)
		})
	})
	h.watched = func() []string { mu.Lock(); defer mu.Unlock(); return append([]string{}, events...) }
	<-synced
	t.Cleanup(func() { cancel(); running.Wait() })
	return h
}

// mustHold fails unless the lock and the presence have been held all the time.
func (h *holder) mustHold(t *testing.T) {
	t.Helper()
	select {
	case err := <-h.held:
		t.Fatalf("the lock is lost: %v", err)
	default:
	}
	require.True(t, h.lock.Valid(), "the lock")
	require.Empty(t, h.watched(), "what the watcher of presences was told")
}

func TestOneLocketFrozenOrKilledLosesNothing(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	in.lockets[0].signal(t, syscall.SIGSTOP)
	pass(t, 7*time.Second) // the ttl and more
	h.mustHold(t)
	in.lockets[0].signal(t, syscall.SIGCONT)
	pass(t, time.Second)
	in.lockets[1].signal(t, syscall.SIGKILL)
	pass(t, 6*time.Second)
	h.mustHold(t)
}

func TestARestartOfTheDatabaseLosesNothing(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	in.stopDatabase(t)
	in.startDatabase(t)
	pass(t, 6*time.Second)
	h.mustHold(t)

	// A crash may lose the last renewals, which do not wait for the disk.
	require.NoError(t, syscall.Kill(in.database.PID(), syscall.SIGQUIT))
	<-in.database.Done()
	in.startDatabase(t)
	pass(t, 6*time.Second)
	h.mustHold(t)
}

func TestALongOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	token := h.lock.Token()
	in.stopDatabase(t)
	for _, p := range in.lockets {
		eventually(t, "locket to say that it is not ready", func() bool { return p.ready() == http.StatusServiceUnavailable })
	}
	_, err := in.backend(t, mtls.Identity{Role: mtls.RoleBBS}).Fetch(t.Context(), "bbs")
	mustBeUnavailable(t, err)
	require.ErrorIs(t, <-h.held, lockclient.ErrLost, "the holder has to stop before its lease ends")
	pass(t, 6*time.Second) // longer than any lease

	in.startDatabase(t)
	for _, p := range in.lockets {
		eventually(t, "locket to be ready again", func() bool { return p.ready() == http.StatusOK })
	}
	eventually(t, "the presence to be held", h.presence.Held)
	pass(t, time.Second)
	require.Empty(t, h.watched(), "the presence must not expire because nobody could renew it")

	second, err := lockclient.Acquire(t.Context(), lockclient.LockConfig{
		Key: "bbs", Owner: "bbs-2", Backend: in.backend(t, mtls.Identity{Role: mtls.RoleBBS}), Log: discard,
	})
	require.NoError(t, err)
	require.Greater(t, second.Token(), token)
}

func TestTakeOverThroughProcesses(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	standby := func(owner string) <-chan time.Time {
		got := make(chan time.Time, 1)
		backend := in.backend(t, mtls.Identity{Role: mtls.RoleBBS})
		go func() {
			_, err := lockclient.Acquire(t.Context(), lockclient.LockConfig{Key: "bbs", Owner: owner, Backend: backend, Log: discard})
			if err == nil {
				got <- time.Now()
			}
		}()
		return got
	}
	second := standby("bbs-2")
	pass(t, 2*time.Second)
	begun := time.Now()
	h.stop()
	require.NoError(t, <-h.held)
	clean := (<-second).Sub(begun) // and from here on bbs-2 is dead: nobody renews
	begun = time.Now()
	hard := (<-standby("bbs-3")).Sub(begun)
	t.Logf("clean take-over %v, hard take-over %v with a ttl of 5s", clean, hard)
	if clean > time.Second {
		t.Errorf("a clean take-over took %v, want under 1s", clean)
	}
	if hard > 6500*time.Millisecond {
		t.Errorf("a hard take-over took %v, want under 6.5s", hard)
	}
}

func TestLocketShowsItselfAndStopsCleanly(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.hold(t)
	eventually(t, "the metrics to count what is held", func() bool {
		_, metrics := in.lockets[0].get("/metrics")
		return strings.Contains(metrics, "\nactive_locks 1\n") && strings.Contains(metrics, "\nactive_presences 1\n")
	})
	for _, p := range in.lockets {
		p.signal(t, syscall.SIGTERM)
	}
	for _, p := range in.lockets {
		<-p.exited
		require.Zero(t, p.cmd.ProcessState.ExitCode(), p.logged())
	}
}

func TestBadConfigurationNamesEveryProblem(t *testing.T) {
	t.Parallel()
	binary, err := build()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "locket.yml")
	require.NoError(t, os.WriteFile(file, []byte("grpc:\n  listen: nowhere\n  tls: {}\ndatabse: {}\n"), 0o600))
	out, err := exec.CommandContext(t.Context(), binary, "-config", file).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 2, exit.ExitCode())
	for _, problem := range []string{"listen", "certificate", "databse", "connection_string"} {
		require.Contains(t, string(out), problem)
	}
}

package executor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/busybox"
	"diego.internal/executor/garden/containerd"
	"diego.internal/executor/garden/containerd/privatedaemon"
)

// machine is a private containerd with one cell on it. Everything is allocated, and removed at the end.
type machine struct {
	t      *testing.T
	config containerd.Config
	cfg    Config

	backend *containerd.Backend
	client  *Client
	stop    func()
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	require.Zero(t, os.Geteuid(), "real containers need root, containerd, runc and busybox-static")
	dir, err := os.MkdirTemp("", "ex") //nolint:usetesting // short, because a socket lies below it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	rootfs := filepath.Join(dir, "rootfs")
	require.NoError(t, busybox.Build(t.Context(), rootfs))
	for _, name := range []string{"garden-init", "garden-logger"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), "diego.internal/executor/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		require.NoError(t, err, "building %s: %s", name, out)
	}
	daemon, err := privatedaemon.Start(t.Context(), filepath.Join(dir, "d"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, daemon.Stop()) })

	pid := os.Getpid()
	m := &machine{t: t}
	m.config = containerd.Config{
		Socket:        daemon.Address(),
		StateFolder:   filepath.Join(dir, "garden"),
		RootFS:        map[string]string{"busybox": rootfs},
		NetworkPool:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + pid%100), byte(pid / 100 % 64 * 4), 0}), 22),
		HostPortFirst: uint16(61100 + pid%400*10),
		HostPortLast:  uint16(61109 + pid%400*10),
		ExternalIP:    netip.MustParseAddr("127.0.0.1"),
		MaxContainers: 10,
		InitBinary:    filepath.Join(dir, "garden-init"),
		LoggerBinary:  filepath.Join(dir, "garden-logger"),
		CellID:        fmt.Sprintf("executor-test-%d", pid),
		Log:           slog.New(slog.DiscardHandler),
	}
	m.cfg = Config{CellID: "cell-1", StateDir: filepath.Join(dir, "executor"), DiskMB: 1000}
	for _, folder := range []string{m.config.StateFolder, m.cfg.StateDir} {
		require.NoError(t, os.MkdirAll(folder, 0o711))
	}
	m.start()
	t.Cleanup(func() {
		m.stop()
		m.open()
		require.NoError(t, Clean(context.Background(), m.cfg))
		require.NoError(t, m.backend.Clean(context.Background()))
		require.NoError(t, m.backend.Close())
	})
	return m
}

// open connects to the engine, as the start of a rep does.
func (m *machine) open() {
	m.t.Helper()
	backend, err := containerd.New(context.Background(), m.config)
	require.NoError(m.t, err)
	m.backend, m.cfg.Engine = backend, backend
}

func (m *machine) start() {
	m.t.Helper()
	m.open()
	client, err := Open(context.Background(), m.cfg)
	require.NoError(m.t, err)
	m.client = client
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(m.t, <-done)
		require.NoError(m.t, m.backend.Close())
	})
}

func (m *machine) run(guid string, info RunInfo) {
	m.t.Helper()
	info.RootFS, info.LogRateLimit = "preloaded:busybox", -1
	info.LogConfig = LogConfig{GUID: "app", SourceName: "CELL"}
	require.Empty(m.t, m.client.AllocateContainers(m.t.Context(), []AllocationRequest{{
		GUID: guid, Resources: ContainerResources{MemoryMB: 64, MaxPids: 100},
	}}))
	require.NoError(m.t, m.client.RunContainer(m.t.Context(), RunRequest{GUID: guid, Info: info}))
}

func (m *machine) await(guid string, state State) Container {
	m.t.Helper()
	var record Container
	await(m.t, fmt.Sprintf("container %s to be %s", guid, state), func() bool {
		var err error
		record, err = m.client.GetContainer(guid)
		require.NoError(m.t, err)
		if record.State == StateCompleted && state != StateCompleted {
			m.t.Fatalf("container %s completed with %+v\nlog: %q", guid, record.Result, m.lines(guid))
		}
		return record.State == state
	})
	return record
}

func (m *machine) lines(guid string) []string {
	m.t.Helper()
	c := &cell{t: m.t, client: m.client}
	return c.lines(guid)
}

func shell(source, script string) Action {
	return Action{Run: &RunAction{Path: "/bin/sh", Args: []string{"-c", script}, User: "vcap", LogSource: source}}
}

func TestRealContainers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	server := shell("APP", `mkdir www; echo "hello from $CF_INSTANCE_INTERNAL_IP $CF_INSTANCE_PORT" > www/index.html
		trap 'echo going; exit 0' TERM
		echo started; httpd -f -p 8080 -h www & 
		n=0; while true; do n=$((n+1)); echo tick $n; sleep 1 & wait $!; done`)
	check := &CheckDefinition{Checks: []Check{{HTTP: &HTTPCheck{Port: 8080, Path: "/index.html"}}}}
	m.run("app", RunInfo{
		Setup:           new(shell("STG", "echo setting up; echo once > /home/vcap/setup")),
		Action:          &server,
		CheckDefinition: check,
		Ports:           []uint32{8080},
		StartTimeout:    30 * time.Second,
	})
	record := m.await("app", StateRunning)
	require.True(t, record.Routable)
	address := net.JoinHostPort(record.Net.ExternalIP, fmt.Sprint(record.Net.Ports[0].HostPort))
	want := fmt.Sprintf("hello from %s %d\n", record.Net.InternalIP, record.Net.Ports[0].HostPort)
	require.Equal(t, want, get(t, "http://"+address+"/index.html"))

	m.run("crash", RunInfo{Action: new(shell("APP/PROC/WEB", "echo out; echo err >&2; exit 2"))})
	crashed := m.await("crash", StateCompleted)
	require.Equal(t, Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 2"}, crashed.Result)
	for _, line := range []string{"APP/PROC/WEB OUT out", "APP/PROC/WEB ERR err", "APP/PROC/WEB OUT Exit status 2"} {
		require.Contains(t, m.lines("crash"), line)
	}
	m.run("short", RunInfo{Action: new(shell("APP", "sleep 4; exit 7"))})
	m.await("short", StateRunning)

	// The process goes; containers do not notice.
	m.stop()
	m.start()
	require.Equal(t, StateRunning, m.await("app", StateRunning).State)
	require.Equal(t, want, get(t, "http://"+address+"/index.html"), "same address after the restart")
	ticks := len(ticksOf(m.lines("app")))
	await(t, "output after the restart", func() bool { return len(ticksOf(m.lines("app"))) > ticks })
	got := ticksOf(m.lines("app"))
	for i, line := range got {
		require.Equal(t, fmt.Sprintf("APP OUT tick %d", i+1), line, "no line is lost or comes twice over the restart: %q", got)
	}
	require.Len(t, slices.DeleteFunc(m.lines("app"), func(l string) bool { return l != "STG OUT setting up" }), 1)
	require.Equal(t, "APP: Exited with status 7", m.await("short", StateCompleted).Result.FailureReason)

	metrics, err := m.client.GetBulkMetrics(t.Context())
	require.NoError(t, err)
	require.NotZero(t, metrics["app"].MemoryUsageInBytes)

	require.NoError(t, m.client.StopContainer(t.Context(), "app"))
	require.True(t, m.await("app", StateCompleted).Result.Stopped)
	require.Contains(t, m.lines("app"), "APP OUT going")
	for _, guid := range []string{"app", "crash", "short"} {
		require.NoError(t, m.client.DeleteContainer(t.Context(), guid))
	}
	left, err := m.backend.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, m.client.TotalResources(), m.client.RemainingResources())
}

func ticksOf(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "APP OUT tick") })
}

func get(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

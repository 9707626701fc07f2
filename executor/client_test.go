package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/executor/logs"
)

// cell is a client on a simulated engine, inside a synctest bubble.
type cell struct {
	t      *testing.T
	cfg    Config
	engine *simulated.Engine
	client *Client
	stop   func()
}

// script says what processes do, by path; others run until they are signalled.
type script map[string]simulated.Fate

func newCell(t *testing.T, s script, change ...func(*simulated.Config)) *cell {
	t.Helper()
	engineConfig := simulated.Config{
		OnRun: func(_ garden.ContainerSpec, p garden.ProcessSpec) simulated.Fate {
			if fate, ok := s[p.Path]; ok {
				return fate
			}
			return simulated.Fate{UntilSignalled: true}
		},
	}
	for _, f := range change {
		f(&engineConfig)
	}
	c := &cell{t: t, engine: simulated.New(engineConfig)}
	c.cfg = Config{
		CellID:   "cell-1",
		Engine:   c.engine,
		StateDir: t.TempDir(),
		Log:      slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		},
	}
	return c
}

func (c *cell) open() *cell {
	c.t.Helper()
	client, err := Open(c.t.Context(), c.cfg)
	require.NoError(c.t, err)
	c.client = client
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Run(ctx)
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	return c
}

// restart lets the process go as a kill would, and starts the next one.
func (c *cell) restart() {
	c.t.Helper()
	c.stop()
	c.engine.Detach()
	c.open()
}

func (c *cell) allocate(guid string) {
	c.t.Helper()
	failures := c.client.AllocateContainers(c.t.Context(), []AllocationRequest{{
		GUID: guid, Resources: ContainerResources{MemoryMB: 64, DiskMB: 64, MaxPids: 10},
	}})
	require.Empty(c.t, failures)
}

func (c *cell) run(guid string, info RunInfo) {
	c.t.Helper()
	c.allocate(guid)
	info.RootFS = "preloaded:busybox"
	info.LogRateLimit = -1
	info.LogConfig = LogConfig{GUID: "app", Index: 1, SourceName: "CELL"}
	require.NoError(c.t, c.client.RunContainer(c.t.Context(), RunRequest{GUID: guid, Info: info}))
}

func (c *cell) get(guid string) Container {
	c.t.Helper()
	record, err := c.client.GetContainer(guid)
	require.NoError(c.t, err)
	return record
}

// lines are the log so far, as "SOURCE OUT message".
func (c *cell) lines(guid string) []string {
	c.t.Helper()
	var lines []string
	for line, err := range c.client.Logs(c.t.Context(), guid, logs.Request{}) {
		require.NoError(c.t, err)
		stream := "OUT"
		if line.Stream == logs.Err {
			stream = "ERR"
		}
		lines = append(lines, fmt.Sprintf("%s %s %s", line.Source, stream, line.Message))
	}
	return lines
}

func process(path, source string) Action {
	return Action{Run: &RunAction{Path: path, User: "vcap", LogSource: source}}
}

func TestClientLifecycle(t *testing.T) {
	t.Parallel()
	app := process("/app", "APP/PROC/WEB")
	exit := func(code int, after time.Duration) simulated.Fate { return simulated.Fate{Code: code, After: after} }
	tests := map[string]struct {
		script script
		info   RunInfo
		orders func(c *cell)
		after  time.Duration
		want   State
		result Result
		lines  []string
	}{
		"an action that goes on is running": {
			info: RunInfo{Action: &app}, after: time.Second, want: StateRunning,
			lines: []string{"CELL OUT Cell cell-1 creating container for instance i", "CELL OUT Cell cell-1 successfully created container for instance i"},
		},
		"a bad exit is the reason": {
			script: script{"/app": exit(2, time.Second)},
			info:   RunInfo{Action: &app}, after: 2 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 2"},
			lines:  []string{"APP/PROC/WEB OUT Exit status 2"},
		},
		"running out of memory is said": {
			script: script{"/app": {Code: 137, OutOfMemory: true}},
			info:   RunInfo{Action: &app}, after: time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 137 (out of memory)"},
			lines:  []string{"APP/PROC/WEB OUT Exit status 137 (out of memory)"},
		},
		"running out of disk is said": {
			script: script{"/app": {Code: 137, OutOfDisk: true}},
			info:   RunInfo{Action: &app}, after: time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 137 (out of disk)"},
			lines:  []string{"APP/PROC/WEB OUT Exit status 137 (out of disk)"},
		},
		"a clean exit is no failure": {
			script: script{"/app": {Stdout: "hello\n"}},
			info:   RunInfo{Action: &app}, after: time.Second, want: StateCompleted,
			lines: []string{"APP/PROC/WEB OUT hello", "APP/PROC/WEB OUT Exit status 0"},
		},
		"a stopped process is asked to go": {
			info: RunInfo{Action: &app}, after: time.Second, want: StateCompleted,
			orders: func(c *cell) { require.NoError(c.t, c.client.StopContainer(c.t.Context(), "i")) },
			result: Result{Failed: true, FailureReason: "cancelled", Stopped: true},
			lines:  []string{"CELL OUT Cell cell-1 stopping instance i", "APP/PROC/WEB OUT Exit status 143"},
		},
		"a process that ignores the request is killed after the grace time": {
			script: script{"/app": {UntilSignalled: true, IgnoreTerminate: true}},
			info:   RunInfo{Action: &app}, after: 11 * time.Second, want: StateCompleted,
			orders: func(c *cell) {
				require.NoError(c.t, c.client.StopContainer(c.t.Context(), "i"))
				time.Sleep(9 * time.Second) //nolint:forbidigo // the clock of the bubble
				require.Equal(c.t, StateRunning, c.get("i").State)
			},
			result: Result{Failed: true, FailureReason: "exceeded graceful shutdown interval", Stopped: true},
			lines:  []string{"APP/PROC/WEB OUT Exit status 137 (exceeded 10s graceful shutdown interval)"},
		},
		"a process that outlives the kill is told as such": {
			script: script{"/app": {UntilSignalled: true, IgnoreTerminate: true, IgnoreKill: true}},
			info:   RunInfo{Action: &app}, after: 12 * time.Second, want: StateCompleted,
			orders: func(c *cell) { require.NoError(c.t, c.client.StopContainer(c.t.Context(), "i")) },
			result: Result{Failed: true, FailureReason: "process did not exit", Stopped: true},
		},
		"a volume mounted file of bad form fails creation": {
			info:  RunInfo{Action: &app, VolumeMountedFiles: []File{{Path: "no-service", Content: "a"}}},
			after: time.Second, want: StateCompleted,
			result: Result{Failed: true, Retryable: true, FailureReason: "failed to create volume mounted files"},
		},
		"a failed setup ends it": {
			script: script{"/setup": exit(1, time.Second)},
			info:   RunInfo{Setup: new(process("/setup", "")), Action: &app}, after: 2 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "CELL: Exited with status 1"},
		},
		"the action comes after the setup": {
			script: script{"/setup": exit(0, time.Second)},
			info:   RunInfo{Setup: new(process("/setup", "")), Action: &app}, after: 2 * time.Second, want: StateRunning,
			lines: []string{"CELL OUT Exit status 0"},
		},
		"a timeout ends its action": {
			info:  RunInfo{Action: &Action{Timeout: &TimeoutAction{Action: app, Timeout: 3 * time.Second}}},
			after: 4 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "exceeded 3s timeout"},
		},
		"codependent actions end together": {
			script: script{"/other": exit(0, time.Second)},
			info:   RunInfo{Action: &Action{Codependent: &CodependentAction{Actions: []Action{app, process("/other", "")}}}},
			after:  2 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "Codependent step exited"},
			lines:  []string{"APP/PROC/WEB OUT Exit status 143"},
		},
		"parallel actions fail with all reasons": {
			script: script{"/a": exit(1, time.Second), "/b": exit(2, 2*time.Second)},
			info:   RunInfo{Action: &Action{Parallel: &ParallelAction{Actions: []Action{process("/a", "A"), process("/b", "B")}}}},
			after:  3 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "A: Exited with status 1; B: Exited with status 2"},
		},
		"progress is told and the reason passed on": {
			script: script{"/app": exit(3, time.Second)},
			info: RunInfo{Action: &Action{EmitProgress: &EmitProgressAction{
				Action: app, StartMessage: "starting", SuccessMessage: "well", FailureMessagePrefix: "failed", LogSource: "STG",
			}}},
			after: 2 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 3"},
			lines:  []string{"STG OUT starting", "STG ERR failed: APP/PROC/WEB: Exited with status 3"},
		},
		"a tried action may fail": {
			script: script{"/a": exit(1, time.Second)},
			info: RunInfo{Action: &Action{Serial: &SerialAction{Actions: []Action{
				{Try: &TryAction{Action: process("/a", "A")}}, app,
			}}}},
			after: 2 * time.Second, want: StateRunning,
		},
		"a missing program is the action's failure": {
			script: script{"/app": {Err: &garden.ExecutableNotFoundError{Path: "/app", Err: errors.New("no such file")}}},
			info:   RunInfo{Action: &app}, after: time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: `running process "action" in "i": executable "/app" not found: no such file`},
			lines:  []string{`APP/PROC/WEB OUT failed-creating-process: running process "action" in "i": executable "/app" not found: no such file`},
		},
		"a sidecar's end ends the action": {
			script: script{"/sidecar": exit(0, time.Second)},
			info:   RunInfo{Action: &app, Sidecars: []Sidecar{{Action: process("/sidecar", "SIDE")}}},
			after:  2 * time.Second, want: StateCompleted,
			result: Result{Failed: true, FailureReason: "cancelled"},
		},
		"a bad egress rule fails creation": {
			info:  RunInfo{Action: &app, EgressRules: []EgressRule{{Protocol: "tcp", Ports: []uint32{80}, Destinations: []string{"nowhere"}}}},
			after: time.Second, want: StateCompleted,
			result: Result{Failed: true, Retryable: true, FailureReason: `failed to create container: egress rule 0: failed to convert destination to ip range: "nowhere": ParseAddr("nowhere"): unable to parse IP`},
		},
		"a container deleted behind our back ends at once": {
			info: RunInfo{Action: &app}, after: 0, want: StateCompleted,
			orders: func(c *cell) {
				c.engine.Vanish("i")
				time.Sleep(2 * time.Second) //nolint:forbidigo // the clock of the bubble
			},
			result: Result{Failed: true, FailureReason: "APP/PROC/WEB: Exited with status 137"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t, tc.script).open()
				defer func() { c.stop() }()
				c.run("i", tc.info)
				synctest.Wait()
				if tc.orders != nil {
					tc.orders(c)
				}
				time.Sleep(tc.after) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				got := c.get("i")
				if got.State != tc.want || got.Result != tc.result {
					t.Errorf("container is %s with %+v, want %s with %+v\nlog: %q", got.State, got.Result, tc.want, tc.result, c.lines("i"))
				}
				lines := c.lines("i")
				for _, want := range tc.lines {
					if !slices.Contains(lines, want) {
						t.Errorf("log lacks %q, has %q", want, lines)
					}
				}
			})
		})
	}
}

// A machine that cannot confine containers as it should is told of, and takes work.
func TestClientRestrictions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil, func(cfg *simulated.Config) { cfg.Capacity.Restrictions = []string{"no user namespaces"} }).open()
		defer func() { c.stop() }()
		require.Equal(t, []string{"no user namespaces"}, c.client.Restrictions())
		healthy, err := c.client.Healthy()
		require.NoError(t, err)
		require.True(t, healthy)
	})
}

func TestClientAllocateContainers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.Capacity = garden.Capacity{MemoryInBytes: 1 << 30, DiskInBytes: 12 << 30, MaxContainers: 5}
		}).open()
		defer func() { c.stop() }()
		total := c.client.TotalResources()
		require.Equal(t, 1024, total.MemoryMB)
		require.Equal(t, 4, total.Containers)
		sub := c.client.SubscribeToEvents()
		defer sub.Close()
		failures := c.client.AllocateContainers(t.Context(), []AllocationRequest{
			{GUID: "a", Resources: ContainerResources{MemoryMB: 1000}, Tags: map[string]string{"lifecycle": "lrp"}},
			{GUID: "a"},
			{GUID: ""},
			{GUID: "../a"},
			{GUID: "b", Resources: ContainerResources{MemoryMB: 25, DiskMB: 1 << 20}},
			{GUID: "c"},
			{GUID: "d", Resources: ContainerResources{MemoryMB: 24}},
			{GUID: "e"},
			{GUID: "f"},
		})
		var got []string
		for _, f := range failures {
			got = append(got, f.Request.GUID+": "+f.Err.Error())
		}
		want := []string{
			"a: container guid not available",
			": container guid not specified",
			"../a: container guid not valid",
			"b: insufficient resources available: memory, disk",
			"f: insufficient resources available: containers",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("AllocateContainers failures (-want +got):\n%s", diff)
		}
		e, err := sub.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, EventReserved, e.Kind)
		require.Equal(t, "lrp", e.Container.Tags["lifecycle"])

		require.NoError(t, c.client.DeleteContainer(t.Context(), "a"))
		require.Equal(t, total.MemoryMB-24, c.client.RemainingResources().MemoryMB)
		require.ErrorIs(t, c.client.DeleteContainer(t.Context(), "a"), ErrContainerNotFound)

		time.Sleep(2 * time.Minute) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		record := c.get("d")
		require.Equal(t, StateCompleted, record.State)
		require.Equal(t, "expired container", record.Result.FailureReason)
		require.ErrorIs(t, c.client.RunContainer(t.Context(), RunRequest{GUID: "d", Info: RunInfo{RootFS: "x", Action: new(process("/app", ""))}}), ErrInvalidTransition)
		require.ErrorIs(t, c.client.RunContainer(t.Context(), RunRequest{GUID: "c"}), ErrEmptyAction)
	})
}

// The sum of what is handed out never exceeds what there is, however many ask at once.
func TestClientAllocateContainersInParallel(t *testing.T) {
	t.Parallel()
	c := newCell(t, nil, func(cfg *simulated.Config) {
		cfg.Capacity = garden.Capacity{MemoryInBytes: 1 << 30, DiskInBytes: 20 << 30, MaxContainers: 250}
	}).open()
	defer func() { c.stop() }()
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			_ = c.client.AllocateContainers(t.Context(), []AllocationRequest{{GUID: fmt.Sprint("i", i), Resources: ContainerResources{MemoryMB: 30}}})
		})
	}
	group.Wait()
	require.Len(t, c.client.ListContainers(), 1024/30)
	require.Equal(t, 1024%30, c.client.RemainingResources().MemoryMB)
}

func TestClientEnvironment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var spec garden.ContainerSpec
		var started garden.ProcessSpec
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnRun = func(s garden.ContainerSpec, p garden.ProcessSpec) simulated.Fate {
				mu.Lock()
				defer mu.Unlock()
				spec, started = s, p
				return simulated.Fate{UntilSignalled: true}
			}
		})
		c.cfg.TrustedCertificates = "/etc/ssl/certs"
		c.open()
		defer func() { c.stop() }()
		action := Action{Run: &RunAction{Path: "/app", User: "vcap", Env: []EnvVar{{Name: "A", Value: "1"}}}}
		c.run("i", RunInfo{
			Action: &action, Ports: []uint32{8080, 2222, 8080}, CPUWeight: 50,
			Env:                           []EnvVar{{Name: "INSTANCE_GUID", Value: "i"}},
			TrustedSystemCertificatesPath: "/etc/cf-system-certificates",
			VolumeMountedFiles:            []File{{Path: "db/url", Content: "x"}},
			NetworkProperties:             map[string]string{"space": "s"},
		})
		synctest.Wait()
		record := c.get("i")
		require.Len(t, record.Net.Ports, 2)
		env := map[string]string{}
		for _, v := range started.Env {
			env[v.Name] = v.Value
		}
		first := record.Net.Ports[0]
		var ports []map[string]int
		require.NoError(t, json.Unmarshal([]byte(env["CF_INSTANCE_PORTS"]), &ports))
		delete(env, "CF_INSTANCE_PORTS")
		want := map[string]string{
			"A": "1", "CF_INSTANCE_IP": record.Net.ExternalIP, "CF_INSTANCE_INTERNAL_IP": record.Net.InternalIP,
			"CF_INSTANCE_PORT": fmt.Sprint(first.HostPort), "CF_INSTANCE_ADDR": fmt.Sprintf("%s:%d", record.Net.ExternalIP, first.HostPort),
		}
		if diff := cmp.Diff(want, env); diff != "" {
			t.Errorf("environment of the process (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"external": int(first.HostPort), "internal": 8080}, ports[0]); diff != "" {
			t.Errorf("first of CF_INSTANCE_PORTS (-want +got):\n%s", diff)
		}
		require.Equal(t, uint64(512), spec.Limits.CPUShares)
		require.Equal(t, uint64(64<<20), spec.Limits.MemoryInBytes)
		require.Equal(t, int64(10), spec.Limits.Pids)
		require.Equal(t, "s", spec.Properties["network.space"])
		require.Equal(t, "executor", spec.Properties["executor:owner"])
		require.Contains(t, spec.Env, garden.EnvVar{Name: "CF_SYSTEM_CERT_PATH", Value: "/etc/cf-system-certificates"})
		require.Contains(t, spec.Env, garden.EnvVar{Name: "SERVICE_BINDING_ROOT", Value: "/etc/cf-service-bindings"})
		require.Len(t, spec.BindMounts, 2)
	})
}

// Creation takes a minute here; neither stop nor delete waits for it.
func TestClientInterruptsCreation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnCreate = func(garden.ContainerSpec) (time.Duration, error) { return time.Minute, nil }
		}).open()
		defer func() { c.stop() }()
		c.run("stopped", RunInfo{Action: new(process("/app", ""))})
		c.run("deleted", RunInfo{Action: new(process("/app", ""))})
		time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		start := time.Now()
		require.NoError(t, c.client.StopContainer(t.Context(), "stopped"))
		require.NoError(t, c.client.DeleteContainer(t.Context(), "deleted"))
		synctest.Wait()
		require.Less(t, time.Since(start), time.Second)
		require.Equal(t, Result{Failed: true, FailureReason: "stopped-before-running", Stopped: true}, c.get("stopped").Result)
		_, err := c.client.GetContainer("deleted")
		require.ErrorIs(t, err, ErrContainerNotFound)
		containers, err := c.engine.Containers(t.Context(), garden.Properties{garden.PropertyStateAll: "all"})
		require.NoError(t, err)
		require.Empty(t, containers)
	})
}

func TestClientDeleteContainer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil).open()
		defer func() { c.stop() }()
		before := c.client.RemainingResources()
		c.run("i", RunInfo{Action: new(process("/app", "APP"))})
		synctest.Wait()

		c.engine.SetDown(errors.New("restarting"))
		require.Error(t, c.client.DeleteContainer(t.Context(), "i"))
		require.Equal(t, StateCompleted, c.get("i").State)
		require.NotEqual(t, before, c.client.RemainingResources(), "resources stay with the container")
		c.engine.SetDown(nil)

		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				if err := c.client.DeleteContainer(t.Context(), "i"); err != nil && !errors.Is(err, ErrContainerNotFound) {
					t.Errorf("DeleteContainer: %v", err)
				}
			})
		}
		group.Wait()
		require.Equal(t, before, c.client.RemainingResources())
		log := strings.Join(c.lines("i"), "\n")
		require.Contains(t, log, "Cell cell-1 successfully destroyed container for instance i")
	})
}

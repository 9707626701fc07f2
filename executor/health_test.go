package executor

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

// ports is a container's network: a port answers from a time on and up to a time.
type ports struct {
	mu    sync.Mutex
	start time.Time
	open  map[string][2]time.Duration
	dials int
}

func (p *ports) dial(_ context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials++
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	now := time.Since(p.start)
	if window, ok := p.open[port]; !ok || now < window[0] || now >= window[1] {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	return near, far.Close()
}

func TestHealth(t *testing.T) {
	t.Parallel()
	const forever = 24 * time.Hour
	tcp := func(port uint32) Check { return Check{TCP: &TCPCheck{Port: port}} }
	tests := map[string]struct {
		open    map[string][2]time.Duration
		script  script
		info    RunInfo
		after   time.Duration
		want    State
		reason  string
		lines   []string
		without []string
	}{
		"it runs only once the check has passed": {
			open:  map[string][2]time.Duration{"8080": {3 * time.Second, forever}},
			info:  RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after: 4 * time.Second, want: StateRunning,
			lines: []string{"CELL OUT Starting health monitoring of container", "CELL OUT Container became healthy"},
		},
		"it is not running before": {
			open:  map[string][2]time.Duration{"8080": {3 * time.Second, forever}},
			info:  RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after: 3 * time.Second, want: StateCreated,
		},
		"it never becomes healthy": {
			info:  RunInfo{StartTimeout: 5 * time.Second, CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after: 6 * time.Second, want: StateCompleted,
			reason: "Instance never healthy after 5s: Timed out after 5s (6 attempts) waiting for startup check to succeed: failed to make TCP connection to IP:8080: connection refused",
			lines:  []string{"CELL ERR Failed after 5s: startup health check never passed."},
		},
		"both failures of two kinds of check are named": {
			info:  RunInfo{StartTimeout: 5 * time.Second, CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080), {HTTP: &HTTPCheck{Port: 8081, Path: "/up"}}}}},
			after: 6 * time.Second, want: StateCompleted,
			reason: "Instance never healthy after 5s: Timed out after 5s (6 attempts) waiting for startup check to succeed: failed to make TCP connection to IP:8080: connection refused; " +
				"Timed out after 5s (6 attempts) waiting for startup check to succeed: failed to make HTTP request to '/up' on port 8081: connection refused",
		},
		"without a start timeout it waits": {
			info:  RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after: time.Hour, want: StateCreated,
		},
		"it becomes unhealthy later": {
			open:  map[string][2]time.Duration{"8080": {0, 40 * time.Second}},
			info:  RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after: 61 * time.Second, want: StateCompleted,
			reason: "Instance became unhealthy: Liveness check unsuccessful: failed to make TCP connection to IP:8080: connection refused",
			lines:  []string{"HEALTH ERR Liveness check unsuccessful: failed to make TCP connection to IP:8080: connection refused", "CELL ERR Container became unhealthy"},
		},
		"an invalid check is left out": {
			info:  RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{{TCP: &TCPCheck{}}}}},
			after: time.Second, want: StateRunning,
		},
		"an action that has become a daemon is watched": {
			open:   map[string][2]time.Duration{"8080": {0, forever}},
			script: script{"/app": {After: time.Second}},
			info:   RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{tcp(8080)}}},
			after:  time.Hour, want: StateRunning,
		},
		"a monitor's output is the reason and its attempts are not logged": {
			script: script{"/check": {Code: 1, Stdout: "not yet\n"}},
			info:   RunInfo{StartTimeout: 5 * time.Second, Monitor: new(process("/check", "HEALTH"))},
			after:  6 * time.Second, want: StateCompleted,
			reason:  "Instance never healthy after 5s: not yet",
			without: []string{"HEALTH OUT Exit status 1", "HEALTH OUT not yet"},
		},
		"a silent monitor's status is the reason": {
			script: script{"/check": {Code: 1}},
			info:   RunInfo{StartTimeout: 5 * time.Second, Monitor: new(process("/check", "HEALTH"))},
			after:  6 * time.Second, want: StateCompleted,
			reason: "Instance never healthy after 5s: HEALTH: Exited with status 1",
		},
		"a monitor that passes makes it run": {
			script: script{"/check": {}},
			info:   RunInfo{Monitor: new(process("/check", "HEALTH"))},
			after:  time.Second, want: StateRunning,
		},
		"a network check is made by the cell": {
			open: map[string][2]time.Duration{"8080": {0, forever}},
			info: RunInfo{Monitor: &Action{Timeout: &TimeoutAction{Timeout: time.Minute, Action: Action{
				Parallel: &ParallelAction{Actions: []Action{{NetCheck: &NetCheckAction{Port: 8080}}}},
			}}}},
			after: time.Second, want: StateRunning,
		},
		"a failed network check is worded like any other": {
			info:  RunInfo{StartTimeout: time.Second, Monitor: &Action{NetCheck: &NetCheckAction{Port: 8080}}},
			after: 2 * time.Second, want: StateCompleted,
			reason: "Instance never healthy after 1s: failed to make TCP connection to IP:8080: connection refused",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				network := &ports{start: time.Now(), open: tc.open}
				c := newCell(t, tc.script)
				c.cfg.Dial = network.dial
				c.open()
				defer func() { c.stop() }()
				tc.info.Action = new(process("/app", "APP"))
				c.run("i", tc.info)
				time.Sleep(tc.after) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				got := c.get("i")
				replace := func(text string) string { return replaceIP(text, got.Net.InternalIP) }
				if got.State != tc.want || got.Result.FailureReason != replace(tc.reason) {
					t.Errorf("container is %s with %q, want %s with %q", got.State, got.Result.FailureReason, tc.want, replace(tc.reason))
				}
				lines := c.lines("i")
				for _, want := range tc.lines {
					if !slices.Contains(lines, replace(want)) {
						t.Errorf("log lacks %q, has %q", replace(want), lines)
					}
				}
				for _, unwanted := range tc.without {
					require.NotContains(t, lines, unwanted)
				}
			})
		})
	}
}

// Containers that a check ends are counted by what it asks; those that never became healthy are not.
func TestLivenessFailuresAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := &ports{start: time.Now(), open: map[string][2]time.Duration{"8080": {0, 10 * time.Second}}}
		c := newCell(t, nil)
		c.cfg.Dial = network.dial
		c.open()
		defer c.stop()
		tcp := func(port uint32) *CheckDefinition {
			return &CheckDefinition{Checks: []Check{{TCP: &TCPCheck{Port: port}}}}
		}
		c.run("was-healthy", RunInfo{Action: new(process("/app", "APP")), CheckDefinition: tcp(8080)})
		c.run("never-healthy", RunInfo{Action: new(process("/app", "APP")), CheckDefinition: tcp(9090), StartTimeout: time.Second})
		time.Sleep(time.Minute) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Contains(t, c.get("was-healthy").Result.FailureReason, "Instance became unhealthy: Liveness check unsuccessful: failed to make TCP connection")
		require.Contains(t, c.get("never-healthy").Result.FailureReason, "Instance never healthy")
		require.Equal(t, int64(1), c.client.Counters().LivenessTCPFailed.Load())
		require.Zero(t, c.client.Counters().LivenessHTTPFailed.Load())
	})
}

func TestReadinessChangesRoutable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := &ports{start: time.Now(), open: map[string][2]time.Duration{"8080": {5 * time.Second, 50 * time.Second}}}
		c := newCell(t, nil)
		c.cfg.Dial = network.dial
		c.open()
		defer func() { c.stop() }()
		sub := c.client.SubscribeToEvents()
		defer sub.Close()
		c.run("i", RunInfo{Action: new(process("/app", "APP")), CheckDefinition: &CheckDefinition{
			ReadinessChecks: []Check{{TCP: &TCPCheck{Port: 8080}}},
		}})
		for _, want := range []struct {
			after    time.Duration
			routable bool
		}{{time.Second, false}, {6 * time.Second, true}, {60 * time.Second, false}} {
			time.Sleep(want.after - time.Since(network.start)) //nolint:forbidigo // the clock of the bubble
			synctest.Wait()
			e, err := sub.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, EventRunning, e.Kind)
			require.Equal(t, want.routable, e.Container.Routable)
			require.Equal(t, StateRunning, c.get("i").State)
		}
		require.Contains(t, c.lines("i"), "CELL OUT Container passed the readiness health check. Container marked ready and added to route pool.")
		require.Contains(t, c.lines("i"), "CELL ERR Container failed the readiness health check. Container marked not ready and removed from route pool.")
	})
}

// A monitor's process that hangs is interrupted with the start timeout and is gone before the container completes.
func TestMonitorIsInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil, func(cfg *simulated.Config) {
			cfg.OnRun = func(garden.ContainerSpec, garden.ProcessSpec) simulated.Fate {
				return simulated.Fate{UntilSignalled: true, IgnoreTerminate: true}
			}
		}).open()
		defer func() { c.stop() }()
		c.run("i", RunInfo{Action: new(process("/app", "APP")), Monitor: new(process("/check", "")), StartTimeout: time.Second})
		time.Sleep(10 * time.Second) //nolint:forbidigo // the clock of the bubble
		require.Equal(t, StateCreated, c.get("i").State)
		time.Sleep(13 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, StateCompleted, c.get("i").State)
		require.Contains(t, c.get("i").Result.FailureReason, "Instance never healthy after")
	})
}

func replaceIP(text, address string) string { return strings.ReplaceAll(text, "IP:", address+":") }

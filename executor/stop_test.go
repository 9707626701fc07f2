package executor

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden/simulated"
)

// moment is what an event said, and when, counted from the order to stop.
type moment struct {
	After    time.Duration
	State    State
	Routable bool
}

// TestStopDrainsFirst: routers hear that the container takes no more requests before its process hears anything.
func TestStopDrainsFirst(t *testing.T) {
	t.Parallel()
	seconds := func(n int) *time.Duration { return new(time.Duration(n) * time.Second) }
	stubborn := simulated.Fate{UntilSignalled: true, IgnoreTerminate: true}
	ready := &CheckDefinition{ReadinessChecks: []Check{{TCP: &TCPCheck{Port: 8080, Interval: 100 * time.Millisecond}}}}
	tests := map[string]struct {
		drain   time.Duration
		fate    *simulated.Fate
		info    RunInfo
		again   bool
		want    []moment
		logLine string
	}{
		"one that routers send to": {
			info: RunInfo{Ports: []uint32{8080}},
			want: []moment{{State: StateRunning}, {After: time.Second, State: StateCompleted}},
		},
		"asked twice": {
			info: RunInfo{Ports: []uint32{8080}}, again: true,
			want: []moment{{State: StateRunning}, {After: time.Second, State: StateCompleted}},
		},
		"its readiness checks do not bring it back": {
			info: RunInfo{Ports: []uint32{8080}, CheckDefinition: ready},
			want: []moment{{State: StateRunning}, {After: time.Second, State: StateCompleted}},
		},
		"one without ports":              {want: []moment{{State: StateCompleted}}},
		"a cell that does not drain":     {drain: -1, info: RunInfo{Ports: []uint32{8080}}, want: []moment{{State: StateCompleted}}},
		"the cell's grace time":          {fate: &stubborn, want: []moment{{After: 10 * time.Second, State: StateCompleted}}, logLine: "APP OUT Exit status 137 (exceeded 10s graceful shutdown interval)"},
		"a grace time of its own":        {fate: &stubborn, info: RunInfo{GraceTime: seconds(3)}, want: []moment{{After: 3 * time.Second, State: StateCompleted}}, logLine: "APP OUT Exit status 137 (exceeded 3s graceful shutdown interval)"},
		"longer than the cell's":         {fate: &stubborn, info: RunInfo{GraceTime: seconds(60)}, want: []moment{{After: time.Minute, State: StateCompleted}}},
		"drained, then its grace time":   {fate: &stubborn, info: RunInfo{Ports: []uint32{8080}, GraceTime: seconds(3)}, want: []moment{{State: StateRunning}, {After: 4 * time.Second, State: StateCompleted}}},
		"no time between the signals":    {fate: &stubborn, info: RunInfo{GraceTime: seconds(0)}, want: []moment{{State: StateCompleted}}},
		"a drain that was chosen longer": {drain: 5 * time.Second, info: RunInfo{Ports: []uint32{8080}}, want: []moment{{State: StateRunning}, {After: 5 * time.Second, State: StateCompleted}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := script{}
				if tc.fate != nil {
					s["/app"] = *tc.fate
				}
				c := newCell(t, s)
				c.cfg.DrainTime = tc.drain
				c.cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					return near, far.Close()
				}
				c.open()
				defer c.stop()
				tc.info.Action = new(process("/app", "APP"))
				c.run("i", tc.info)
				synctest.Wait()
				require.True(t, c.get("i").Routable)
				sub := c.client.SubscribeToEvents()
				defer sub.Close()
				start := time.Now()
				require.NoError(t, c.client.StopContainer(t.Context(), "i"))
				if tc.again {
					require.NoError(t, c.client.StopContainer(t.Context(), "i"))
				}
				var got []moment
				for len(got) == 0 || got[len(got)-1].State != StateCompleted {
					e, err := sub.Next(t.Context())
					require.NoError(t, err)
					got = append(got, moment{After: time.Since(start), State: e.Container.State, Routable: e.Container.Routable})
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("events after the order to stop (-want +got):\n%s", diff)
				}
				require.True(t, c.get("i").Result.Stopped)
				if tc.logLine != "" {
					require.Contains(t, c.lines("i"), tc.logLine)
				}
			})
		})
	}
}

// A deletion drains too, and a restarted process ends what the earlier one was draining.
func TestDeletionDrainsAndRestartEndsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil).open()
		defer func() { c.stop() }()
		info := RunInfo{Action: new(process("/app", "APP")), Ports: []uint32{8080}}
		c.run("deleted", info)
		c.run("left", info)
		synctest.Wait()
		start := time.Now()
		require.NoError(t, c.client.DeleteContainer(t.Context(), "deleted"))
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, c.client.StopContainer(t.Context(), "left"))
		c.restart()
		synctest.Wait()
		got := c.get("left")
		require.Equal(t, StateCompleted, got.State)
		require.True(t, got.Result.Stopped)
	})
}

func TestPostSetupHook(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script script
		want   State
		reason string
		lines  []string
	}{
		"it runs between setup and action, without a word": {
			script: script{"/setup": {Stdout: "set up\n"}, "/hook": {Stdout: "secret\n"}, "/app": {Stdout: "started\n", UntilSignalled: true}},
			want:   StateRunning, lines: []string{"APP OUT set up", "APP OUT Exit status 0", "APP OUT started"},
		},
		"its failure ends the container": {
			script: script{"/hook": {Code: 3}, "/setup": {}}, want: StateCompleted, reason: "CELL: Exited with status 3", lines: []string{"APP OUT Exit status 0"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCell(t, tc.script)
				c.cfg.PostSetup = Hook{Path: "/hook", User: "vcap"}
				c.open()
				defer c.stop()
				c.run("i", RunInfo{Setup: new(process("/setup", "APP")), Action: new(process("/app", "APP"))})
				synctest.Wait()
				got := c.get("i")
				require.Equal(t, tc.want, got.State)
				require.Equal(t, tc.reason, got.Result.FailureReason)
				require.Equal(t, tc.lines, c.lines("i")[2:], "behind the two lines of the cell")
			})
		})
	}
	require.ErrorContains(t, (&Hook{Path: "/hook"}).Validate(), "a post-setup hook needs a user")
}

package container

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRecordTransitions(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	info := &RunInfo{RootFS: "preloaded:x"}
	reserved := Reserve("g", Resources{MemoryMB: 1}, map[string]string{"a": "1"}, at)
	step := func(r Record, err error) Record {
		t.Helper()
		require.NoError(t, err)
		return r
	}
	initializing := step(reserved.Initialized(info, map[string]string{"b": "2"}))
	created := step(initializing.Created(NetInfo{InternalIP: "10.0.0.2"}))
	running := step(created.Running(true))
	completed := running.Completed(true, "why", false)
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, initializing.Tags)
	require.Equal(t, map[string]string{"a": "1"}, reserved.Tags, "the earlier record is unchanged")

	records := map[State]Record{
		StateReserved: reserved, StateInitializing: initializing, StateCreated: created, StateRunning: running, StateCompleted: completed,
	}
	transitions := map[string]struct {
		do   func(Record) (Record, error)
		from State
		to   State
	}{
		"initialized": {do: func(r Record) (Record, error) { return r.Initialized(info, nil) }, from: StateReserved, to: StateInitializing},
		"created":     {do: func(r Record) (Record, error) { return r.Created(NetInfo{}) }, from: StateInitializing, to: StateCreated},
		"running":     {do: func(r Record) (Record, error) { return r.Running(true) }, from: StateCreated, to: StateRunning},
		"routable":    {do: func(r Record) (Record, error) { return r.WithRoutable(false) }, from: StateRunning, to: StateRunning},
	}
	for name, tr := range transitions {
		for state, record := range records {
			t.Run(name+" from "+string(state), func(t *testing.T) {
				t.Parallel()
				got, err := tr.do(record)
				if state == tr.from {
					require.NoError(t, err)
					require.Equal(t, tr.to, got.State)
					return
				}
				require.ErrorIs(t, err, ErrInvalidTransition)
				require.Equal(t, record, got, "a refused transition changes nothing")
			})
		}
	}
	for state, record := range records {
		got := record.StopRequested().Completed(true, "again", true)
		require.Equal(t, StateCompleted, got.State, state)
		require.Equal(t, Result{Failed: true, FailureReason: "again", Retryable: true, Stopped: true}, got.Result, state)
		require.False(t, got.Routable, state)
	}
}

func TestRecordUpdated(t *testing.T) {
	t.Parallel()
	reserved := Reserve("g", Resources{}, nil, time.Time{})
	_, err := reserved.Updated(nil, nil)
	require.ErrorIs(t, err, ErrInvalidTransition)
	initializing, err := reserved.Initialized(&RunInfo{LogConfig: LogConfig{Tags: map[string]string{"a": "1"}}}, nil)
	require.NoError(t, err)
	updated, err := initializing.Updated([]InternalRoute{{Hostname: "h"}}, nil)
	require.NoError(t, err)
	require.Equal(t, "h", updated.RunInfo.InternalRoutes[0].Hostname)
	require.Equal(t, "1", updated.RunInfo.LogConfig.Tags["a"], "nil keeps what is there")
	require.Empty(t, initializing.RunInfo.InternalRoutes, "the earlier record is unchanged")
}

func TestCutReason(t *testing.T) {
	t.Parallel()
	require.Equal(t, "short", CutReason("short"))
	long := CutReason(strings.Repeat("x", MaxFailureReason+1))
	require.Len(t, long, MaxFailureReason)
	require.True(t, strings.HasSuffix(long, "\n... (truncated)\n"))
	rapid.Check(t, func(t *rapid.T) {
		got := CutReason(strings.Repeat(rapid.String().Draw(t, "text"), 3000))
		if len(got) > MaxFailureReason || !utf8.ValidString(got) {
			t.Fatalf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
	})
}

func TestActionValidate(t *testing.T) {
	t.Parallel()
	run := Action{Run: &RunAction{Path: "/a", User: "u"}}
	deep := run
	for range MaxActionDepth {
		deep = Action{Try: &TryAction{Action: deep}}
	}
	tests := map[string]struct {
		action Action
		want   string
	}{
		"a run action":              {action: run},
		"nothing":                   {want: "container cannot have empty action"},
		"two at once":               {action: Action{Run: run.Run, NetCheck: &NetCheckAction{Port: 1}}, want: "2 variants set"},
		"no path and no user":       {action: Action{Run: &RunAction{}}, want: "action.run: path is missing\naction.run: user is missing"},
		"an empty child":            {action: Action{Serial: &SerialAction{Actions: []Action{run, {}}}}, want: "action.serial[1]: container cannot have empty action"},
		"no children":               {action: Action{Parallel: &ParallelAction{}}, want: "action.parallel: no actions"},
		"no time":                   {action: Action{Timeout: &TimeoutAction{Action: run}}, want: "limit 0s is not positive"},
		"a port out of range":       {action: Action{NetCheck: &NetCheckAction{Port: 65536}}, want: "port 65536 is not in 1 to 65535"},
		"deeper than the bound":     {action: deep, want: "nested deeper than 32"},
		"more actions than allowed": {action: Action{Serial: &SerialAction{Actions: make([]Action, MaxActionNodes+1)}}, want: "more than 1000 actions"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.action.Validate()
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestRunInfoFiles(t *testing.T) {
	t.Parallel()
	run := func(files ...File) Action {
		return Action{Run: &RunAction{Path: "/a", User: "u", VolumeMountedFiles: files}}
	}
	a, b := File{Path: "db/url", Content: "x"}, File{Path: "/db/password", Content: "y"}
	tests := map[string]struct {
		info    RunInfo
		want    []File
		wantErr string
	}{
		"none":                                  {info: RunInfo{Action: new(run())}},
		"those of the container and of actions": {info: RunInfo{VolumeMountedFiles: []File{a}, Action: &Action{Try: &TryAction{Action: run(b)}}}, want: []File{a, b}},
		"one of many owners is one file":        {info: RunInfo{VolumeMountedFiles: []File{a}, Action: new(run(File{Path: "/db/url", Content: "x"}))}, want: []File{a}},
		"those of every part":                   {info: RunInfo{Setup: new(run(a)), Action: new(run()), Sidecars: []Sidecar{{Action: run(b)}}}, want: []File{a, b}},
		"two that differ are refused":           {info: RunInfo{Action: new(run(a)), Monitor: new(run(File{Path: "db/url", Content: "z"}))}, wantErr: `two volume mounted files have the path "db/url"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.info.Files()
			if tc.wantErr != "" {
				require.EqualError(t, err, tc.wantErr)
				return
			}
			require.NoError(t, err)
			require.ElementsMatch(t, tc.want, got)
		})
	}
}

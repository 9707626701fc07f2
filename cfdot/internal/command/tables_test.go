package command

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// TestTables shows what people see, column by column.
func TestTables(t *testing.T) {
	t.Parallel()
	p := whole(t)
	suspect, crashed, waiting := anInstance(1), anInstance(2), anInstance(3)
	suspect.Presence, suspect.Routable = workloadv1.Presence_PRESENCE_SUSPECT, false
	crashed.State, crashed.CrashCount, crashed.CrashReason = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED, 4, "APP/PROC/WEB: Exited with status 2"
	crashed.InstanceKey, crashed.NetInfo, crashed.AvailabilityZone, crashed.Routable = nil, nil, "", false
	waiting.State, waiting.PlacementError = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED, "insufficient resources: memory"
	waiting.InstanceKey, waiting.NetInfo, waiting.AvailabilityZone, waiting.Routable = nil, nil, "", false
	p.bbs.actual = append(p.bbs.actual, suspect, crashed, waiting)
	p.bbs.actual[0].NetInfo.PreferredAddress = workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE
	p.bbs.desired[0].Definition = &workloadv1.LRPDefinition{Container: &workloadv1.ContainerSpec{Resources: &workloadv1.Resources{MemoryMb: 256, DiskMb: 1024}}}
	p.bbs.desired[0].UpdatedAt = timestamppb.New(time.Now().Add(-49 * time.Hour))
	p.bbs.tasks = append(p.bbs.tasks, &workloadv1.Task{
		TaskGuid: "done", Domain: "tasks", State: workloadv1.TaskState_TASK_STATE_COMPLETED, Result: "42", CellId: "cell-1", CreatedAt: timestamppb.New(time.Now().Add(-61 * time.Second)),
	}, &workloadv1.Task{TaskGuid: "lost", Domain: "tasks", State: workloadv1.TaskState_TASK_STATE_COMPLETED, Failed: true, FailureReason: "task container does not exist"})
	p.bbs.domains = append(p.bbs.domains, &bbsv1.Domain{Domain: "tasks", FreshUntil: timestamppb.New(time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local))})
	for command, want := range map[string][]string{
		"actual-lrps": {
			"PROCESS INDEX STATE PRESENCE CELL ZONE ADDRESS:PORT ROUTABLE CRASHES AGE REASON",
			"p 0 RUNNING ordinary cell-1 z1 10.255.0.1:8080 yes 0 3h12m",
			"p 1 RUNNING ~suspect cell-1 z1 10.0.0.1:61001 no 0 3h12m",
			"p 2 CRASHED ordinary no 4 3h12m APP/PROC/WEB: Exited with status 2",
			"p 3 UNCLAIMED ordinary no 0 3h12m insufficient resources: memory",
		},
		"desired-lrps": {"PROCESS DOMAIN RUN/DESIRED MEMORY DISK ROUTES UPDATED", "p apps 1/2 256 MiB 1 GiB a.example +1 2d1h"},
		"tasks": {
			"TASK DOMAIN STATE CELL RESULT OUTPUT AGE", "t tasks Running", "done tasks Completed cell-1 ok 42 1m1s",
			"lost tasks Completed failed: task container does not exist",
		},
		"domains":     {"DOMAIN FRESH UNTIL", "apps for ever", "tasks " + time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local).Format(time.RFC3339)},
		"cells":       {"CELL ZONE STATE CONTAINERS MEMORY DISK STARTING TAGS AGE", "cell-1 z1 ready 1/100 25% 0% 0"},
		"cell-states": {"CELL ZONE LRPS TASKS STARTING FREE MEMORY FREE DISK FREE CONTAINERS REASON", "cell-1 z1 0 0 0 768 MiB 2 GiB 99"},
	} {
		got := p.run(command, "-o", "table")
		require.Equal(t, ExitOK, got.exit, got.errors)
		lines := squeezed(got)
		require.Equal(t, want, lines, command)
		require.Equal(t, lines[1:], squeezed(p.run(command, "-o", "table", "--no-headers")), command)
	}
	locks := squeezed(p.run("locks", "-o", "table"))
	require.Equal(t, "KEY OWNER TTL LEFT HELD FOR", locks[0])
	require.Regexp(t, `^bbs bbs-1 \d+\.\ds 1h0m$`, locks[1])
}

var colours = regexp.MustCompile("\x1b\\[[0-9]*m")

// squeezed are the lines of a table without its layout.
func squeezed(o outcome) []string {
	var out []string
	for _, line := range o.lines() {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return out
}

// TestTablesFitTheTerminal cuts to the width of a terminal, and nothing where there is none.
func TestTablesFitTheTerminal(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	long := anInstance(0)
	long.CrashReason = strings.Repeat("because ", 20)
	p.bbs.actual = []*workloadv1.ActualLRP{long}
	for name, test := range map[string]struct {
		env  Environment
		args []string
		cut  bool
	}{
		"a terminal":               {Environment{Terminal: true, Width: 120}, nil, true},
		"a terminal, wide":         {Environment{Terminal: true, Width: 120}, []string{"-o", "wide"}, false},
		"a terminal without width": {Environment{Terminal: true}, nil, false},
		"a pipe":                   {Environment{}, []string{"-o", "table"}, false},
	} {
		got := p.runIn(t.Context(), test.env, append([]string{"actual-lrps"}, test.args...)...)
		require.Equal(t, ExitOK, got.exit, got.errors)
		require.Equal(t, test.cut, !strings.Contains(got.out, long.GetCrashReason()[:100]), name)
		if test.cut {
			require.Contains(t, got.out, "...")
			for _, line := range got.lines() {
				require.LessOrEqual(t, len(colours.ReplaceAllString(line, "")), test.env.Width, line)
			}
		}
	}
}

package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	bbsv1 "diego.internal/proto/bbs/v1"
)

// asks says whether anybody was asked to change anything.
func (f *fakeBBS) changes() (out []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, request := range f.requests {
		switch request.(type) {
		case *bbsv1.RemoveDesiredLRPRequest, *bbsv1.RetireActualLRPRequest, *bbsv1.CancelTaskRequest, *bbsv1.DeleteTaskRequest, *bbsv1.DesireLRPRequest, *bbsv1.UpdateDesiredLRPRequest:
			out = append(out, request)
		}
	}
	return out
}

// TestDryRunsChangeNothing and say what would happen.
func TestDryRunsChangeNothing(t *testing.T) {
	t.Parallel()
	p := whole(t)
	for line, want := range map[string]string{
		"delete-desired-lrp p --dry-run":                                                     "would delete desired LRP p and stop 1 instance",
		"retire-actual-lrp p 0 --dry-run":                                                    "would stop instance 0 of p, which is RUNNING on cell-1",
		"cancel-task t --dry-run":                                                            "would cancel task t, which is",
		"delete-task t --dry-run":                                                            "would delete task t, which is",
		`update-desired-lrp p {"instances":5,"annotation":"x"} --dry-run`:                    "would change of p: annotation, instances 1 -> 5",
		`update-desired-lrp p {"instances":1} --dry-run`:                                     "would change of p: nothing",
		"create-desired-lrp --dry-run " + strings.Replace(compact(anLRP), `"p"`, `"new"`, 1): "would desire new with 1 instance",
		"evacuate cell-1 --dry-run":                                                          "would evacuate cell cell-1, with 0 instances and 0 tasks, which cannot be undone",
		"release-lock -k bbs -o me --dry-run":                                                "would release bbs, which me may hold",
	} {
		got := p.run(strings.Fields(line)...)
		require.Equal(t, ExitOK, got.exit, "%s: %s", line, got.errors)
		require.Contains(t, got.out, want)
	}
	for _, line := range []string{"delete-desired-lrp nobody --dry-run", "retire-actual-lrp p 7 --dry-run"} {
		require.Equal(t, ExitNotFound, p.run(strings.Fields(line)...).exit, line)
	}
	require.Equal(t, ExitAPI, p.run("create-desired-lrp", "--dry-run", anLRP).exit, "it exists")
	require.Empty(t, p.bbs.changes())
	require.Nil(t, p.locket.released)
}

// TestATerminalIsAsked before anything is taken away; a script is not.
func TestATerminalIsAsked(t *testing.T) {
	t.Parallel()
	p := whole(t)
	ask := func(answer string, args ...string) outcome {
		return p.runIn(t.Context(), Environment{Interactive: true, Stdin: strings.NewReader(answer)}, args...)
	}
	for _, answer := range []string{"n\n", "\n", "", "what?\n"} {
		got := ask(answer, "delete-desired-lrp", "p")
		require.Equal(t, ExitOther, got.exit)
		require.Equal(t, "On "+p.env["BBS_URL"]+": delete desired LRP p and stop 1 instance. Go on? [y/N] nothing was done\n", got.errors)
	}
	require.Empty(t, p.bbs.changes())
	require.Equal(t, ExitOK, ask("Y\n", "delete-desired-lrp", "p").exit)
	require.Len(t, p.bbs.changes(), 1)
	require.Equal(t, ExitOK, ask("", "delete-desired-lrp", "p", "--yes").exit)
	require.Equal(t, ExitOK, p.run("delete-desired-lrp", "p").exit)
	require.Len(t, p.bbs.changes(), 3)
	require.Equal(t, ExitOK, ask("yes\n", "evacuate", "cell-1").exit)
}

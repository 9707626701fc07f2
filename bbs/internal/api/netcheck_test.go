package api

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// act wraps one variant.
func act(variant any) *workloadv1.Action {
	a := &workloadv1.Action{}
	switch v := variant.(type) {
	case *workloadv1.NetCheckAction:
		a.Action = &workloadv1.Action_NetCheck{NetCheck: v}
	case *workloadv1.TimeoutAction:
		a.Action = &workloadv1.Action_Timeout{Timeout: v}
	case *workloadv1.EmitProgressAction:
		a.Action = &workloadv1.Action_EmitProgress{EmitProgress: v}
	case *workloadv1.TryAction:
		a.Action = &workloadv1.Action_Try{Try: v}
	case *workloadv1.ParallelAction:
		a.Action = &workloadv1.Action_Parallel{Parallel: v}
	case *workloadv1.SerialAction:
		a.Action = &workloadv1.Action_Serial{Serial: v}
	case *workloadv1.CodependentAction:
		a.Action = &workloadv1.Action_Codependent{Codependent: v}
	}
	return a
}

func netCheck(fallback *workloadv1.Action) *workloadv1.Action {
	return act(&workloadv1.NetCheckAction{Port: 8080, FallbackAction: fallback})
}

func TestFallbacksReplaceNetChecks(t *testing.T) {
	t.Parallel()
	run := runAction()
	limit := durationpb.New(time.Second)
	tests := map[string]struct{ given, want *workloadv1.Action }{
		"nothing":                                {},
		"another action stays":                   {given: run, want: run},
		"a net check":                            {given: netCheck(run), want: run},
		"a net check without fallback stays":     {given: netCheck(nil), want: netCheck(nil)},
		"a net check that falls back to another": {given: netCheck(netCheck(run)), want: run},
		"within a timeout":                       {given: act(&workloadv1.TimeoutAction{Action: netCheck(run), Timeout: limit}), want: act(&workloadv1.TimeoutAction{Action: run, Timeout: limit})},
		"within progress":                        {given: act(&workloadv1.EmitProgressAction{Action: netCheck(run)}), want: act(&workloadv1.EmitProgressAction{Action: run})},
		"within a try":                           {given: act(&workloadv1.TryAction{Action: netCheck(run)}), want: act(&workloadv1.TryAction{Action: run})},
		"beside others": {
			given: act(&workloadv1.ParallelAction{Actions: []*workloadv1.Action{run, netCheck(run)}}),
			want:  act(&workloadv1.ParallelAction{Actions: []*workloadv1.Action{run, run}}),
		},
		"after others": {
			given: act(&workloadv1.SerialAction{Actions: []*workloadv1.Action{run, netCheck(run)}}),
			want:  act(&workloadv1.SerialAction{Actions: []*workloadv1.Action{run, run}}),
		},
		"together with others": {
			given: act(&workloadv1.CodependentAction{Actions: []*workloadv1.Action{netCheck(run), run}}),
			want:  act(&workloadv1.CodependentAction{Actions: []*workloadv1.Action{run, run}}),
		},
		"within the fallback of one that has none of its own": {
			given: netCheck(act(&workloadv1.TryAction{Action: netCheck(netCheck(run))})),
			want:  act(&workloadv1.TryAction{Action: run}),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			def := &workloadv1.LRPDefinition{
				Setup: test.given, Action: test.given, Monitor: test.given, Sidecars: []*workloadv1.Sidecar{{Action: test.given, MemoryMb: 1}},
			}
			shared := proto.CloneOf(def)
			want := &workloadv1.LRPDefinition{
				Setup: test.want, Action: test.want, Monitor: test.want, Sidecars: []*workloadv1.Sidecar{{Action: test.want, MemoryMb: 1}},
			}
			require.Empty(t, cmp.Diff(want, withFallbacks(true, def), protocmp.Transform()))
			require.Empty(t, cmp.Diff(shared, def, protocmp.Transform()), "the original")
			require.Same(t, def, withFallbacks(false, def))
			got := withTaskFallbacks(true, &workloadv1.TaskDefinition{Action: test.given})
			require.Empty(t, cmp.Diff(&workloadv1.TaskDefinition{Action: test.want}, got, protocmp.Transform()))
		})
	}
}

// Each method that answers with definitions, asked with and without.
func TestFallbacksWhereDefinitionsAreRead(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	owner, cell := h.operator(), h.cell("cell-1")
	app, def := desiredLRP("app", 1), taskDefinition()
	app.Definition.Monitor, def.Action = netCheck(runAction()), netCheck(runAction())
	_, err := bbsv1.NewDesiredLRPsClient(owner).DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: app})
	require.NoError(t, err)
	h.run("app", 0, "cell-1")
	lrps, tasks, taskCell := bbsv1.NewDesiredLRPsClient(owner), bbsv1.NewTasksClient(owner), bbsv1.NewTaskCellClient(cell)
	desire := func(guid string) {
		_, err := tasks.DesireTask(t.Context(), &bbsv1.DesireTaskRequest{TaskGuid: guid, Domain: "d", TaskDefinition: def})
		require.NoError(t, err)
	}
	desire("task")
	reads := map[string]func(asked bool) *workloadv1.Action{
		"GetDesiredLRP": func(asked bool) *workloadv1.Action {
			got, err := lrps.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetDesiredLrp().GetDefinition().GetMonitor()
		},
		"GetDesiredLRP with secrets": func(asked bool) *workloadv1.Action {
			got, err := lrps.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", IncludeSecrets: true, NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetDesiredLrp().GetDefinition().GetMonitor()
		},
		"ListDesiredLRPs": func(asked bool) *workloadv1.Action {
			stream, err := lrps.ListDesiredLRPs(t.Context(), &bbsv1.ListDesiredLRPsRequest{IncludeDefinition: true, NetCheckFallback: asked})
			return collect(t, stream, err, (*bbsv1.ListDesiredLRPsResponse).GetDesiredLrps)[0].GetDefinition().GetMonitor()
		},
		"ListLRPDefinitions": func(asked bool) *workloadv1.Action {
			got, err := lrps.ListLRPDefinitions(t.Context(), &bbsv1.ListLRPDefinitionsRequest{ProcessGuid: "app", NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetDefinitions()[0].GetMonitor()
		},
		"FetchLRPDefinition": func(asked bool) *workloadv1.Action {
			got, err := bbsv1.NewActualLRPCellClient(cell).FetchLRPDefinition(t.Context(), &bbsv1.FetchLRPDefinitionRequest{ProcessGuid: "app", NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetDesiredLrp().GetDefinition().GetMonitor()
		},
		"GetTask": func(asked bool) *workloadv1.Action {
			got, err := tasks.GetTask(t.Context(), &bbsv1.GetTaskRequest{TaskGuid: "task", IncludeDefinition: true, NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetTask().GetDefinition().GetAction()
		},
		"ListTasks": func(asked bool) *workloadv1.Action {
			stream, err := tasks.ListTasks(t.Context(), &bbsv1.ListTasksRequest{Domain: "d", IncludeDefinition: true, NetCheckFallback: asked})
			return collect(t, stream, err, (*bbsv1.ListTasksResponse).GetTasks)[0].GetDefinition().GetAction()
		},
		"StartTask": func(asked bool) *workloadv1.Action {
			guid := map[bool]string{true: "with", false: "without"}[asked]
			desire(guid)
			got, err := taskCell.StartTask(t.Context(), &bbsv1.StartTaskRequest{TaskGuid: guid, CellId: "cell-1", NetCheckFallback: asked})
			require.NoError(t, err)
			return got.GetTask().GetDefinition().GetAction()
		},
	}
	for name, read := range reads {
		require.NotNil(t, read(false).GetNetCheck(), "%s: a caller who knows net checks", name)
		require.NotNil(t, read(true).GetRun(), "%s: a caller who does not", name)
	}
}

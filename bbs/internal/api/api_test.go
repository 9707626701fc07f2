package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

func TestLifeOfAnLRP(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	desired := bbsv1.NewDesiredLRPsClient(h.operator())
	lrps := bbsv1.NewActualLRPsClient(h.operator())
	list := func(req *bbsv1.ListActualLRPsRequest) []*workloadv1.ActualLRP {
		stream, err := lrps.ListActualLRPs(t.Context(), req)
		return collect(t, stream, err, (*bbsv1.ListActualLRPsResponse).GetActualLrps)
	}
	revision := h.desire("app", 3)
	require.Len(t, list(&bbsv1.ListActualLRPsRequest{MinRevision: revision}), 3)
	_, err := desired.DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP("app", 1)})
	require.Equal(t, codes.AlreadyExists, fault.Code(err))
	require.Equal(t, "ResourceExists", fault.Reason(err))

	h.run("app", 1, "cell-1")
	running := list(&bbsv1.ListActualLRPsRequest{States: []workloadv1.ActualLRPState{workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING}})
	require.Len(t, running, 1)
	require.Equal(t, "cell-1", running[0].GetInstanceKey().GetCellId())
	require.True(t, running[0].GetRoutable(), "absent means routable")
	require.Len(t, list(&bbsv1.ListActualLRPsRequest{CellId: "cell-1"}), 1)
	require.Len(t, list(&bbsv1.ListActualLRPsRequest{ProcessGuids: []string{"app", "other"}, Index: proto.Int32(2)}), 1)
	require.Empty(t, list(&bbsv1.ListActualLRPsRequest{Domain: "other"}))

	got, err := desired.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	require.NotEmpty(t, got.GetDesiredLrp().GetHealthyDefinitionId(), "an instance of it ran")
	require.Equal(t, []uint32{8080, 2222}, got.GetDesiredLrp().GetDefinition().GetPorts())

	updated, err := desired.UpdateDesiredLRP(t.Context(), &bbsv1.UpdateDesiredLRPRequest{
		ProcessGuid: "app", IfModificationTag: got.GetDesiredLrp().GetModificationTag(),
		Update: &workloadv1.DesiredLRPUpdate{Instances: proto.Int32(1), ImageCredentials: &workloadv1.ImageCredentials{Username: "u2", Password: "p2"}},
	})
	require.NoError(t, err)
	require.Equal(t, uint32(1), updated.GetModificationTag().GetIndex())
	left := list(&bbsv1.ListActualLRPsRequest{})
	require.Len(t, left, 2, "index 2 is gone, index 1 waits until its cell has stopped it")
	same, err := desired.UpdateDesiredLRP(t.Context(), &bbsv1.UpdateDesiredLRPRequest{
		ProcessGuid: "app", Update: &workloadv1.DesiredLRPUpdate{Instances: proto.Int32(1)},
	})
	require.NoError(t, err)
	require.Equal(t, updated.GetRevision(), same.GetRevision(), "an update that changes nothing makes no revision")
	withSecrets, err := desired.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", IncludeSecrets: true})
	require.NoError(t, err)
	require.Equal(t, "u2", withSecrets.GetDesiredLrp().GetDefinition().GetContainer().GetImageCredentials().GetUsername())

	_, err = desired.RemoveDesiredLRP(t.Context(), &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	cell := bbsv1.NewActualLRPCellClient(h.cell("cell-1"))
	_, err = cell.RemoveActualLRP(t.Context(), &bbsv1.RemoveActualLRPRequest{ProcessGuid: "app", Index: 1, InstanceKey: instanceKey("app-instance", "cell-1")})
	require.NoError(t, err)
	require.Empty(t, list(&bbsv1.ListActualLRPsRequest{}))
	_, err = desired.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app"})
	require.Equal(t, "ResourceNotFound", fault.Reason(err))
}

// A precondition that does not hold is refused at once and not repeated by the client until its deadline.
func TestAMovedTagIsRefusedOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	desired := bbsv1.NewDesiredLRPsClient(h.operator())
	_, err := desired.DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP("app", 1)})
	require.NoError(t, err)
	stale := &workloadv1.ModificationTag{Epoch: "another", Index: 7}
	var trailer metadata.MD
	_, err = desired.UpdateDesiredLRP(t.Context(), &bbsv1.UpdateDesiredLRPRequest{
		ProcessGuid: "app", Update: &workloadv1.DesiredLRPUpdate{Instances: new(int32(2))}, IfModificationTag: stale,
	}, grpc.Trailer(&trailer))
	require.Equal(t, codes.Aborted, fault.Code(err))
	require.Equal(t, "ResourceConflict", fault.Reason(err))
	require.Equal(t, []string{"-1"}, trailer.Get("grpc-retry-pushback-ms"))
	_, err = desired.RemoveDesiredLRP(t.Context(), &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: "app", IfModificationTag: stale}, grpc.Trailer(&trailer))
	require.Equal(t, "ResourceConflict", fault.Reason(err))
	require.Equal(t, []string{"-1"}, trailer.Get("grpc-retry-pushback-ms"))
}

func TestHeartbeatMakesNoRevision(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	h.run("app", 0, "cell-1")
	before := h.store.Committed().Revision()
	resp, err := bbsv1.NewActualLRPCellClient(h.cell("cell-1")).StartActualLRP(t.Context(), startRequest("app", 0, instanceKey("app-instance", "cell-1")))
	require.NoError(t, err)
	require.Equal(t, before, resp.GetRevision())
	require.Equal(t, before, h.store.Committed().Revision())
}

func TestLifeOfATask(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	tasks := bbsv1.NewTasksClient(h.operator())
	cell := bbsv1.NewTaskCellClient(h.cell("cell-1"))
	desire := &bbsv1.DesireTaskRequest{TaskGuid: "task", Domain: "cf-tasks", TaskDefinition: taskDefinition()}
	first, err := tasks.DesireTask(t.Context(), desire)
	require.NoError(t, err)
	again, err := tasks.DesireTask(t.Context(), desire)
	require.NoError(t, err, "the same again is a repetition")
	require.Equal(t, first.GetRevision(), again.GetRevision())
	other := taskDefinition()
	other.ResultFile = "/other"
	_, err = tasks.DesireTask(t.Context(), &bbsv1.DesireTaskRequest{TaskGuid: "task", Domain: "cf-tasks", TaskDefinition: other})
	require.Equal(t, "ResourceExists", fault.Reason(err))

	started, err := cell.StartTask(t.Context(), &bbsv1.StartTaskRequest{TaskGuid: "task", CellId: "cell-1"})
	require.NoError(t, err)
	require.True(t, started.GetShouldStart())
	require.Equal(t, "secret", started.GetTask().GetDefinition().GetContainer().GetEnv()[0].GetValue())
	repeated, err := cell.StartTask(t.Context(), &bbsv1.StartTaskRequest{TaskGuid: "task", CellId: "cell-1"})
	require.NoError(t, err)
	require.False(t, repeated.GetShouldStart(), "the permission is given once")

	_, err = cell.CompleteTask(t.Context(), &bbsv1.CompleteTaskRequest{TaskGuid: "task", CellId: "cell-1", InstanceGuid: "another run"})
	require.Equal(t, "RunningOnDifferentCell", fault.Reason(err))
	_, err = cell.CompleteTask(t.Context(), &bbsv1.CompleteTaskRequest{
		TaskGuid: "task", CellId: "cell-1", InstanceGuid: started.GetTask().GetInstanceGuid(), Result: "42", FailureReason: "with a \x00 byte",
	})
	require.NoError(t, err)
	got, err := tasks.GetTask(t.Context(), &bbsv1.GetTaskRequest{TaskGuid: "task", IncludeDefinition: true})
	require.NoError(t, err)
	require.Equal(t, "42", got.GetTask().GetResult())
	require.Empty(t, got.GetTask().GetDefinition().GetContainer().GetEnv(), "no secrets unless asked for")
	require.Empty(t, got.GetTask().GetDefinition().GetAction().GetRun().GetEnv())

	_, err = tasks.DeleteTask(t.Context(), &bbsv1.DeleteTaskRequest{TaskGuid: "task"})
	require.Equal(t, "InvalidStateTransition", fault.Reason(err))
	_, err = tasks.DeleteTask(t.Context(), &bbsv1.DeleteTaskRequest{TaskGuid: "task", Resolve: true})
	require.NoError(t, err)
	_, err = tasks.GetTask(t.Context(), &bbsv1.GetTaskRequest{TaskGuid: "task"})
	require.Equal(t, "ResourceNotFound", fault.Reason(err))
}

func TestCancelKeepsTheCellThatIsToBeTold(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	tasks := bbsv1.NewTasksClient(h.operator())
	_, err := tasks.DesireTask(t.Context(), &bbsv1.DesireTaskRequest{TaskGuid: "task", Domain: "d", TaskDefinition: taskDefinition()})
	require.NoError(t, err)
	_, err = bbsv1.NewTaskCellClient(h.cell("cell-1")).StartTask(t.Context(), &bbsv1.StartTaskRequest{TaskGuid: "task", CellId: "cell-1"})
	require.NoError(t, err)
	_, err = tasks.CancelTask(t.Context(), &bbsv1.CancelTaskRequest{TaskGuid: "task"})
	require.NoError(t, err)
	got, err := tasks.GetTask(t.Context(), &bbsv1.GetTaskRequest{TaskGuid: "task"})
	require.NoError(t, err)
	require.Equal(t, workloadv1.TaskState_TASK_STATE_COMPLETED, got.GetTask().GetState())
	require.Equal(t, "cell-1", got.GetTask().GetCellId())
}

// A cell decides by these answers what to do with a container of which the BBS has no record.
func TestCellsAreToldWhatHasNoRecord(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ctx, by, key := t.Context(), instanceKey("ghost-instance", "cell-1"), actualKey("ghost", 0)
	cell := h.cell("cell-1")
	lrps, evacuation := bbsv1.NewActualLRPCellClient(cell), bbsv1.NewEvacuationClient(cell)
	calls := map[string]func() error{
		"claim": func() error {
			_, err := lrps.ClaimActualLRP(ctx, &bbsv1.ClaimActualLRPRequest{ProcessGuid: "ghost", InstanceKey: by})
			return err
		},
		"crash": func() error {
			_, err := lrps.CrashActualLRP(ctx, &bbsv1.CrashActualLRPRequest{Key: key, InstanceKey: by})
			return err
		},
		"remove": func() error {
			_, err := lrps.RemoveActualLRP(ctx, &bbsv1.RemoveActualLRPRequest{ProcessGuid: "ghost", InstanceKey: by})
			return err
		},
		"fetch": func() error {
			_, err := lrps.FetchLRPDefinition(ctx, &bbsv1.FetchLRPDefinitionRequest{ProcessGuid: "ghost"})
			return err
		},
		"evacuate claimed": func() error {
			_, err := evacuation.EvacuateClaimedActualLRP(ctx, &bbsv1.EvacuateClaimedActualLRPRequest{Key: key, InstanceKey: by})
			return err
		},
		"evacuate stopped": func() error {
			_, err := evacuation.EvacuateStoppedActualLRP(ctx, &bbsv1.EvacuateStoppedActualLRPRequest{Key: key, InstanceKey: by})
			return err
		},
		"evacuate crashed": func() error {
			_, err := evacuation.EvacuateCrashedActualLRP(ctx, &bbsv1.EvacuateCrashedActualLRPRequest{Key: key, InstanceKey: by})
			return err
		},
		"remove evacuating": func() error {
			_, err := evacuation.RemoveEvacuatingActualLRP(ctx, &bbsv1.RemoveEvacuatingActualLRPRequest{Key: key, InstanceKey: by})
			return err
		},
	}
	before := h.store.Committed().Revision()
	for name, call := range calls {
		require.Equal(t, "ResourceNotFound", fault.Reason(call()), name)
	}
	running := startRequest("ghost", 0, by)
	kept, err := evacuation.EvacuateRunningActualLRP(ctx, &bbsv1.EvacuateRunningActualLRPRequest{Key: running.GetKey(), InstanceKey: by, NetInfo: running.GetNetInfo()})
	require.NoError(t, err)
	require.False(t, kept.GetKeepContainer())
	require.Equal(t, before, h.store.Committed().Revision())
}

func TestCellsSpeakForThemselvesOnly(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	h.run("app", 0, "cell-1")
	mine := instanceKey("app-instance", "cell-1")
	other := h.cell("cell-2")
	lrpCell, evacuation, taskCell := bbsv1.NewActualLRPCellClient(other), bbsv1.NewEvacuationClient(other), bbsv1.NewTaskCellClient(other)
	ctx := t.Context()
	running := startRequest("app", 0, mine)
	calls := map[string]func() error{
		"claim": func() error {
			_, err := lrpCell.ClaimActualLRP(ctx, &bbsv1.ClaimActualLRPRequest{ProcessGuid: "app", InstanceKey: mine})
			return err
		},
		"start": func() error { _, err := lrpCell.StartActualLRP(ctx, running); return err },
		"crash": func() error {
			_, err := lrpCell.CrashActualLRP(ctx, &bbsv1.CrashActualLRPRequest{Key: actualKey("app", 0), InstanceKey: mine})
			return err
		},
		"remove": func() error {
			_, err := lrpCell.RemoveActualLRP(ctx, &bbsv1.RemoveActualLRPRequest{ProcessGuid: "app", InstanceKey: mine})
			return err
		},
		"fetch what another cell runs": func() error {
			_, err := lrpCell.FetchLRPDefinition(ctx, &bbsv1.FetchLRPDefinitionRequest{ProcessGuid: "app"})
			return err
		},
		"evacuate claimed": func() error {
			_, err := evacuation.EvacuateClaimedActualLRP(ctx, &bbsv1.EvacuateClaimedActualLRPRequest{Key: actualKey("app", 0), InstanceKey: mine})
			return err
		},
		"evacuate running": func() error {
			_, err := evacuation.EvacuateRunningActualLRP(ctx, &bbsv1.EvacuateRunningActualLRPRequest{Key: running.GetKey(), InstanceKey: mine, NetInfo: running.GetNetInfo()})
			return err
		},
		"evacuate stopped": func() error {
			_, err := evacuation.EvacuateStoppedActualLRP(ctx, &bbsv1.EvacuateStoppedActualLRPRequest{Key: actualKey("app", 0), InstanceKey: mine})
			return err
		},
		"evacuate crashed": func() error {
			_, err := evacuation.EvacuateCrashedActualLRP(ctx, &bbsv1.EvacuateCrashedActualLRPRequest{Key: actualKey("app", 0), InstanceKey: mine})
			return err
		},
		"remove evacuating": func() error {
			_, err := evacuation.RemoveEvacuatingActualLRP(ctx, &bbsv1.RemoveEvacuatingActualLRPRequest{Key: actualKey("app", 0), InstanceKey: mine})
			return err
		},
		"start a task": func() error {
			_, err := taskCell.StartTask(ctx, &bbsv1.StartTaskRequest{TaskGuid: "t", CellId: "cell-1"})
			return err
		},
		"complete a task": func() error {
			_, err := taskCell.CompleteTask(ctx, &bbsv1.CompleteTaskRequest{TaskGuid: "t", CellId: "cell-1"})
			return err
		},
		"reject a task": func() error {
			_, err := taskCell.RejectTask(ctx, &bbsv1.RejectTaskRequest{TaskGuid: "t", CellId: "cell-1", RejectionReason: "r"})
			return err
		},
		"list what another cell runs": func() error {
			stream, err := bbsv1.NewActualLRPsClient(other).ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{CellId: "cell-1"})
			require.NoError(t, err)
			_, err = stream.Recv()
			return err
		},
		"watch another cell": func() error {
			stream, err := bbsv1.NewWatchClient(other).Watch(ctx, &bbsv1.WatchRequest{CellId: "cell-1"})
			require.NoError(t, err)
			_, err = stream.Recv()
			return err
		},
	}
	before := h.store.Committed().Revision()
	for name, call := range calls {
		require.Equal(t, codes.PermissionDenied, fault.Code(call()), name)
	}
	require.Equal(t, before, h.store.Committed().Revision())

	stream, err := bbsv1.NewActualLRPsClient(other).ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{})
	require.Empty(t, collect(t, stream, err, (*bbsv1.ListActualLRPsResponse).GetActualLrps), "a cell that asks for all sees its own")
	fetched, err := bbsv1.NewActualLRPCellClient(h.cell("cell-1")).FetchLRPDefinition(ctx, &bbsv1.FetchLRPDefinitionRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	require.Contains(t, fetched.GetDesiredLrp().GetRoutes(), "internal-router")
	require.NotContains(t, fetched.GetDesiredLrp().GetRoutes(), "diego-ssh", "its key is for those who connect")
	require.Equal(t, "secret", fetched.GetDesiredLrp().GetDefinition().GetContainer().GetEnv()[0].GetValue())
}

// TestClaimSendsTheDefinition compares what a claim brings with what the cell would fetch, and claims what is about to be removed.
func TestClaimSendsTheDefinition(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	cell := bbsv1.NewActualLRPCellClient(h.cell("cell-1"))
	claim := &bbsv1.ClaimActualLRPRequest{ProcessGuid: "app", InstanceKey: instanceKey("app-instance", "cell-1")}
	short, err := cell.ClaimActualLRP(t.Context(), claim)
	require.NoError(t, err)
	require.Nil(t, short.GetDesiredLrp(), "nobody asked for it")
	claim.WithDefinition = true
	whole, err := cell.ClaimActualLRP(t.Context(), claim)
	require.NoError(t, err)
	fetched, err := cell.FetchLRPDefinition(t.Context(), &bbsv1.FetchLRPDefinitionRequest{ProcessGuid: "app", DefinitionId: whole.GetDefinitionId()})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fetched.GetDesiredLrp(), whole.GetDesiredLrp(), protocmp.Transform()))
	require.Equal(t, whole.GetDefinitionId(), whole.GetDesiredLrp().GetDefinition().GetDefinitionId())

	_, err = bbsv1.NewDesiredLRPsClient(h.operator()).RemoveDesiredLRP(t.Context(), &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	late, err := cell.ClaimActualLRP(t.Context(), claim)
	require.NoError(t, err, "the claim holds until the instance is stopped")
	require.Nil(t, late.GetDesiredLrp())
}

func TestReadersGetNoSecrets(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	desired := bbsv1.NewDesiredLRPsClient(h.operator())
	got, err := desired.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	all := []proto.Message{got}
	lists, err := desired.ListDesiredLRPs(t.Context(), &bbsv1.ListDesiredLRPsRequest{IncludeDefinition: true})
	for _, m := range collect(t, lists, err, (*bbsv1.ListDesiredLRPsResponse).GetDesiredLrps) {
		require.NotNil(t, m.GetDefinition())
		all = append(all, m)
	}
	infos, err := desired.ListSchedulingInfos(t.Context(), &bbsv1.ListSchedulingInfosRequest{})
	for _, m := range collect(t, infos, err, (*bbsv1.ListSchedulingInfosResponse).GetSchedulingInfos) {
		all = append(all, m)
	}
	routing, err := bbsv1.NewDesiredLRPsClient(h.as(mtls.RoleRouteEmitter, "")).ListRoutingInfos(t.Context(), &bbsv1.ListRoutingInfosRequest{})
	for _, m := range collect(t, routing, err, (*bbsv1.ListRoutingInfosResponse).GetRoutingInfos) {
		all = append(all, m)
	}
	defs, err := desired.ListLRPDefinitions(t.Context(), &bbsv1.ListLRPDefinitionsRequest{ProcessGuid: "app"})
	require.NoError(t, err)
	require.Len(t, defs.GetDefinitions(), 1)
	all = append(all, defs)
	require.Len(t, all, 5)
	for _, m := range all {
		require.NotContains(t, fmt.Sprint(m), "secret")
		require.NotContains(t, fmt.Sprint(m), "diego-ssh")
	}
	withSecrets, err := desired.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", IncludeSecrets: true})
	require.NoError(t, err)
	require.JSONEq(t, `{"private_key":"very secret"}`, string(withSecrets.GetDesiredLrp().GetRoutes()["diego-ssh"]))
}

// The value of the secret route is not in memory. It outlives all updates but those that replace it.
func TestUpdatesKeepTheSecretRoute(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	client := bbsv1.NewDesiredLRPsClient(h.operator())
	routesOf := func() map[string][]byte {
		got, err := client.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", IncludeSecrets: true})
		require.NoError(t, err)
		return got.GetDesiredLrp().GetRoutes()
	}
	update := func(u *workloadv1.DesiredLRPUpdate) {
		_, err := client.UpdateDesiredLRP(t.Context(), &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: "app", Update: u})
		require.NoError(t, err)
	}
	first := routesOf()
	require.JSONEq(t, `{"private_key":"very secret"}`, string(first["diego-ssh"]))
	for n := range int32(3) {
		update(&workloadv1.DesiredLRPUpdate{Annotation: new(fmt.Sprint("note ", n)), Instances: new(2 + n)})
		require.Equal(t, first, routesOf())
	}
	at := h.store.Committed().Revision()
	update(&workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{Routes: first}})
	require.Equal(t, at, h.store.Committed().Revision(), "the same routes are no change")

	other := map[string][]byte{"diego-ssh": []byte(`{"private_key":"another"}`)}
	update(&workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{Routes: other}, Instances: new(int32(1))})
	require.Equal(t, other, routesOf())
	update(&workloadv1.DesiredLRPUpdate{Annotation: new("last")})
	require.Equal(t, other, routesOf())
	update(&workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{Routes: map[string][]byte{"cf-router": []byte(`[]`)}}})
	require.Equal(t, map[string][]byte{"cf-router": []byte(`[]`)}, routesOf())
	update(&workloadv1.DesiredLRPUpdate{Annotation: new("without a secret")})
}

// Updates that race, of which some replace the secret route, are all carried out, and the last secret is whole.
func TestUpdatesThatRaceAboutTheSecretRoute(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	client := bbsv1.NewDesiredLRPsClient(h.operator())
	var g errgroup.Group
	for n := range 40 {
		g.Go(func() error {
			u := &workloadv1.DesiredLRPUpdate{Annotation: new(fmt.Sprint("note ", n))}
			if n%2 == 0 {
				u.Routes = &workloadv1.DesiredLRPUpdate_Routes{Routes: map[string][]byte{"diego-ssh": fmt.Appendf(nil, `{"private_key":"%d"}`, n)}}
			}
			_, err := client.UpdateDesiredLRP(t.Context(), &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: "app", Update: u})
			return err
		})
		g.Go(func() error {
			got, err := client.GetDesiredLRP(t.Context(), &bbsv1.GetDesiredLRPRequest{ProcessGuid: "app", IncludeSecrets: true})
			if err == nil && !strings.Contains(string(got.GetDesiredLrp().GetRoutes()["diego-ssh"]), "private_key") {
				err = fmt.Errorf("the routes are %q", got.GetDesiredLrp().GetRoutes())
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
}

func TestListsSelectAndOrder(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, guid := range []string{"b-1", "a-2", "a-1", "aa-1", "c"} {
		h.desire(guid, 1)
	}
	client := bbsv1.NewDesiredLRPsClient(h.operator())
	list := func(filter *bbsv1.DesiredLRPFilter) []string {
		stream, err := client.ListSchedulingInfos(t.Context(), &bbsv1.ListSchedulingInfosRequest{Filter: filter})
		var guids []string
		for _, info := range collect(t, stream, err, (*bbsv1.ListSchedulingInfosResponse).GetSchedulingInfos) {
			guids = append(guids, info.GetProcessGuid())
		}
		return guids
	}
	require.Equal(t, []string{"a-1", "a-2", "aa-1", "b-1", "c"}, list(nil))
	require.Equal(t, []string{"a-1", "c"}, list(&bbsv1.DesiredLRPFilter{ProcessGuids: []string{"c", "a-1", "c", "x"}}))
	require.Equal(t, []string{"a-1", "a-2", "aa-1", "b-1"}, list(&bbsv1.DesiredLRPFilter{AppGuids: []string{"b-", "a-", "a", "a-1"}}))
	require.Equal(t, []string{"a-1"}, list(&bbsv1.DesiredLRPFilter{ProcessGuids: []string{"c", "a-1"}, AppGuids: []string{"a-"}}))
	require.Empty(t, list(&bbsv1.DesiredLRPFilter{Domain: "other"}))
}

func TestBadRequestsNameEveryBadField(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	deep := runAction()
	for range maxActionDepth {
		deep = &workloadv1.Action{Action: &workloadv1.Action_Try{Try: &workloadv1.TryAction{Action: deep}}}
	}
	wide := &workloadv1.SerialAction{}
	for range maxActionNodes {
		wide.Actions = append(wide.Actions, runAction())
	}
	m := desiredLRP("app", 1)
	m.Annotation = "zero \x00 byte"
	m.Routes["cf-router"] = []byte("{")
	m.Routes["internal-router"] = []byte(`{"hostname":"x"}`)
	m.CrashRestartPolicy = &workloadv1.CrashRestartPolicy{NumberOfImmediateRestarts: proto.Uint32(5), MaxRestartAttempts: proto.Uint32(5)}
	m.Definition.Setup = deep
	m.Definition.Action = &workloadv1.Action{Action: &workloadv1.Action_Serial{Serial: wide}}
	m.Definition.Container.EgressRules = []*workloadv1.SecurityGroupRule{
		{Protocol: workloadv1.Protocol_PROTOCOL_ALL, Destinations: []string{"10.0.0.1,10.0.0.0/8", "10.0.0.9-10.0.0.1", "fe80::1-10.0.0.1", "x", "1.2.3.4/40"}},
	}
	m.Definition.Container.VolumeMountedFiles = []*workloadv1.File{
		{Path: "a/b", Content: strings.Repeat("x", 1<<19)}, {Path: "a/c", Content: strings.Repeat("x", 1<<19)}, {Path: "a/d", Content: "x"},
	}
	_, err := bbsv1.NewDesiredLRPsClient(h.operator()).DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: m})
	require.Equal(t, codes.InvalidArgument, fault.Code(err))
	require.Equal(t, "InvalidRequest", fault.Reason(err))
	var fields []string
	for _, v := range fault.Violations(err) {
		fields = append(fields, v.Field)
	}
	require.ElementsMatch(t, []string{
		"desired_lrp.annotation",
		`desired_lrp.routes["cf-router"]`, `desired_lrp.routes["internal-router"]`,
		"desired_lrp.crash_restart_policy.number_of_immediate_restarts",
		"desired_lrp.definition.container.egress_rules[0].destinations[1]",
		"desired_lrp.definition.container.egress_rules[0].destinations[2]",
		"desired_lrp.definition.container.egress_rules[0].destinations[3]",
		"desired_lrp.definition.container.egress_rules[0].destinations[4]",
		"desired_lrp.definition.container.volume_mounted_files",
		"desired_lrp.definition.setup", "desired_lrp.definition.action",
	}, fields)
	require.Zero(t, h.store.Committed().Revision(), "a bad request changes nothing")

	tooLong := desiredLRP("app", 1)
	tooLong.Routes = map[string][]byte{"a": []byte(`"` + strings.Repeat("x", 70<<10) + `"`), "b": []byte(`"` + strings.Repeat("x", 70<<10) + `"`)}
	_, err = bbsv1.NewDesiredLRPsClient(h.operator()).DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: tooLong})
	require.Equal(t, "desired_lrp.routes", fault.Violations(err)[0].Field)
}

func TestDomains(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	client := bbsv1.NewDomainsClient(h.operator())
	_, err := client.UpsertDomain(t.Context(), &bbsv1.UpsertDomainRequest{Domain: "forever"})
	require.NoError(t, err)
	resp, err := client.UpsertDomain(t.Context(), &bbsv1.UpsertDomainRequest{Domain: "short", Ttl: durationpb.New(time.Minute)})
	require.NoError(t, err)
	list, err := client.ListDomains(t.Context(), &bbsv1.ListDomainsRequest{MinRevision: resp.GetRevision()})
	require.NoError(t, err)
	require.Len(t, list.GetDomains(), 2)
	h.now.Store(int64(2 * time.Minute))
	list, err = client.ListDomains(t.Context(), &bbsv1.ListDomainsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetDomains(), 1)
	require.Equal(t, "forever", list.GetDomains()[0].GetDomain())
}

func TestPlacement(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 3)
	h.run("app", 1, "cell-1")
	_, err := bbsv1.NewTasksClient(h.operator()).DesireTask(t.Context(), &bbsv1.DesireTaskRequest{TaskGuid: "task", Domain: "d", TaskDefinition: taskDefinition()})
	require.NoError(t, err)
	client := bbsv1.NewPlacementClient(h.as(mtls.RoleAuctioneer, ""))
	stream, err := client.ListUnplaced(t.Context(), &bbsv1.ListUnplacedRequest{})
	require.NoError(t, err)
	var lrps []*bbsv1.ListUnplacedResponse_UnplacedLRP
	var tasks []*bbsv1.ListUnplacedResponse_UnplacedTask
	for {
		chunk, err := stream.Recv()
		if err != nil {
			break
		}
		lrps, tasks = append(lrps, chunk.GetLrps()...), append(tasks, chunk.GetTasks()...)
	}
	require.Len(t, lrps, 1)
	require.Equal(t, []int32{0, 2}, lrps[0].GetIndices())
	require.Equal(t, int32(64), lrps[0].GetResources().GetMemoryMb())
	require.Len(t, tasks, 1)

	failed, err := client.FailActualLRPs(t.Context(), &bbsv1.FailActualLRPsRequest{Failures: []*bbsv1.FailActualLRPsRequest_Failure{
		{Key: actualKey("app", 0), PlacementError: "no room"}, {Key: actualKey("app", 1), PlacementError: "no room"}, {Key: actualKey("gone", 0), PlacementError: "x"},
	}})
	require.NoError(t, err)
	require.Empty(t, failed.GetResults()[0].GetReason())
	require.Equal(t, "ActualLRPCannotBeFailed", failed.GetResults()[1].GetReason())
	require.Empty(t, failed.GetResults()[2].GetReason())

	rejected, err := client.RejectTasks(t.Context(), &bbsv1.RejectTasksRequest{Rejections: []*bbsv1.RejectTasksRequest_Rejection{
		{TaskGuid: "task", RejectionReason: "no room"}, {TaskGuid: "gone", RejectionReason: "no room"},
	}})
	require.NoError(t, err)
	require.Empty(t, rejected.GetResults()[0].GetReason())
	require.Equal(t, "ResourceNotFound", rejected.GetResults()[1].GetReason())
}

func TestEvacuation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	h.run("app", 0, "cell-1")
	by := instanceKey("app-instance", "cell-1")
	client := bbsv1.NewEvacuationClient(h.cell("cell-1"))
	start := startRequest("app", 0, by)
	resp, err := client.EvacuateRunningActualLRP(t.Context(), &bbsv1.EvacuateRunningActualLRPRequest{
		Key: start.GetKey(), InstanceKey: by, NetInfo: start.GetNetInfo(), InternalRoutes: start.GetInternalRoutes(), MetricTags: start.GetMetricTags(),
	})
	require.NoError(t, err)
	require.True(t, resp.GetKeepContainer())
	_, err = bbsv1.NewActualLRPCellClient(h.cell("cell-2")).StartActualLRP(t.Context(), startRequest("app", 0, instanceKey("new", "cell-2")))
	require.NoError(t, err)
	resp, err = client.EvacuateRunningActualLRP(t.Context(), &bbsv1.EvacuateRunningActualLRPRequest{Key: start.GetKey(), InstanceKey: by, NetInfo: start.GetNetInfo()})
	require.NoError(t, err)
	require.False(t, resp.GetKeepContainer(), "the replacement runs")
}

func TestStandbyRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 1)
	h.held.Store(false)
	view := h.operator()
	short, cancel := contextWithTimeout(t, 300*time.Millisecond)
	defer cancel()
	_, err := bbsv1.NewDomainsClient(view).ListDomains(short, &bbsv1.ListDomainsRequest{})
	require.Contains(t, []codes.Code{codes.Unavailable, codes.DeadlineExceeded}, fault.Code(err))
	status, err := bbsv1.NewMaintenanceClient(view).GetStatus(t.Context(), &bbsv1.GetStatusRequest{})
	require.NoError(t, err, "a standby tells how it stands")
	require.False(t, status.GetActive())
	require.Equal(t, uint64(1), status.GetRevision())
	require.True(t, status.GetBrakeEngaged())
}

func TestStatusTellsOfSchemaKeysAndConvergence(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	client := bbsv1.NewMaintenanceClient(h.operator())
	status, err := client.GetStatus(t.Context(), &bbsv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Nil(t, status.GetLastConvergence(), "there was none")
	require.False(t, status.GetKeys().GetCounted(), "nobody has counted")
	require.Equal(t, "a", status.GetKeys().GetActiveLabel())
	require.Empty(t, cmp.Diff(&bbsv1.SchemaStatus{BuiltFor: 3, Version: 2, MigratingTo: 3}, status.GetSchema(), protocmp.Transform()))

	ctx, cancel := context.WithCancel(t.Context())
	rotated := make(chan error, 1)
	go func() { rotated <- h.store.Rotate(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-rotated)
	})
	at := time.Unix(1700000000, 0)
	h.effects.ran(at)
	require.Eventually(t, func() bool {
		status, err = client.GetStatus(t.Context(), &bbsv1.GetStatusRequest{})
		return err == nil && status.GetKeys().GetCounted()
	}, 20*time.Second, 10*time.Millisecond)
	require.Empty(t, status.GetKeys().GetLeft())
	require.Equal(t, []string{"old"}, status.GetKeys().GetRemovableLabels())
	require.True(t, at.Equal(status.GetLastConvergence().AsTime()))
	require.Equal(t, time.Second, status.GetLastConvergenceDuration().AsDuration())
}

func TestCellsAndTags(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	client := bbsv1.NewCellsClient(h.operator())
	list, err := client.ListCells(t.Context(), &bbsv1.ListCellsRequest{})
	require.NoError(t, err)
	require.Equal(t, "cell-1", list.GetCells()[0].GetPresence().GetCellId())
	tags, err := client.ListCellTags(t.Context(), &bbsv1.ListCellTagsRequest{})
	require.NoError(t, err)
	require.Len(t, tags.GetTags(), 2)
	require.Equal(t, int32(1), tags.GetTags()[0].GetRequired())
	require.Equal(t, int32(1), tags.GetTags()[1].GetOptional())
	_, err = bbsv1.NewMaintenanceClient(h.operator()).OverrideBrake(t.Context(), &bbsv1.OverrideBrakeRequest{Release: true, Duration: durationpb.New(time.Minute)})
	require.NoError(t, err)
	require.True(t, h.effects.released.Load())
}

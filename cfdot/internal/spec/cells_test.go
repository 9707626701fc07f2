package spec

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// TestCellStateOf checks the words in which tools for cell states read the work of a cell.
func TestCellStateOf(t *testing.T) {
	t.Parallel()
	placement := &workloadv1.PlacementConstraint{
		RootFs: "preloaded:r", VolumeDrivers: []string{"nfs"}, PlacementTags: []string{"a"}, Constraint: &workloadv1.Constraint{Require: []string{"gpu"}},
	}
	states := map[repv1.ContainerState][2]string{
		repv1.ContainerState_CONTAINER_STATE_RESERVED:     {"CLAIMED", `"Running","failed":false`},
		repv1.ContainerState_CONTAINER_STATE_INITIALIZING: {"CLAIMED", `"Running","failed":false`},
		repv1.ContainerState_CONTAINER_STATE_CREATED:      {"CLAIMED", `"Running","failed":false`},
		repv1.ContainerState_CONTAINER_STATE_RUNNING:      {"RUNNING", `"Running","failed":false`},
		repv1.ContainerState_CONTAINER_STATE_SHUTDOWN:     {"SHUTDOWN", `"Completed","failed":false`},
		repv1.ContainerState_CONTAINER_STATE_CRASHED:      {"CRASHED", `"Completed","failed":true`},
	}
	for state, want := range states {
		text, err := json.Marshal(CellStateOf(&repv1.StateResponse{
			Lrps: []*repv1.LRP{{
				InstanceGuid: "i", Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 1, Domain: "d"}, State: state,
				Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 2, MaxPids: 3}, Placement: placement,
			}},
			Tasks: []*repv1.Task{{TaskGuid: "t", Domain: "d", Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 2, MaxPids: 3}, Placement: placement, State: state}},
		}))
		require.NoError(t, err)
		common := `"MemoryMB":1,"DiskMB":2,"MaxPids":3,"RootFs":"preloaded:r","PlacementTags":["a"],"VolumeDrivers":["nfs"],"state":`
		require.Contains(t, string(text), `{"process_guid":"p","index":1,"domain":"d","instance_guid":"i",`+common+`"`+want[0]+`","constraint":{"require":["gpu"]}}`)
		require.Contains(t, string(text), `{"task_guid":"t","domain":"d",`+common+want[1]+`,"constraint":{"require":["gpu"]}}`)
	}
}

// TestCellStateTellsWhy shows what a cell cannot do, why it takes no work and how far its emptying is.
func TestCellStateTellsWhy(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(CellStateOf(&repv1.StateResponse{
		Evacuating: true, Reason: "cell is evacuating; container engine is unhealthy: away", Restrictions: []string{"no limits of disk"}, VolumeDrivers: []string{"nfs"},
		Evacuation: &repv1.EvacuationProgress{Deadline: timestamppb.New(time.Unix(1, 2)), UntoldLrps: 3, ReplacingLrps: 4, StoppingLrps: 5, Tasks: 6},
	}))
	require.NoError(t, err)
	require.Contains(t, string(text), `"Reason":"cell is evacuating; container engine is unhealthy: away","Restrictions":["no limits of disk"],`+
		`"Evacuation":{"deadline":1000000002,"untold_lrps":3,"replacing_lrps":4,"stopping_lrps":5,"tasks":6},"VolumeDrivers":["nfs"]`)
	text, err = json.Marshal(CellStateOf(&repv1.StateResponse{Healthy: true}))
	require.NoError(t, err)
	require.NotContains(t, string(text), `"Evacuation"`)
	require.NotContains(t, string(text), "Restrictions")
}

// TestChangedInstancesHaveTheirKeys checks what a stream is filtered by, also for an instance that lost its cell.
func TestChangedInstancesHaveTheirKeys(t *testing.T) {
	t.Parallel()
	key := &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 2, Domain: "d"}
	event, known := EventOf(&bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{
		Before: &workloadv1.ActualLRP{Key: key, InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: "i", CellId: "c"}, State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING},
		After:  &workloadv1.ActualLRP{Key: key, State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED},
	}}})
	require.True(t, known)
	text, err := json.Marshal(event.Data)
	require.NoError(t, err)
	require.Contains(t, string(text), `{"process_guid":"p","index":2,"domain":"d","instance_guid":"i","cell_id":"c","before":{"process_guid":"p"`)
	require.Contains(t, string(text), `"after":{"process_guid":"p"`)
}

package faults

import (
	"context"
	"fmt"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// maxInstances is how many instances an LRP of the load has at most.
const maxInstances = 3

// state is all that one worker owns, as the BBS shows it. Counts and versions tell whether a write has
// been applied once, twice or not at all.
type state struct {
	desired    bool
	instances  int32
	annotation string
	version    uint32 // index of the modification tag
	rows       [maxInstances]instance
	task       taskState
}

// instance is one actual LRP; the zero value is none.
type instance struct {
	state   workloadv1.ActualLRPState
	guid    string
	crashes int32
	reason  string // of the last crash
	port    uint32 // 0 unless it runs
	version uint32
}

func (i instance) held() bool {
	return i.state == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED || i.state == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
}

// taskState is one task; the zero value is none.
type taskState struct {
	state      workloadv1.TaskState
	run        string // instance guid
	rejections int32
	rejection  string
	failed     bool
	reason     string
	result     string
}

// noted returns the state with what only the BBS can know taken from what was seen: the guid of a run
// whose permission was lost on the way.
func (s state) noted(seen state) state {
	running := workloadv1.TaskState_TASK_STATE_RUNNING
	if s.task.state == running && s.task.run == "" && seen.task.state == running {
		s.task.run = seen.task.run
	}
	return s
}

// observe reads the state of a worker, at least as new as a revision.
func (w *worker) observe(ctx context.Context, revision uint64) (state, error) {
	var s state
	infos, err := w.operator.desired.ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{
		Filter: &bbsv1.DesiredLRPFilter{ProcessGuids: []string{w.guid}}, MinRevision: revision,
	})
	desired, err := collect(infos, err, (*bbsv1.ListSchedulingInfosResponse).GetSchedulingInfos)
	if err != nil {
		return s, fmt.Errorf("reading the desired lrp: %w", err)
	}
	for _, d := range desired {
		s.desired, s.instances, s.annotation, s.version = true, d.GetInstances(), d.GetAnnotation(), d.GetModificationTag().GetIndex()
	}
	actuals, err := w.operator.actual.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{w.guid}, MinRevision: revision})
	rows, err := collect(actuals, err, (*bbsv1.ListActualLRPsResponse).GetActualLrps)
	if err != nil {
		return s, fmt.Errorf("reading the actual lrps: %w", err)
	}
	for _, a := range rows {
		if index := a.GetKey().GetIndex(); index >= maxInstances || s.rows[index] != (instance{}) {
			return s, fmt.Errorf("more records than one for each index: %v", rows)
		}
		s.rows[a.GetKey().GetIndex()] = instanceOf(a)
	}
	list, err := w.operator.tasks.ListTasks(ctx, &bbsv1.ListTasksRequest{Domain: w.domain, MinRevision: revision})
	tasks, err := collect(list, err, (*bbsv1.ListTasksResponse).GetTasks)
	if err != nil {
		return s, fmt.Errorf("reading the tasks: %w", err)
	}
	for _, t := range tasks {
		if t.GetTaskGuid() != w.taskGUID() {
			return s, fmt.Errorf("task %q lives, although it was deleted", t.GetTaskGuid())
		}
		s.task = taskState{
			state: t.GetState(), rejections: t.GetRejectionCount(), rejection: t.GetRejectionReason(),
			failed: t.GetFailed(), reason: t.GetFailureReason(), result: t.GetResult(),
		}
		if s.task.state == taskRunning { // else it tells which cell is to cancel it
			s.task.run = t.GetInstanceGuid()
		}
	}
	return s, nil
}

func instanceOf(a *workloadv1.ActualLRP) instance {
	i := instance{
		state: a.GetState(), guid: a.GetInstanceKey().GetInstanceGuid(), crashes: a.GetCrashCount(), reason: a.GetCrashReason(),
		version: a.GetModificationTag().GetIndex(),
	}
	if ports := a.GetNetInfo().GetPorts(); len(ports) > 0 {
		i.port = ports[0].GetHostPort()
	}
	return i
}

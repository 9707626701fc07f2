package reconcile

import (
	"context"
	"fmt"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// submitResidual queues the removal of records for which this cell has no container. The channels are closed as it is done.
func (r *Reconciler) submitResidual(ctx context.Context, known *records, present map[string]bool) []<-chan struct{} {
	var over []<-chan struct{}
	for guid, record := range known.lrps { // the guid of an instance is that of its container
		if present["lrp/"+guid] {
			continue
		}
		over = append(over, r.queue.submit(ctx, guid, func(ctx context.Context) {
			if _, err := r.Executor.GetContainer(guid); err != nil { // one may have come since the records were read
				r.settle(ctx, "lrp/"+guid, func() error { return r.dropRecord(ctx, record) })
			}
		}))
	}
	for guid, task := range known.tasks {
		if present["task/"+guid] || task.GetState() != workloadv1.TaskState_TASK_STATE_RUNNING {
			continue
		}
		over = append(over, r.queue.submit(ctx, "task/"+guid, func(ctx context.Context) {
			if !r.hasContainer("task/" + guid) {
				r.settle(ctx, "task/"+guid, func() error { return r.failLostTask(ctx, task) })
			}
		}))
	}
	return over
}

// hasContainer says whether there is one for what the name stands for, also one that has ended.
func (r *Reconciler) hasContainer(name string) bool {
	for c := range r.Executor.Containers() {
		if holder(c) == name {
			return true
		}
	}
	return false
}

// settle does what has to be done about a record and says so if it fails; the next round tries again.
func (r *Reconciler) settle(ctx context.Context, name string, act func() error) {
	if err := act(); err != nil && ctx.Err() == nil {
		r.Log.WarnContext(ctx, "record-not-settled", "record", name, "error", err)
	}
}

func (r *Reconciler) dropRecord(ctx context.Context, record *workloadv1.ActualLRP) error {
	r.Log.InfoContext(ctx, "record-without-container", "process_guid", record.GetKey().GetProcessGuid(), "index", record.GetKey().GetIndex(),
		"instance_guid", record.GetInstanceKey().GetInstanceGuid(), "presence", record.GetPresence().String())
	switch record.GetPresence() {
	case workloadv1.Presence_PRESENCE_EVACUATING:
		_, err := r.BBS.Evacuation.RemoveEvacuatingActualLRP(ctx, &bbsv1.RemoveEvacuatingActualLRPRequest{Key: record.GetKey(), InstanceKey: record.GetInstanceKey()})
		if err != nil && !definitive(err) {
			return fmt.Errorf("removing an evacuating record: %w", err)
		}
		return nil
	case workloadv1.Presence_PRESENCE_SUSPECT:
		// Only a crash removes a suspect record; it counts none.
		_, err := r.BBS.Cell.CrashActualLRP(ctx, &bbsv1.CrashActualLRPRequest{Key: record.GetKey(), InstanceKey: record.GetInstanceKey(), CrashReason: reasonStaleRecord})
		if err != nil && !definitive(err) {
			return fmt.Errorf("removing a suspect record: %w", err)
		}
		return nil
	case workloadv1.Presence_PRESENCE_ORDINARY, workloadv1.Presence_PRESENCE_UNSPECIFIED:
		return r.remove(ctx, record.GetKey(), record.GetInstanceKey())
	default:
		return fmt.Errorf("record has unknown presence %v", record.GetPresence())
	}
}

func (r *Reconciler) failLostTask(ctx context.Context, task *workloadv1.Task) error {
	_, err := r.BBS.TaskCell.CompleteTask(ctx, &bbsv1.CompleteTaskRequest{
		TaskGuid: task.GetTaskGuid(), CellId: r.CellID, InstanceGuid: task.GetInstanceGuid(), Failed: true, FailureReason: reasonNoContainer,
	})
	if err != nil && !definitive(err) {
		return fmt.Errorf("failing task %q, which has no container: %w", task.GetTaskGuid(), err)
	}
	return nil
}

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// replacements remembers for which containers a replacement was asked for, and for which the BBS has heard it. It is safe for
// concurrent use.
type replacements struct {
	mu    sync.Mutex
	heard map[string]bool // by guid of those asked for; guarded by mu
}

func newReplacements() *replacements { return &replacements{heard: map[string]bool{}} }

// ask says whether it is called for this container for the first time.
func (a *replacements) ask(guid string) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, asked := a.heard[guid]; asked {
		return false
	}
	a.heard[guid] = false
	return true
}

func (a *replacements) acknowledge(guid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard[guid] = true
}

func (a *replacements) acknowledged(guid string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard[guid]
}

func (a *replacements) forget(guid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.heard, guid)
}

// evacuateLRP settles one container of an LRP while the cell is being emptied. Without an answer running and claimed
// containers are kept, crashed and stopped ones wait too, so that their reason is not lost.
func (r *Reconciler) evacuateLRP(ctx context.Context, c executor.Container) error {
	key, instance, err := translate.LRPOf(c, r.CellID)
	if err != nil {
		return err
	}
	switch c.State {
	case executor.StateReserved, executor.StateInitializing, executor.StateCreated:
		_, err := r.BBS.Evacuation.EvacuateClaimedActualLRP(ctx, &bbsv1.EvacuateClaimedActualLRPRequest{Key: key, InstanceKey: instance})
		return r.deleteAfter(ctx, c, err)
	case executor.StateRunning:
		return r.evacuateRunning(ctx, c, key, instance)
	case executor.StateCompleted:
		if c.Result.Stopped {
			_, err := r.BBS.Evacuation.EvacuateStoppedActualLRP(ctx, &bbsv1.EvacuateStoppedActualLRPRequest{Key: key, InstanceKey: instance})
			return r.deleteAfter(ctx, c, err)
		}
		if c.Result.CellAtFault {
			return r.handBack(ctx, c, key, instance)
		}
		_, err := r.BBS.Evacuation.EvacuateCrashedActualLRP(ctx, &bbsv1.EvacuateCrashedActualLRPRequest{Key: key, InstanceKey: instance, CrashReason: translate.CrashReason(c)})
		return r.deleteAfter(ctx, c, err)
	default:
		return fmt.Errorf("container %q is in unknown state %q", c.GUID, c.State)
	}
}

func (r *Reconciler) deleteAfter(ctx context.Context, c executor.Container, err error) error {
	if err != nil && !definitive(err) {
		return fmt.Errorf("evacuating container %q: %w", c.GUID, err)
	}
	return r.delete(ctx, c)
}

func (r *Reconciler) evacuateRunning(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	if r.replacements.ask(c.GUID) {
		r.Executor.Announce(c.GUID, fmt.Sprintf("Cell %s requesting replacement for instance %s", r.CellID, instance.GetInstanceGuid()))
		r.Log.InfoContext(ctx, "requesting-replacement", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid())
	}
	running := translate.RunningOf(c, r.Zone)
	answer, err := r.BBS.Evacuation.EvacuateRunningActualLRP(ctx, &bbsv1.EvacuateRunningActualLRPRequest{
		Key: key, InstanceKey: instance, NetInfo: running.NetInfo, InternalRoutes: running.InternalRoutes, MetricTags: running.MetricTags,
		Routable: &running.Routable, AvailabilityZone: running.Zone, DefinitionId: running.DefinitionID,
	})
	if err != nil {
		return fmt.Errorf("evacuating instance %q: %w", instance.GetInstanceGuid(), err)
	}
	r.replacements.acknowledge(c.GUID)
	if answer.GetKeepContainer() {
		return nil
	}
	return r.delete(ctx, c)
}

// Abandon ends what an evacuation could not move in time: tasks fail with the reason, and every container is deleted. It
// returns how many instances of LRPs were left. Containers are deleted whether or not the BBS can be told.
func (r *Reconciler) Abandon(ctx context.Context) (stranded int, err error) {
	var group errgroup.Group
	group.SetLimit(r.Width)
	var mu sync.Mutex
	var problems []error
	for _, c := range r.Executor.ListContainers() {
		if c.Tags[translate.TagLifecycle] == translate.LifecycleLRP && c.State == executor.StateRunning {
			stranded++
			r.Executor.Announce(c.GUID, fmt.Sprintf("Cell %s reached evacuation timeout for instance %s", r.CellID, c.Tags[translate.TagInstanceGUID]))
		}
		group.Go(func() error {
			if err := r.abandon(ctx, c); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return stranded, errors.Join(problems...)
}

func (r *Reconciler) abandon(ctx context.Context, c executor.Container) error {
	var told error
	if c.Tags[translate.TagLifecycle] == translate.LifecycleTask && c.State != executor.StateCompleted {
		_, told = r.BBS.TaskCell.CompleteTask(ctx, &bbsv1.CompleteTaskRequest{
			TaskGuid: c.Tags[translate.TagTaskGUID], CellId: r.CellID, InstanceGuid: c.Tags[translate.TagInstanceGUID], Failed: true, FailureReason: reasonEvacuated,
		})
		if told != nil && definitive(told) {
			told = nil
		}
	}
	return errors.Join(told, r.delete(ctx, c))
}

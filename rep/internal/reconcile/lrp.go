package reconcile

import (
	"context"
	"errors"
	"fmt"

	"diego.internal/executor"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
	"google.golang.org/grpc/codes"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// lrp settles one container of an LRP in ordinary times.
func (r *Reconciler) lrp(ctx context.Context, c executor.Container, known *records) error {
	key, instance, err := translate.LRPOf(c, r.CellID)
	if err != nil {
		return err
	}
	switch c.State {
	case executor.StateReserved:
		return r.claimAndRun(ctx, c, key, instance)
	case executor.StateInitializing, executor.StateCreated:
		if record, ok := known.lrp(instance); ok && record.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED {
			return nil
		}
		_, err := r.claim(ctx, c, key, instance)
		return err
	case executor.StateRunning:
		return r.reportRunning(ctx, c, key, instance, known)
	case executor.StateCompleted:
		return r.reportEnd(ctx, c, key, instance)
	default:
		return fmt.Errorf("container %q is in unknown state %q", c.GUID, c.State)
	}
}

// lrp finds the record of an instance; it finds nothing when an event brought us here and no records were read.
func (r *records) lrp(instance *workloadv1.ActualLRPInstanceKey) (*workloadv1.ActualLRP, bool) {
	if r == nil {
		return nil, false
	}
	record, ok := r.lrps[instance.GetInstanceGuid()]
	return record, ok
}

// claim returns the definition to run, or claimed false when the instance is not for us; the container is deleted then.
func (r *Reconciler) claim(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) (*bbsv1.ClaimActualLRPResponse, error) {
	answer, err := r.BBS.Cell.ClaimActualLRP(ctx, &bbsv1.ClaimActualLRPRequest{
		ProcessGuid: key.GetProcessGuid(), Index: key.GetIndex(), InstanceKey: instance,
	})
	switch {
	case err == nil:
		return answer, nil
	case definitive(err):
		return nil, errors.Join(refusal(r.delete(ctx, c)))
	default:
		return nil, fmt.Errorf("claiming instance %q: %w", instance.GetInstanceGuid(), err)
	}
}

// errRefused ends the handling of a container that was deleted because the BBS does not want it here. It is no failure.
var errRefused = errors.New("the instance is not for this cell")

func refusal(deletion error) error {
	if deletion != nil {
		return deletion
	}
	return errRefused
}

func (r *Reconciler) claimAndRun(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	claimed, err := r.claim(ctx, c, key, instance)
	if err != nil {
		return ignore(err, errRefused)
	}
	fetched, err := r.BBS.Cell.FetchLRPDefinition(ctx, &bbsv1.FetchLRPDefinitionRequest{
		ProcessGuid: key.GetProcessGuid(), DefinitionId: claimed.GetDefinitionId(),
	})
	if err != nil {
		if definitive(err) { // the LRP is gone, or the record is no longer ours
			return r.giveBack(ctx, c, key, instance)
		}
		return fmt.Errorf("fetching what to run for instance %q: %w", instance.GetInstanceGuid(), err)
	}
	info, err := translate.RunInfoForLRP(fetched.GetDesiredLrp(), key, instance.GetInstanceGuid())
	if err == nil {
		err = r.Executor.RunContainer(ctx, executor.RunRequest{
			GUID: c.GUID, Info: info,
			Tags: map[string]string{translate.TagDefinitionID: fetched.GetDesiredLrp().GetDefinition().GetDefinitionId()},
		})
	}
	if err != nil {
		// A definition that this cell cannot run counts as a crash, so that its reason shows and the back-off applies.
		r.Log.WarnContext(ctx, "instance-not-run", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid(), "error", err)
		return r.crash(ctx, c, key, instance, err.Error())
	}
	return nil
}

// giveBack drops a container that never ran together with its record.
func (r *Reconciler) giveBack(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	if err := r.remove(ctx, key, instance); err != nil {
		return err
	}
	return r.delete(ctx, c)
}

func (r *Reconciler) reportRunning(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey, known *records) error {
	running := translate.RunningOf(c, r.Zone)
	if record, ok := known.lrp(instance); ok && running.Matches(record) {
		return nil
	}
	_, err := r.BBS.Cell.StartActualLRP(ctx, &bbsv1.StartActualLRPRequest{
		Key: key, InstanceKey: instance, NetInfo: running.NetInfo, InternalRoutes: running.InternalRoutes, MetricTags: running.MetricTags,
		Routable: &running.Routable, AvailabilityZone: running.Zone, DefinitionId: running.DefinitionID,
	})
	if err == nil {
		return nil
	}
	if definitive(err) {
		// Another cell runs it, or it is no longer wanted: this copy must go. Its end is reported as a stop.
		r.Log.InfoContext(ctx, "instance-refused", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid(), "reason", fault.Reason(err))
		if err := r.Executor.StopContainer(ctx, c.GUID); err != nil && !errors.Is(err, executor.ErrContainerNotFound) {
			return fmt.Errorf("stopping container %q: %w", c.GUID, err)
		}
		return nil
	}
	return fmt.Errorf("reporting instance %q as running: %w", instance.GetInstanceGuid(), err)
}

// reportEnd tells the BBS of a container that has ended and deletes it when the BBS has taken note, so that no reason is lost.
func (r *Reconciler) reportEnd(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	if c.Result.Stopped {
		return r.giveBack(ctx, c, key, instance)
	}
	return r.crash(ctx, c, key, instance, c.Result.FailureReason)
}

func (r *Reconciler) crash(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey, reason string) error {
	_, err := r.BBS.Cell.CrashActualLRP(ctx, &bbsv1.CrashActualLRPRequest{Key: key, InstanceKey: instance, CrashReason: reason})
	if err != nil && !definitive(err) {
		return fmt.Errorf("reporting the crash of instance %q: %w", instance.GetInstanceGuid(), err)
	}
	if err == nil {
		r.Log.InfoContext(ctx, "instance-crashed", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid(), "reason", reason)
	}
	return r.delete(ctx, c)
}

func (r *Reconciler) remove(ctx context.Context, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	_, err := r.BBS.Cell.RemoveActualLRP(ctx, &bbsv1.RemoveActualLRPRequest{
		ProcessGuid: key.GetProcessGuid(), Index: key.GetIndex(), InstanceKey: instance,
	})
	if err != nil && !definitive(err) {
		return fmt.Errorf("removing the record of instance %q: %w", instance.GetInstanceGuid(), err)
	}
	return nil
}

// definitive says whether the BBS has decided, so that asking again would change nothing. Everything else (it is not there,
// it is moving, it is slow) is asked again at the next round, and nothing is deleted meanwhile.
func definitive(err error) bool {
	switch fault.Code(err) { //nolint:exhaustive // all others are not
	case codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists, codes.InvalidArgument:
		return true
	default:
		return false
	}
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

package reconcile

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
)

// lrp settles one container of an LRP in ordinary times.
func (r *Reconciler) lrp(ctx context.Context, c executor.Container) error {
	key, instance, err := translate.LRPOf(c, r.CellID)
	if err != nil {
		return err
	}
	switch c.State {
	case executor.StateReserved:
		return r.claimAndRun(ctx, c, key, instance)
	case executor.StateInitializing, executor.StateCreated:
		if _, err := r.claim(ctx, c, key, instance, false); err != nil && !errors.Is(err, errRefused) {
			return err
		}
		return nil
	case executor.StateRunning:
		return r.reportRunning(ctx, c, key, instance)
	case executor.StateCompleted:
		return r.reportEnd(ctx, c, key, instance)
	default:
		return fmt.Errorf("container %q is in unknown state %q", c.GUID, c.State)
	}
}

// claim returns which definition to run, and the definition if it is wanted, or errRefused when the instance is not for us; the
// container is deleted then.
func (r *Reconciler) claim(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey, definition bool) (*bbsv1.ClaimActualLRPResponse, error) {
	answer, err := r.BBS.Cell.ClaimActualLRP(ctx, &bbsv1.ClaimActualLRPRequest{
		ProcessGuid: key.GetProcessGuid(), Index: key.GetIndex(), InstanceKey: instance, WithDefinition: definition,
	})
	switch {
	case err == nil:
		return answer, nil
	case definitive(err):
		if err := r.delete(ctx, c); err != nil {
			return nil, err
		}
		return nil, errRefused
	default:
		return nil, fmt.Errorf("claiming instance %q: %w", instance.GetInstanceGuid(), err)
	}
}

// errRefused ends the handling of a container that was deleted because the BBS does not want it here. It is no failure.
var errRefused = errors.New("the instance is not for this cell")

func (r *Reconciler) claimAndRun(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	claimed, err := r.claim(ctx, c, key, instance, true)
	if errors.Is(err, errRefused) {
		return nil
	}
	if err != nil {
		return err
	}
	desired := claimed.GetDesiredLrp()
	if desired == nil { // an older BBS, or one that has no definition to send
		fetched, err := r.BBS.Cell.FetchLRPDefinition(ctx, &bbsv1.FetchLRPDefinitionRequest{
			ProcessGuid: key.GetProcessGuid(), DefinitionId: claimed.GetDefinitionId(),
		})
		if err != nil {
			if definitive(err) || fault.Code(err) == codes.PermissionDenied { // the LRP is gone, or the record is no longer ours
				return r.giveBack(ctx, c, key, instance)
			}
			return fmt.Errorf("fetching what to run for instance %q: %w", instance.GetInstanceGuid(), err)
		}
		desired = fetched.GetDesiredLrp()
	}
	info, err := translate.RunInfoForLRP(desired, key, instance.GetInstanceGuid())
	if err == nil {
		err = r.Executor.RunContainer(ctx, executor.RunRequest{
			GUID: c.GUID, Info: info,
			Tags: map[string]string{translate.TagDefinitionID: desired.GetDefinition().GetDefinitionId()},
		})
	}
	if changedMeanwhile(err) {
		return r.giveBack(ctx, c, key, instance)
	}
	if err != nil {
		// A definition that this cell cannot run counts as a crash, so that its reason shows and the back-off applies.
		r.Log.WarnContext(ctx, "instance-not-run", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid(), "error", err)
		return r.crash(ctx, c, key, instance, err.Error())
	}
	return nil
}

// changedMeanwhile says that the reservation was stopped, ran out or was deleted while it was being dealt with.
func changedMeanwhile(err error) bool {
	return errors.Is(err, executor.ErrInvalidTransition) || errors.Is(err, executor.ErrContainerNotFound)
}

// giveBack drops a container that never ran together with its record.
func (r *Reconciler) giveBack(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	if err := r.remove(ctx, key, instance); err != nil {
		return err
	}
	return r.delete(ctx, c)
}

// handBack returns an instance that this cell could not build for a reason of its own. That is no crash of the application:
// the instance is UNCLAIMED again and placed anew, elsewhere, because the cell has called itself unhealthy before.
func (r *Reconciler) handBack(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	r.Log.WarnContext(ctx, "instance-handed-back", "process_guid", key.GetProcessGuid(), "index", key.GetIndex(), "instance_guid", instance.GetInstanceGuid(), "reason", c.Result.FailureReason)
	_, err := r.BBS.Evacuation.EvacuateClaimedActualLRP(ctx, &bbsv1.EvacuateClaimedActualLRPRequest{Key: key, InstanceKey: instance})
	return r.deleteAfter(ctx, c, err)
}

func (r *Reconciler) reportRunning(ctx context.Context, c executor.Container, key *workloadv1.ActualLRPKey, instance *workloadv1.ActualLRPInstanceKey) error {
	running := translate.RunningOf(c, r.Zone)
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
	if c.Result.CellAtFault {
		return r.handBack(ctx, c, key, instance)
	}
	if c.RunInfo == nil {
		// A reservation that ran out before its turn. Its record waits for a cell, and to say so would keep the BBS from
		// hearing of others. If a claim was made whose answer never came, the next round finds a record without a container.
		return r.delete(ctx, c)
	}
	return r.crash(ctx, c, key, instance, translate.CrashReason(c))
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

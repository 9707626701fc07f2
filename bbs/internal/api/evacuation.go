package api

import (
	"context"
	"fmt"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// evacuation is the service for cells that are being emptied, about their own instances.
type evacuation struct {
	bbsv1.UnimplementedEvacuationServer
	*API
}

// own converts the keys of a request, and refuses those of another cell.
func (e *evacuation) own(ctx context.Context, key *workloadv1.ActualLRPKey, by *workloadv1.ActualLRPInstanceKey) (lrp.Key, lrp.InstanceKey, error) {
	var v violations
	v.instance(key, by)
	if err := v.err(); err != nil {
		return lrp.Key{}, lrp.InstanceKey{}, err
	}
	return wire.KeyFrom(key), wire.InstanceKeyFrom(by), ownCell(ctx, by.GetCellId())
}

func (e *evacuation) EvacuateClaimedActualLRP(ctx context.Context, req *bbsv1.EvacuateClaimedActualLRPRequest) (*bbsv1.EvacuateClaimedActualLRPResponse, error) {
	key, by, err := e.own(ctx, req.GetKey(), req.GetInstanceKey())
	if err != nil {
		return nil, err
	}
	now := e.now()
	revision, err := e.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		return lrp.EvacuateClaimed(i, by, now)
	})
	if err != nil {
		return nil, fmt.Errorf("evacuating claimed %v of cell %q: %w", key, by.CellID, err)
	}
	return &bbsv1.EvacuateClaimedActualLRPResponse{Revision: revision}, nil
}

func (e *evacuation) EvacuateRunningActualLRP(ctx context.Context, req *bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
	key, by, err := e.own(ctx, req.GetKey(), req.GetInstanceKey())
	if err != nil {
		return nil, err
	}
	report, at := reportOf(req), e.stamp()
	keep := true
	revision, err := e.transition(ctx, key, func(tx *store.Tx, i lrp.Instance) (out lrp.Outcome, err error) {
		others := int32(0)
		for _, row := range tx.InstancesOf(key.ProcessGUID) {
			if row.Index != key.Index && row.Presence == lrp.Ordinary && row.State == lrp.Running {
				others++
			}
		}
		out, keep = lrp.EvacuateRunning(i, report, tx.Desired(key.ProcessGUID), others, at)
		return out, nil
	})
	if err != nil {
		return nil, fmt.Errorf("evacuating running %v of cell %q: %w", key, by.CellID, err)
	}
	e.Log.InfoContext(ctx, "actual-lrp-evacuated", "process_guid", key.ProcessGUID, "index", key.Index, "cell_id", by.CellID, "keep", keep)
	return &bbsv1.EvacuateRunningActualLRPResponse{KeepContainer: keep, Revision: revision}, nil
}

func (e *evacuation) EvacuateStoppedActualLRP(ctx context.Context, req *bbsv1.EvacuateStoppedActualLRPRequest) (*bbsv1.EvacuateStoppedActualLRPResponse, error) {
	key, by, err := e.own(ctx, req.GetKey(), req.GetInstanceKey())
	if err != nil {
		return nil, err
	}
	revision, err := e.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		return lrp.EvacuateStopped(i, by)
	})
	if err != nil {
		return nil, fmt.Errorf("evacuating stopped %v of cell %q: %w", key, by.CellID, err)
	}
	return &bbsv1.EvacuateStoppedActualLRPResponse{Revision: revision}, nil
}

func (e *evacuation) EvacuateCrashedActualLRP(ctx context.Context, req *bbsv1.EvacuateCrashedActualLRPRequest) (*bbsv1.EvacuateCrashedActualLRPResponse, error) {
	key, by, err := e.own(ctx, req.GetKey(), req.GetInstanceKey())
	if err != nil {
		return nil, err
	}
	reason, now := clean(req.GetCrashReason()), e.now()
	revision, err := e.transition(ctx, key, func(tx *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		return lrp.EvacuateCrashed(i, by, reason, policyOf(tx, key, i), now)
	})
	if err != nil {
		return nil, fmt.Errorf("evacuating crashed %v of cell %q: %w", key, by.CellID, err)
	}
	return &bbsv1.EvacuateCrashedActualLRPResponse{Revision: revision}, nil
}

func (e *evacuation) RemoveEvacuatingActualLRP(ctx context.Context, req *bbsv1.RemoveEvacuatingActualLRPRequest) (*bbsv1.RemoveEvacuatingActualLRPResponse, error) {
	key, by, err := e.own(ctx, req.GetKey(), req.GetInstanceKey())
	if err != nil {
		return nil, err
	}
	revision, err := e.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		return lrp.RemoveEvacuating(i, by, req.GetKey().GetDomain())
	})
	if err != nil {
		return nil, fmt.Errorf("removing evacuating %v of cell %q: %w", key, by.CellID, err)
	}
	return &bbsv1.RemoveEvacuatingActualLRPResponse{Revision: revision}, nil
}

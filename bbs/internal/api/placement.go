package api

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

// placement is the service for the auctioneer.
type placement struct {
	bbsv1.UnimplementedPlacementServer
	*API
}

// itemsAtOnce bounds the items of a bulk request that go into one function of the writer.
const itemsAtOnce = 500

func (p *placement) FailActualLRPs(ctx context.Context, req *bbsv1.FailActualLRPsRequest) (*bbsv1.FailActualLRPsResponse, error) {
	now := p.now()
	results, revision, err := inChunks(ctx, p.Store, req.GetFailures(), func(tx *store.Tx, f *bbsv1.FailActualLRPsRequest_Failure) error {
		before := tx.Instance(wire.KeyFrom(f.GetKey()))
		out, err := lrp.Fail(before, clean(f.GetPlacementError()), now)
		if err == nil {
			tx.PutInstance(before, out)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("failing %d actual lrps: %w", len(req.GetFailures()), err)
	}
	return &bbsv1.FailActualLRPsResponse{Results: results, Revision: revision}, nil
}

func (p *placement) RejectTasks(ctx context.Context, req *bbsv1.RejectTasksRequest) (*bbsv1.RejectTasksResponse, error) {
	now := p.now()
	results, revision, err := inChunks(ctx, p.Store, req.GetRejections(), func(tx *store.Tx, r *bbsv1.RejectTasksRequest_Rejection) error {
		before := tx.Task(r.GetTaskGuid())
		after, err := task.RejectPlacement(before, clean(r.GetRejectionReason()), p.MaxTaskRetries, now)
		if err == nil {
			tx.PutTask(before, after)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rejecting %d tasks: %w", len(req.GetRejections()), err)
	}
	return &bbsv1.RejectTasksResponse{Results: results, Revision: revision}, nil
}

// inChunks decides each item by itself, in as few functions of the writer as are quick enough. Items
// must put nothing before they are refused.
func inChunks[T any](ctx context.Context, st *store.Store, items []T, decide func(*store.Tx, T) error) ([]*bbsv1.ItemResult, uint64, error) {
	results := make([]*bbsv1.ItemResult, len(items))
	revision, done := uint64(0), 0
	for chunk := range slices.Chunk(items, itemsAtOnce) {
		var err error
		revision, err = st.Apply(ctx, func(tx *store.Tx) error {
			for i, item := range chunk {
				results[done+i] = &bbsv1.ItemResult{}
				if err := decide(tx, item); err != nil {
					results[done+i] = &bbsv1.ItemResult{Reason: fault.Reason(err), Message: err.Error()}
				}
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
		done += len(chunk)
	}
	return results, revision, nil
}

func (p *placement) ListUnplaced(_ *bbsv1.ListUnplacedRequest, stream grpc.ServerStreamingServer[bbsv1.ListUnplacedResponse]) error {
	view, err := p.Store.View()
	if err != nil {
		return err
	}
	lrps, err := newChunks(stream, &bbsv1.ListUnplacedResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	if err := unplacedLRPs(view, lrps); err != nil {
		return err
	}
	tasks := &chunks{stream: stream, field: 2, head: lrps.head, sent: true}
	for t := range view.Tasks() {
		if t.State != task.Pending {
			continue
		}
		err := tasks.addMessage(&bbsv1.ListUnplacedResponse_UnplacedTask{
			TaskGuid: t.GUID, Domain: t.Domain, Resources: wire.Resources(t.Resources), Placement: wire.Placement(t.Placement),
		})
		if err != nil {
			return err
		}
	}
	return tasks.end()
}

// unplacedLRPs lists the waiting indices by LRP and by the definition that they start from.
func unplacedLRPs(view *store.View, out *chunks) error {
	var waiting *bbsv1.ListUnplacedResponse_UnplacedLRP
	flush := func() error {
		if waiting == nil {
			return nil
		}
		m := waiting
		waiting = nil
		return out.addMessage(m)
	}
	for a := range view.Records() {
		if a.State != lrp.Unclaimed {
			continue
		}
		if waiting != nil && (waiting.GetProcessGuid() != a.ProcessGUID || waiting.GetDefinitionId() != a.DefinitionID) {
			if err := flush(); err != nil {
				return err
			}
		}
		if waiting == nil {
			desired := view.Desired(a.ProcessGUID)
			if desired == nil {
				continue // nobody says what it needs; convergence retires it if it may
			}
			waiting = &bbsv1.ListUnplacedResponse_UnplacedLRP{
				ProcessGuid: a.ProcessGUID, Domain: a.Domain, DefinitionId: a.DefinitionID,
				Resources: wire.Resources(desired.Resources), Placement: wire.Placement(desired.Placement),
			}
		}
		waiting.Indices = append(waiting.Indices, a.Index)
	}
	if err := flush(); err != nil {
		return err
	}
	return out.end()
}

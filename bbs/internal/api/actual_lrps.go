package api

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/grpc"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// actualLRPs is the service for everybody who reads what runs.
type actualLRPs struct {
	bbsv1.UnimplementedActualLRPsServer
	*API
}

func (l *actualLRPs) ListActualLRPs(req *bbsv1.ListActualLRPsRequest, stream grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error {
	cell, err := limitToOwnCell(stream.Context(), req.GetCellId())
	if err != nil {
		return err
	}
	view, err := l.Store.ViewAt(stream.Context(), req.GetMinRevision())
	if err != nil {
		return err
	}
	out, err := newChunks(stream, &bbsv1.ListActualLRPsResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	filter := actualFilter{req: req, cell: cell}
	for row := range filter.candidates(view) {
		if filter.passes(row.Actual) {
			if err := out.add(row.Encoded); err != nil {
				return err
			}
		}
	}
	return out.end()
}

// actualFilter selects records; all members that are set must match.
type actualFilter struct {
	req  *bbsv1.ListActualLRPsRequest
	cell string
}

// candidates yields at least what passes, in order, from the narrowest index there is.
func (f actualFilter) candidates(view *store.View) iter.Seq[store.Actual] {
	switch {
	case len(f.req.GetProcessGuids()) > 0:
		return func(yield func(store.Actual) bool) {
			for _, guid := range sorted(f.req.GetProcessGuids()) {
				for row := range view.ActualsOf(guid) {
					if !yield(row) {
						return
					}
				}
			}
		}
	case f.cell != "":
		return view.ActualsOnCell(f.cell)
	default:
		return view.Actuals()
	}
}

func (f actualFilter) passes(a *lrp.Actual) bool {
	return (f.cell == "" || a.CellID == f.cell) &&
		(f.req.GetDomain() == "" || a.Domain == f.req.GetDomain()) &&
		(f.req.Index == nil || a.Index == f.req.GetIndex()) &&
		(len(f.req.GetStates()) == 0 || slices.Contains(f.req.GetStates(), wire.ActualState(a.State))) &&
		(len(f.req.GetPresences()) == 0 || slices.Contains(f.req.GetPresences(), wire.Presence(a.Presence)))
}

func (l *actualLRPs) RetireActualLRP(ctx context.Context, req *bbsv1.RetireActualLRPRequest) (*bbsv1.RetireActualLRPResponse, error) {
	key := lrp.Key{ProcessGUID: req.GetProcessGuid(), Index: req.GetIndex()}
	revision, err := l.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Retire(i) })
	if err != nil {
		return nil, fmt.Errorf("retiring %v: %w", key, err)
	}
	l.Log.InfoContext(ctx, "actual-lrp-retired", "process_guid", key.ProcessGUID, "index", key.Index)
	return &bbsv1.RetireActualLRPResponse{Revision: revision}, nil
}

// transition applies one transition of one index.
func (a *API) transition(ctx context.Context, key lrp.Key, decide func(*store.Tx, lrp.Instance) (lrp.Outcome, error)) (uint64, error) {
	return a.Store.Apply(ctx, func(tx *store.Tx) error {
		before := tx.Instance(key)
		out, err := decide(tx, before)
		if err != nil {
			return err
		}
		tx.PutInstance(before, out)
		return nil
	})
}

// actualLRPCell is the service for cells about their own instances.
type actualLRPCell struct {
	bbsv1.UnimplementedActualLRPCellServer
	*API
}

func (c *actualLRPCell) ClaimActualLRP(ctx context.Context, req *bbsv1.ClaimActualLRPRequest) (*bbsv1.ClaimActualLRPResponse, error) {
	by := wire.InstanceKeyFrom(req.GetInstanceKey())
	if err := ownCell(ctx, by.CellID); err != nil {
		return nil, err
	}
	var v violations
	v.plain("instance_key.instance_guid", by.InstanceGUID)
	if err := v.err(); err != nil {
		return nil, err
	}
	key, now := lrp.Key{ProcessGUID: req.GetProcessGuid(), Index: req.GetIndex()}, c.now()
	definition := ""
	revision, err := c.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		out, err := lrp.Claim(i, by, now)
		if err == nil {
			definition = out.After.Any().DefinitionID
			if suspect := out.After.Suspect; suspect != nil && suspect.InstanceKey == by {
				definition = suspect.DefinitionID
			}
		}
		return out, err
	})
	if err != nil {
		return nil, fmt.Errorf("claiming %v for cell %q: %w", key, by.CellID, err)
	}
	c.Log.DebugContext(ctx, "actual-lrp-claimed", "process_guid", key.ProcessGUID, "index", key.Index, "cell_id", by.CellID)
	out := &bbsv1.ClaimActualLRPResponse{Revision: revision, DefinitionId: definition}
	if req.GetWithDefinition() {
		if out.DesiredLrp, _, err = c.definition(ctx, key.ProcessGUID, by.CellID, definition); err != nil {
			c.Log.DebugContext(ctx, "definition-not-sent", "process_guid", key.ProcessGUID, "index", key.Index, "cell_id", by.CellID, "error", err)
		}
	}
	return out, nil
}

func (c *actualLRPCell) StartActualLRP(ctx context.Context, req *bbsv1.StartActualLRPRequest) (*bbsv1.StartActualLRPResponse, error) {
	report := reportOf(req)
	if err := ownCell(ctx, report.CellID); err != nil {
		return nil, err
	}
	var v violations
	v.instance(req.GetKey(), req.GetInstanceKey())
	v.plain("availability_zone", report.Zone)
	v.plain("definition_id", report.DefinitionID)
	if err := v.err(); err != nil {
		return nil, err
	}
	view, err := c.Store.View()
	if err != nil {
		return nil, err
	}
	if view.Instance(report.Key).Heartbeat(report) {
		// Nothing new, as most of the time: no reason to trouble the writer.
		return &bbsv1.StartActualLRPResponse{Revision: view.Revision()}, nil
	}
	at := c.stamp()
	revision, err := c.transition(ctx, report.Key, func(tx *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		out, err := lrp.Start(i, report, at)
		if err == nil && out.After.Ordinary != nil {
			tx.MarkHealthy(report.ProcessGUID, out.After.Ordinary.DefinitionID)
		}
		return out, err
	})
	if err != nil {
		return nil, fmt.Errorf("starting %v on cell %q: %w", report.Key, report.CellID, err)
	}
	c.Log.DebugContext(ctx, "actual-lrp-started", "process_guid", report.ProcessGUID, "index", report.Index, "cell_id", report.CellID)
	return &bbsv1.StartActualLRPResponse{Revision: revision}, nil
}

// running is what StartActualLRP and EvacuateRunningActualLRP have in common.
type running interface {
	GetKey() *workloadv1.ActualLRPKey
	GetInstanceKey() *workloadv1.ActualLRPInstanceKey
	GetNetInfo() *workloadv1.ActualLRPNetInfo
	GetInternalRoutes() []string
	GetMetricTags() map[string]string
	GetRoutable() bool
	GetAvailabilityZone() string
	GetDefinitionId() string
}

// reportOf converts what a cell says of an instance that runs.
func reportOf(req running) *lrp.Report {
	report := &lrp.Report{
		Key:         wire.KeyFrom(req.GetKey()),
		InstanceKey: wire.InstanceKeyFrom(req.GetInstanceKey()),
		Domain:      req.GetKey().GetDomain(),
		NetInfo:     *wire.NetInfoFrom(req.GetNetInfo()), // required
		Routable:    req.GetRoutable(),
		Zone:        req.GetAvailabilityZone(), DefinitionID: req.GetDefinitionId(),
		InternalRoutes: req.GetInternalRoutes(), MetricTags: req.GetMetricTags(),
	}
	switch m := req.(type) {
	case *bbsv1.StartActualLRPRequest:
		report.Routable = m.Routable == nil || m.GetRoutable()
	case *bbsv1.EvacuateRunningActualLRPRequest:
		report.Routable = m.Routable == nil || m.GetRoutable()
	}
	return report
}

func (c *actualLRPCell) CrashActualLRP(ctx context.Context, req *bbsv1.CrashActualLRPRequest) (*bbsv1.CrashActualLRPResponse, error) {
	key, by := wire.KeyFrom(req.GetKey()), wire.InstanceKeyFrom(req.GetInstanceKey())
	if err := ownCell(ctx, by.CellID); err != nil {
		return nil, err
	}
	reason, now := clean(req.GetCrashReason()), c.now()
	revision, err := c.transition(ctx, key, func(tx *store.Tx, i lrp.Instance) (lrp.Outcome, error) {
		return lrp.Crash(i, by, reason, policyOf(tx, key, i), now)
	})
	if err != nil {
		return nil, fmt.Errorf("crashing %v of cell %q: %w", key, by.CellID, err)
	}
	c.Log.InfoContext(ctx, "actual-lrp-crashed", "process_guid", key.ProcessGUID, "index", key.Index, "cell_id", by.CellID, "reason", reason)
	return &bbsv1.CrashActualLRPResponse{Revision: revision}, nil
}

// policyOf returns the crash policy that holds for an index now.
func policyOf(tx *store.Tx, key lrp.Key, i lrp.Instance) lrp.Policy {
	desired := tx.Desired(key.ProcessGUID)
	switch {
	case desired != nil:
		return lrp.ResolvePolicy(desired, tx.Domain(desired.Domain))
	case !i.IsZero():
		return lrp.ResolvePolicy(nil, tx.Domain(i.Any().Domain))
	default:
		return lrp.ResolvePolicy(nil, nil)
	}
}

func (c *actualLRPCell) RemoveActualLRP(ctx context.Context, req *bbsv1.RemoveActualLRPRequest) (*bbsv1.RemoveActualLRPResponse, error) {
	key, by := lrp.Key{ProcessGUID: req.GetProcessGuid(), Index: req.GetIndex()}, wire.InstanceKeyFrom(req.GetInstanceKey())
	if err := ownCell(ctx, by.CellID); err != nil {
		return nil, err
	}
	revision, err := c.transition(ctx, key, func(_ *store.Tx, i lrp.Instance) (lrp.Outcome, error) { return lrp.Remove(i, by) })
	if err != nil {
		return nil, fmt.Errorf("removing %v of cell %q: %w", key, by.CellID, err)
	}
	c.Log.DebugContext(ctx, "actual-lrp-removed", "process_guid", key.ProcessGUID, "index", key.Index, "cell_id", by.CellID)
	return &bbsv1.RemoveActualLRPResponse{Revision: revision}, nil
}

func (c *actualLRPCell) FetchLRPDefinition(ctx context.Context, req *bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error) {
	cell, err := limitToOwnCell(ctx, "")
	if err != nil {
		return nil, err
	}
	m, revision, err := c.definition(ctx, req.GetProcessGuid(), cell, req.GetDefinitionId())
	if err != nil {
		return nil, err
	}
	m.Definition = withFallbacks(req.GetNetCheckFallback(), m.GetDefinition())
	return &bbsv1.FetchLRPDefinitionResponse{DesiredLrp: m, Revision: revision}, nil
}

// definition is what a cell needs to run an instance that it holds. An empty id means the definition that new instances start from.
func (c *actualLRPCell) definition(ctx context.Context, guid, cell, id string) (*workloadv1.DesiredLRP, uint64, error) {
	view, err := c.Store.View()
	if err != nil {
		return nil, 0, err
	}
	row := view.Desired(guid)
	switch {
	case row == nil:
		return nil, 0, lrp.ErrNotFound.With("desired LRP %q", guid)
	case !view.CellHolds(cell, guid):
		return nil, 0, errForeign.With("cell %q holds no instance of %q", cell, guid)
	}
	if id == "" {
		id = row.StartDefinitionID()
	}
	def, err := c.Store.LRPDefinition(ctx, guid, id)
	if err != nil {
		return nil, 0, err
	}
	m := wire.Desired(row, false) // the key of the secret route is for who connects, not for the cell
	m.Definition = def
	return m, view.Revision(), nil
}

package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/batch"
	"diego.internal/auctioneer/internal/cells"
	"diego.internal/auctioneer/internal/work"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	"diego.internal/servicekit/fault"
)

// ErrNoRefusal is answered about work of which no refusal is remembered.
var ErrNoRefusal = fault.New(codes.NotFound, "ResourceNotFound", "no refusal of it is remembered")

// explainMaxAge is how old the states may be that an explanation is made of.
const explainMaxAge = 5 * time.Second

// Fleet knows the states of the cells; *cells.Fleet is one.
type Fleet interface {
	Snapshot(ctx context.Context, since time.Time) (cells.Snapshot, error)
}

// Finder tells where work is that has no refusal yet; *batch.Queue is one.
type Finder interface {
	Find(key work.Key) batch.Place
}

// Explanations implements auctioneerv1.ExplanationsServer. It changes nothing.
type Explanations struct {
	auctioneerv1.UnimplementedExplanationsServer

	ExplanationsConfig
}

// ExplanationsConfig is what the service needs. All fields are required.
type ExplanationsConfig struct {
	History *batch.History
	Queue   Finder
	Fleet   Fleet
	// Options are those that batches are decided with.
	Options auction.Options
	// Active tells whether this process is the auctioneer at this moment.
	Active func() bool
}

// NewExplanations makes the service.
func NewExplanations(cfg ExplanationsConfig) *Explanations {
	return &Explanations{ExplanationsConfig: cfg}
}

// ExplainPlacement tells the last refusal, and on request judges every cell as it is
// now.
func (s *Explanations) ExplainPlacement(ctx context.Context, req *auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
	if !s.Active() {
		return nil, ErrNotActive
	}
	key := work.Key{Kind: auction.Task, GUID: req.GetTaskGuid()}
	if lrp := req.GetLrp(); lrp != nil {
		key = work.Key{Kind: auction.LRP, GUID: lrp.GetProcessGuid(), Index: int(lrp.GetIndex())}
	}
	refused, ok := s.History.Last(key)
	if !ok {
		return nil, s.notRefused(key)
	}
	resp := &auctioneerv1.ExplainPlacementResponse{PlacementError: refused.Text, CellsByReason: map[string]int32{}}
	for reason, n := range refused.Counts {
		resp.CellsByReason[reason] = int32(n) //nolint:gosec // a number of cells
	}
	if !req.GetCells() {
		return resp, nil
	}
	snapshot, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range auction.New(snapshot.Cells, s.Options).Explain(refused.Work.Item) {
		resp.Verdicts = append(resp.Verdicts, verdict(&v))
	}
	return resp, nil
}

// PlanPlacement decides instances on a copy of the cells.
func (s *Explanations) PlanPlacement(ctx context.Context, req *auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error) {
	if !s.Active() {
		return nil, ErrNotActive
	}
	indices := make([]int32, req.GetInstances())
	for i := range indices {
		indices[i] = int32(i)
	}
	works, err := work.Instances(&auctioneerv1.LRPStart{
		ProcessGuid: req.GetProcessGuid(), Domain: "plan", Indices: indices,
		Resources: req.GetResources(), Placement: req.GetPlacement(),
	}, time.Now())
	if err != nil {
		return nil, fault.InvalidRequest(violation(err))
	}
	snapshot, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	zones := map[string]string{}
	for i := range snapshot.Cells {
		zones[snapshot.Cells[i].ID] = snapshot.Cells[i].Zone
	}
	items := make([]auction.Item, len(works))
	for i, w := range works {
		items[i] = w.Item
	}
	result := auction.New(snapshot.Cells, s.Options).Schedule(items)
	resp := &auctioneerv1.PlanPlacementResponse{InstancesByCell: map[string]int32{}, InstancesByZone: map[string]int32{}, Unplaced: int32(len(result.Refusals))} //nolint:gosec // at most 10,000
	for _, p := range result.Placements {
		resp.InstancesByCell[p.Cell]++
		resp.InstancesByZone[zones[p.Cell]]++
	}
	if len(result.Refusals) > 0 {
		resp.PlacementError = result.Refusals[0].Text
	}
	return resp, nil
}

// notRefused says what is known of work that has no refusal.
func (s *Explanations) notRefused(key work.Key) error {
	switch s.Queue.Find(key) {
	case batch.Taken:
		return ErrNoRefusal.With("%s is being placed at this moment", key)
	case batch.Waiting, batch.Held:
		return ErrNoRefusal.With("%s waits for the next batch", key)
	case batch.Unknown:
	}
	return ErrNoRefusal.With("%s is placed, or not asked for, or was refused before this auctioneer became active", key)
}

func violation(err error) fault.Violation {
	v := fault.Violation{Description: err.Error()}
	if invalid, ok := errors.AsType[work.InvalidError](err); ok {
		v.Field = invalid.Field
	}
	return v
}

func (s *Explanations) snapshot(ctx context.Context) (cells.Snapshot, error) {
	snapshot, err := s.Fleet.Snapshot(ctx, time.Now().Add(-explainMaxAge))
	if err != nil {
		return snapshot, fmt.Errorf("looking at the cells: %w", err)
	}
	return snapshot, nil
}

func verdict(v *auction.CellVerdict) *auctioneerv1.CellVerdict {
	reasons := make([]string, len(v.Reasons))
	for i, r := range v.Reasons {
		reasons[i] = r.String()
	}
	return &auctioneerv1.CellVerdict{
		CellId: v.Cell, Zone: v.Zone, Reason: strings.Join(reasons, ", "), Score: v.Score(),
		ScoreParts: map[string]float64{
			"utilisation": v.Utilisation, "starting": v.Starting, "siblings": v.Siblings, "bin_pack": v.BinPack, "tasks": v.Tasks,
		},
		ZoneInstances: int32(v.Instances), //nolint:gosec // instances of one process
	}
}

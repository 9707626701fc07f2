// Package work is what is asked of the auctioneer: instances and tasks that want a
// cell. It owns the reading of requests, with the words for what is wrong with them,
// and the writing of the same work into calls to a cell. It decides nothing.
package work

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"diego.internal/auctioneer/internal/auction"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Key identifies work: there is at most one piece of work per key.
type Key struct {
	Kind  auction.Kind
	GUID  string
	Index int
}

// String returns "guid.index" of an instance and the guid of a task.
func (k Key) String() string {
	if k.Kind == auction.Task {
		return k.GUID
	}
	return fmt.Sprintf("%s.%d", k.GUID, k.Index)
}

// Work is one piece of work with all that a cell needs to take it. Its messages are
// shared with the other instances of the same request and never change.
type Work struct {
	auction.Item

	Domain       string
	DefinitionID string
	TraceID      string
	Resources    *workloadv1.Resources
	Placement    *workloadv1.PlacementConstraint

	// Asked is when it was asked for the last time; Queued is the first.
	Asked time.Time
	// Reason is what the last cell that refused it said.
	Reason string
	// Held is true once it has been held back, of which the BBS was told.
	Held bool
}

// Key returns the key of the work.
func (w *Work) Key() Key { return Key{Kind: w.Kind, GUID: w.GUID, Index: w.Index} }

// Same reports whether two pieces of work with one key ask for the same thing.
func (w *Work) Same(other *Work) bool {
	return w.DefinitionID == other.DefinitionID && w.Domain == other.Domain &&
		proto.Equal(w.Resources, other.Resources) && proto.Equal(w.Placement, other.Placement)
}

// ActualLRPKey returns the key of an instance as a message.
func (w *Work) ActualLRPKey() *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: w.GUID, Index: int32(w.Index), Domain: w.Domain} //nolint:gosec // the index came as an int32
}

// Instances reads one item of RequestLRPAuctions. Repeated indices count once. The error
// is an InvalidError.
func Instances(start *auctioneerv1.LRPStart, now time.Time) ([]*Work, error) {
	if err := checkLRP(start); err != nil {
		return nil, err
	}
	first := Work{
		Item: auction.Item{
			Kind: auction.LRP, GUID: start.GetProcessGuid(), Queued: now,
			Request: request(auction.LRP, start.GetResources(), start.GetPlacement()),
		},
		Domain: start.GetDomain(), DefinitionID: start.GetDefinitionId(), TraceID: start.GetTraceId(), Asked: now,
		Resources: start.GetResources(), Placement: start.GetPlacement(),
	}
	indices := slices.Clone(start.GetIndices())
	slices.Sort(indices)
	indices = slices.Compact(indices)
	all := make([]Work, len(indices))
	out := make([]*Work, len(indices))
	for i, index := range indices {
		all[i] = first
		all[i].Index = int(index)
		out[i] = &all[i]
	}
	return out, nil
}

// Task reads one item of RequestTaskAuctions. The error is an InvalidError.
func Task(start *auctioneerv1.TaskStart, now time.Time) (*Work, error) {
	if err := checkTask(start); err != nil {
		return nil, err
	}
	return &Work{
		Item: auction.Item{
			Kind: auction.Task, GUID: start.GetTaskGuid(), Queued: now,
			Request: request(auction.Task, start.GetResources(), start.GetPlacement()),
		},
		Domain: start.GetDomain(), TraceID: start.GetTraceId(), Asked: now,
		Resources: start.GetResources(), Placement: start.GetPlacement(),
	}, nil
}

// Unplaced reads a part of what the BBS says is waiting. Items that a request could
// not have are left out and counted.
func Unplaced(list *bbsv1.ListUnplacedResponse, now time.Time) (all []*Work, bad int) {
	for _, u := range list.GetLrps() {
		some, err := Instances(&auctioneerv1.LRPStart{
			ProcessGuid: u.GetProcessGuid(), Domain: u.GetDomain(), Indices: u.GetIndices(),
			Resources: u.GetResources(), Placement: u.GetPlacement(), DefinitionId: u.GetDefinitionId(),
		}, now)
		if err != nil {
			bad++
		}
		all = append(all, some...)
	}
	for _, u := range list.GetTasks() {
		w, err := Task(&auctioneerv1.TaskStart{
			TaskGuid: u.GetTaskGuid(), Domain: u.GetDomain(), Resources: u.GetResources(), Placement: u.GetPlacement(),
		}, now)
		if err != nil {
			bad++
			continue
		}
		all = append(all, w)
	}
	return all, bad
}

// request is what the auction looks at. Instances run with a proxy wherever the cell
// runs proxies; tasks never do.
func request(kind auction.Kind, r *workloadv1.Resources, p *workloadv1.PlacementConstraint) *auction.Request {
	return &auction.Request{
		MemoryMB: int64(r.GetMemoryMb()), DiskMB: int64(r.GetDiskMb()), Proxy: kind == auction.LRP,
		RootFS: p.GetRootFs(), VolumeDrivers: p.GetVolumeDrivers(), PlacementTags: p.GetPlacementTags(),
		Constrained: p.GetConstraint() != nil, Require: p.GetConstraint().GetRequire(),
	}
}

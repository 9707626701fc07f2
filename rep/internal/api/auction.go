// Package api serves rep.v1: it turns requests into calls of the packages that know what to do, and their answers into
// messages. It holds no rule of its own.
package api

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"strings"
	"sync/atomic"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/translate"
	"diego.internal/rep/internal/work"
)

// Cell is what does not change in the life of the process.
type Cell struct {
	ID    string
	Zone  string
	Index int32
	// Address is host:port at which this API is reached.
	Address              string
	Providers            []*workloadv1.RootFSProvider
	PlacementTags        []string
	OptionalTags         []string
	StartingContainerCap int32
}

// Auction serves rep.v1.Auction.
type Auction struct {
	repv1.UnimplementedAuctionServer

	Cell      Cell
	Executor  *executor.Client
	Performer *work.Performer
	Evacuator *evacuation.Evacuator

	// counted is what the containers came to when they were last gone through.
	counted atomic.Pointer[count]
}

// count of the containers that are starting, as of a number of changes.
type count struct {
	changes  uint64
	starting int32
}

// State implements repv1.AuctionServer.
func (a *Auction) State(_ context.Context, req *repv1.StateRequest) (*repv1.StateResponse, error) {
	changes := a.Executor.Changes() // before all that it stands for
	healthy, problem := a.Executor.Healthy()
	out := &repv1.StateResponse{
		CellId:                  a.Cell.ID,
		Zone:                    a.Cell.Zone,
		CellIndex:               a.Cell.Index,
		RootfsProviders:         a.Cell.Providers,
		TotalResources:          translate.Capacity(a.Executor.TotalResources()),
		AvailableResources:      translate.Capacity(a.Executor.RemainingResources()),
		Evacuating:              a.Evacuator.Evacuating(),
		Healthy:                 healthy,
		PlacementTags:           a.Cell.PlacementTags,
		OptionalPlacementTags:   a.Cell.OptionalTags,
		VolumeDrivers:           a.Executor.VolumeDrivers(),
		Restrictions:            a.Executor.Restrictions(),
		StartingContainerLimit:  a.Cell.StartingContainerCap,
		StartingContainerCount:  a.starting(changes),
		RepAddress:              a.Cell.Address,
		ProxyMemoryAllocationMb: int32(a.Executor.ProxyMemoryMB()), //nolint:gosec // megabytes of one process
	}
	out.Reason = reason(out.GetEvacuating(), problem)
	if out.GetEvacuating() {
		out.Evacuation = evacuationMessage(a.Evacuator.Progress())
	}
	out.Version = version(out, changes)
	if req.GetKnownVersion() == out.GetVersion() {
		out.Unchanged = true
		return out, nil
	}
	placements := translate.Placements{}
	for c := range a.Executor.Containers() {
		if err := a.add(out, c, placements.Of(c)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reason says why the cell takes no work, all of it: an operator who empties a cell wants to know that it is broken, too.
func reason(evacuating bool, unhealthy error) string {
	var reasons []string
	if evacuating {
		reasons = append(reasons, work.ReasonEvacuating)
	}
	if unhealthy != nil {
		reasons = append(reasons, work.ReasonUnhealthy+": "+unhealthy.Error())
	}
	return strings.Join(reasons, "; ")
}

func (a *Auction) add(out *repv1.StateResponse, c executor.Container, placement *workloadv1.PlacementConstraint) error {
	resources, state := translate.ResourcesMessage(c.Resources), translate.State(c)
	if c.Tags[translate.TagLifecycle] == translate.LifecycleTask {
		out.Tasks = append(out.Tasks, &repv1.Task{
			TaskGuid: c.Tags[translate.TagTaskGUID], Domain: c.Tags[translate.TagDomain], Resources: resources, Placement: placement, State: state,
		})
		return nil
	}
	key, instance, err := translate.LRPOf(c, a.Cell.ID)
	if err != nil {
		return err
	}
	out.Lrps = append(out.Lrps, &repv1.LRP{InstanceGuid: instance.GetInstanceGuid(), Key: key, Resources: resources, Placement: placement, State: state})
	return nil
}

// starting counts the containers that do not run yet, unless nothing has changed since they were counted last: an auctioneer
// asks every second.
func (a *Auction) starting(changes uint64) int32 {
	if last := a.counted.Load(); last != nil && last.changes == changes {
		return last.starting
	}
	n := count{changes: changes}
	for c := range a.Executor.Containers() {
		switch c.State {
		case executor.StateReserved, executor.StateInitializing, executor.StateCreated:
			n.starting++
		case executor.StateRunning, executor.StateCompleted:
		}
	}
	a.counted.Store(&n)
	return n.starting
}

// version is a digest of everything that the answer tells, of the containers by the number of their changes.
func version(out *repv1.StateResponse, changes uint64) uint64 {
	digest := fnv.New64a()
	write := func(texts ...string) {
		for _, text := range texts {
			_, _ = digest.Write([]byte(text)) // never fails
			_, _ = digest.Write([]byte{0})
		}
	}
	write(out.GetReason(), out.GetAvailableResources().String(), out.GetTotalResources().String(), out.GetEvacuation().String())
	write(out.GetVolumeDrivers()...)
	write("restrictions") // the end of one list is not the begin of another
	write(out.GetRestrictions()...)
	_, _ = digest.Write(binary.LittleEndian.AppendUint64(nil, changes)) // never fails
	return digest.Sum64() | 1                                           // 0 is what a caller sends that knows none
}

// Perform implements repv1.AuctionServer.
func (a *Auction) Perform(ctx context.Context, req *repv1.PerformRequest) (*repv1.PerformResponse, error) {
	lrps, tasks, err := a.Performer.Perform(ctx, req)
	if err != nil {
		return nil, err
	}
	return &repv1.PerformResponse{Lrps: lrps, Tasks: tasks, AvailableResources: translate.Capacity(a.Executor.RemainingResources())}, nil
}

// Package api serves rep.v1: it turns requests into calls of the packages that know what to do, and their answers into
// messages. It holds no rule of its own.
package api

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"strings"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/holdings"
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
	Holdings  *holdings.Holdings
	Performer *work.Performer
	Evacuator *evacuation.Evacuator
}

// State implements repv1.AuctionServer.
func (a *Auction) State(_ context.Context, req *repv1.StateRequest) (*repv1.StateResponse, error) {
	changes, starting := a.Holdings.Look() // before all that the number stands for
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
		StartingContainerCount:  int32(starting), //nolint:gosec // at most a few hundred
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
	news := a.Holdings.Since(req.GetKnownContainers())
	out.ContainersVersion, out.Partial, out.Gone = news.Number, news.Partial, news.Gone
	for _, e := range news.Changed {
		if e.Task != nil {
			out.Tasks = append(out.Tasks, e.Task)
		} else {
			out.Lrps = append(out.Lrps, e.LRP)
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

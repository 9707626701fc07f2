package simulationtest

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// BBS knows which cells are present and what the auctioneer reports.
type BBS struct {
	bbsv1.UnimplementedCellsServer
	bbsv1.UnimplementedPlacementServer

	Address string
	world   *World

	mu sync.Mutex
	// Failures are the last placement errors by "guid.index".
	Failures map[string]string
	// Rejections are all reasons by task guid.
	Rejections map[string][]string
	// Unplaced is what ListUnplaced answers, unless Waiting is set.
	Unplaced *bbsv1.ListUnplacedResponse
	// Waiting makes the answer of ListUnplaced.
	Waiting func() *bbsv1.ListUnplacedResponse
	// Fail is the answer to every call, if set.
	Fail error
	// reports counts calls that report refusals.
	reports int
}

// Locked runs f while no call changes the BBS.
func (b *BBS) Locked(f func(*BBS)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

// Failure returns the last placement error of an instance.
func (b *BBS) Failure(guid string, index int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Failures[fmt.Sprintf("%s.%d", guid, index)]
}

// Reports returns the number of calls that told refusals.
func (b *BBS) Reports() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reports
}

// ListCells implements bbsv1.CellsServer.
func (b *BBS) ListCells(context.Context, *bbsv1.ListCellsRequest) (*bbsv1.ListCellsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Fail != nil {
		return nil, b.Fail
	}
	b.world.mu.Lock()
	defer b.world.mu.Unlock()
	resp := &bbsv1.ListCellsResponse{}
	for id, c := range b.world.cells {
		resp.Cells = append(resp.Cells, &bbsv1.Cell{
			Presence: &workloadv1.CellPresence{CellId: id, RepAddress: c.Address, Zone: c.Zone},
			Since:    &timestamppb.Timestamp{Seconds: 1},
		})
	}
	return resp, nil
}

// FailActualLRPs implements bbsv1.PlacementServer.
func (b *BBS) FailActualLRPs(_ context.Context, req *bbsv1.FailActualLRPsRequest) (*bbsv1.FailActualLRPsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports++
	if b.Fail != nil {
		return nil, b.Fail
	}
	resp := &bbsv1.FailActualLRPsResponse{}
	for _, f := range req.GetFailures() {
		b.Failures[fmt.Sprintf("%s.%d", f.GetKey().GetProcessGuid(), f.GetKey().GetIndex())] = f.GetPlacementError()
		resp.Results = append(resp.Results, &bbsv1.ItemResult{})
	}
	return resp, nil
}

// RejectTasks implements bbsv1.PlacementServer.
func (b *BBS) RejectTasks(_ context.Context, req *bbsv1.RejectTasksRequest) (*bbsv1.RejectTasksResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports++
	if b.Fail != nil {
		return nil, b.Fail
	}
	resp := &bbsv1.RejectTasksResponse{}
	for _, r := range req.GetRejections() {
		b.Rejections[r.GetTaskGuid()] = append(b.Rejections[r.GetTaskGuid()], r.GetRejectionReason())
		resp.Results = append(resp.Results, &bbsv1.ItemResult{})
	}
	return resp, nil
}

// ListUnplaced implements bbsv1.PlacementServer.
func (b *BBS) ListUnplaced(_ *bbsv1.ListUnplacedRequest, stream grpc.ServerStreamingServer[bbsv1.ListUnplacedResponse]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Fail != nil {
		return b.Fail
	}
	if b.Waiting != nil {
		return stream.Send(b.Waiting())
	}
	if b.Unplaced == nil {
		return nil
	}
	return stream.Send(b.Unplaced)
}

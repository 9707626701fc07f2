// Package api serves auctioneer.v1. It owns the checking of requests item by item and
// the answers; what it accepts goes to the queue of package batch.
package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/auctioneer/internal/work"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	"diego.internal/servicekit/fault"
)

// ErrNotActive is answered while another process is the auctioneer. Clients find that
// one through its health.
var ErrNotActive = fault.New(codes.Unavailable, "NotActive", "this auctioneer does not hold the lock")

// Queue takes accepted work.
type Queue interface {
	// Add takes all of the work or none.
	Add(works []*work.Work) error
	// Fits fails as Add would for so many pieces of work.
	Fits(n int) error
}

// Auctions implements auctioneerv1.AuctionsServer.
type Auctions struct {
	auctioneerv1.UnimplementedAuctionsServer

	queue  Queue
	active func() bool
}

// NewAuctions makes the service. active tells whether this process is the auctioneer
// at this moment; it must be cheap.
func NewAuctions(queue Queue, active func() bool) *Auctions {
	return &Auctions{queue: queue, active: active}
}

// RequestLRPAuctions queues the good items and names the bad ones.
func (s *Auctions) RequestLRPAuctions(_ context.Context, req *auctioneerv1.RequestLRPAuctionsRequest) (*auctioneerv1.RequestLRPAuctionsResponse, error) {
	if !s.active() {
		return nil, ErrNotActive
	}
	instances := 0
	for _, start := range req.GetStarts() {
		instances += len(start.GetIndices())
	}
	// A message has room for millions of indices, each of which becomes a piece of work.
	if err := s.queue.Fits(instances); err != nil {
		return nil, err
	}
	now := time.Now()
	var accepted []*work.Work
	resp := &auctioneerv1.RequestLRPAuctionsResponse{}
	for i, start := range req.GetStarts() {
		works, err := work.Instances(start, now)
		if err != nil {
			resp.Rejected = append(resp.Rejected, rejected(i, err))
			continue
		}
		accepted = append(accepted, works...)
	}
	if err := s.queue.Add(accepted); err != nil {
		return nil, err
	}
	return resp, nil
}

// RequestTaskAuctions queues the good items and names the bad ones.
func (s *Auctions) RequestTaskAuctions(_ context.Context, req *auctioneerv1.RequestTaskAuctionsRequest) (*auctioneerv1.RequestTaskAuctionsResponse, error) {
	if !s.active() {
		return nil, ErrNotActive
	}
	now := time.Now()
	var accepted []*work.Work
	resp := &auctioneerv1.RequestTaskAuctionsResponse{}
	for i, start := range req.GetStarts() {
		w, err := work.Task(start, now)
		if err != nil {
			resp.Rejected = append(resp.Rejected, rejected(i, err))
			continue
		}
		accepted = append(accepted, w)
	}
	if err := s.queue.Add(accepted); err != nil {
		return nil, err
	}
	return resp, nil
}

func rejected(position int, err error) *auctioneerv1.RejectedItem {
	item := &auctioneerv1.RejectedItem{Position: int32(position), Problem: err.Error()} //nolint:gosec // a request has at most 10,000 items
	if invalid, ok := errors.AsType[work.InvalidError](err); ok {
		item.Field = invalid.Field
	}
	return item
}

package simulationtest

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/fault"
)

// Locket hands out locks that expire only by order of the test.
type Locket struct {
	locketv1.UnimplementedLocketServer

	Address string

	mu    sync.Mutex
	token int64
	locks map[string]*locketv1.Held
}

var errCollision = fault.New(codes.AlreadyExists, "LockCollision", "lock-collision")

// Owner returns who holds a lock, or "".
func (l *Locket) Owner(key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.locks[key].GetClaim().GetOwner()
}

// Expire ends a lock, as time does for a holder that is dead.
func (l *Locket) Expire(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.locks, key)
}

// Steal gives a lock to somebody else.
func (l *Locket) Steal(key, owner string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token++
	l.locks[key] = &locketv1.Held{Claim: &locketv1.Claim{Key: key, Owner: owner, Type: locketv1.ClaimType_CLAIM_TYPE_LOCK}, FencingToken: l.token}
}

// Lock implements locketv1.LocketServer.
func (l *Locket) Lock(_ context.Context, req *locketv1.LockRequest) (*locketv1.LockResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, claim := l.locks[req.GetClaim().GetKey()], req.GetClaim()
	if held != nil && held.GetClaim().GetOwner() != claim.GetOwner() {
		return nil, errCollision.With("held by %q", held.GetClaim().GetOwner())
	}
	if held == nil {
		l.token++
		held = &locketv1.Held{Claim: claim, Ttl: req.GetTtl(), FencingToken: l.token, AcquiredAt: timestamppb.Now()}
		l.locks[claim.GetKey()] = held
		return &locketv1.LockResponse{Held: held, Acquired: true}, nil
	}
	return &locketv1.LockResponse{Held: held}, nil
}

// Release implements locketv1.LocketServer.
func (l *Locket) Release(_ context.Context, req *locketv1.ReleaseRequest) (*locketv1.ReleaseResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.locks[req.GetKey()]
	if held != nil && held.GetClaim().GetOwner() != req.GetOwner() {
		return nil, errCollision
	}
	delete(l.locks, req.GetKey())
	return &locketv1.ReleaseResponse{}, nil
}

// Watch implements locketv1.LocketServer; it tells nothing, so that waiters ask.
func (l *Locket) Watch(_ *locketv1.WatchRequest, stream grpc.ServerStreamingServer[locketv1.WatchResponse]) error {
	err := stream.Send(&locketv1.WatchResponse{Event: &locketv1.WatchResponse_Synced_{Synced: &locketv1.WatchResponse_Synced{}}})
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return context.Cause(stream.Context())
}

package lockclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/fault"
)

// silenceLimit is how long a watch may say nothing. Servers send a heartbeat at least every 5 s.
const silenceLimit = 7500 * time.Millisecond

// errSilent is why a watch ended that was not heard of any more.
var errSilent = errors.New("the watch fell silent")

// NewLocket returns the Backend that keeps claims in locket. A connection to several addresses (see
// grpcclient) makes it survive the loss of any of them.
func NewLocket(conn grpc.ClientConnInterface) Backend {
	return &locket{client: locketv1.NewLocketClient(conn)}
}

type locket struct {
	client locketv1.LocketClient
}

func (l *locket) Claim(ctx context.Context, claim Claim) (Held, error) {
	resp, err := l.client.Lock(ctx, &locketv1.LockRequest{
		Claim: &locketv1.Claim{
			Key: claim.Key, Owner: claim.Owner, Value: string(claim.Value), Type: typeToProto(claim.Type),
		},
		Ttl:         durationpb.New(claim.TTL),
		Incarnation: claim.Incarnation,
	})
	if err != nil {
		return Held{}, classify(err)
	}
	return heldFromProto(resp.GetHeld()), nil
}

func (l *locket) Release(ctx context.Context, key, owner string) error {
	_, err := l.client.Release(ctx, &locketv1.ReleaseRequest{Key: key, Owner: owner})
	return classify(err)
}

func (l *locket) Fetch(ctx context.Context, key string) (Held, error) {
	resp, err := l.client.Fetch(ctx, &locketv1.FetchRequest{Key: key})
	if err != nil {
		return Held{}, classify(err)
	}
	return heldFromProto(resp.GetHeld()), nil
}

func (l *locket) Watch(ctx context.Context, filter Filter, handle func(Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silenceLimit, func() { cancel(errSilent) })
	defer silence.Stop()

	stream, err := l.client.Watch(ctx, &locketv1.WatchRequest{
		Type: typeToProto(filter.Type), KeyPrefix: filter.Prefix,
	})
	if err != nil {
		return watchEnd(ctx, err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return watchEnd(ctx, err)
		}
		silence.Reset(silenceLimit)
		if event, ok := eventFromProto(resp); ok {
			handle(event)
		}
	}
}

// watchEnd prefers our own reason for the end over the status that gRPC made of it.
func watchEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("watching claims: %w", context.Cause(ctx))
	}
	return fmt.Errorf("watching claims: %w", classify(err))
}

// classify turns the answers that say something about the claim into the sentinels of Backend.
func classify(err error) error {
	if err == nil {
		return nil
	}
	switch fault.Code(err) { //nolint:exhaustive // all other codes say only that the call failed
	case codes.AlreadyExists:
		return ErrCollision.WithMetadata(fault.Metadata(err), "%w", err)
	case codes.NotFound:
		return ErrNotHeld.With("%w", err)
	case codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return ErrRefused.With("%w", err)
	default:
		return err
	}
}

func typeToProto(t Type) locketv1.ClaimType {
	switch t {
	case TypeLock:
		return locketv1.ClaimType_CLAIM_TYPE_LOCK
	case TypePresence:
		return locketv1.ClaimType_CLAIM_TYPE_PRESENCE
	default:
		return locketv1.ClaimType_CLAIM_TYPE_UNSPECIFIED
	}
}

func typeFromProto(t locketv1.ClaimType) Type {
	switch t {
	case locketv1.ClaimType_CLAIM_TYPE_LOCK:
		return TypeLock
	case locketv1.ClaimType_CLAIM_TYPE_PRESENCE:
		return TypePresence
	case locketv1.ClaimType_CLAIM_TYPE_UNSPECIFIED:
		return 0
	default:
		return 0
	}
}

func heldFromProto(h *locketv1.Held) Held {
	held := Held{
		Claim: Claim{
			Key: h.GetClaim().GetKey(), Owner: h.GetClaim().GetOwner(), Type: typeFromProto(h.GetClaim().GetType()),
			TTL: h.GetTtl().AsDuration(), Incarnation: h.GetIncarnation(),
		},
		Token: h.GetFencingToken(),
	}
	if value := h.GetClaim().GetValue(); value != "" {
		held.Value = []byte(value)
	}
	if h.GetAcquiredAt() != nil {
		held.AcquiredAt = h.GetAcquiredAt().AsTime()
	}
	if h.GetExpiresAt() != nil {
		held.ExpiresAt = h.GetExpiresAt().AsTime()
	}
	return held
}

// eventFromProto returns false for what carries no event: heartbeats, and kinds of newer servers.
func eventFromProto(resp *locketv1.WatchResponse) (Event, bool) {
	if resp.GetSynced() != nil {
		return Event{Kind: Synced}, true
	}
	change := resp.GetChange()
	if change == nil {
		return Event{}, false
	}
	kind, known := kinds[change.GetKind()]
	return Event{Kind: kind, Held: heldFromProto(change.GetHeld())}, known
}

var kinds = map[locketv1.ChangeKind]EventKind{
	locketv1.ChangeKind_CHANGE_KIND_ACQUIRED: Acquired,
	locketv1.ChangeKind_CHANGE_KIND_UPDATED:  Updated,
	locketv1.ChangeKind_CHANGE_KIND_RELEASED: Released,
	locketv1.ChangeKind_CHANGE_KIND_EXPIRED:  Expired,
}

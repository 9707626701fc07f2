package api

import (
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/locket/internal/lease"
	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// requestFromProto converts a request whose limits have been checked by the server.
func requestFromProto(req *locketv1.LockRequest, id mtls.Identity) lease.Request {
	return lease.Request{
		Key:         req.GetClaim().GetKey(),
		Owner:       req.GetClaim().GetOwner(),
		Holder:      id.String(),
		Type:        lease.Type(req.GetClaim().GetType()), //nolint:gosec // one of two small numbers
		Value:       req.GetClaim().GetValue(),
		TTL:         req.GetTtl().AsDuration(),
		Incarnation: req.GetIncarnation(),
	}
}

func heldToProto(h lease.Held) *locketv1.Held {
	return &locketv1.Held{
		Claim: &locketv1.Claim{
			Key: h.Key, Owner: h.Owner, Value: h.Value, Type: locketv1.ClaimType(h.Type),
		},
		Ttl:          durationpb.New(h.TTL),
		ExpiresAt:    timestamppb.New(h.ExpiresAt),
		AcquiredAt:   timestamppb.New(h.AcquiredAt),
		FencingToken: h.Token,
		Incarnation:  h.Incarnation,
	}
}

func changeToProto(c lease.Change) *locketv1.WatchResponse {
	return changed(locketv1.ChangeKind(c.Kind), c.Held)
}

func changed(kind locketv1.ChangeKind, held lease.Held) *locketv1.WatchResponse {
	return &locketv1.WatchResponse{Event: &locketv1.WatchResponse_Change_{
		Change: &locketv1.WatchResponse_Change{Kind: kind, Held: heldToProto(held)},
	}}
}

// field is one text of a request, by its path in the message.
type field struct{ path, text string }

// storable refuses what no text column takes, although it is valid UTF-8. One such text would fail
// the statement that it shares with the requests of others.
func storable(fields ...field) error {
	var bad []fault.Violation
	for _, f := range fields {
		if strings.ContainsRune(f.text, 0) {
			bad = append(bad, fault.Violation{Field: f.path, Description: "must not contain a zero byte"})
		}
	}
	if len(bad) > 0 {
		return fault.InvalidRequest(bad...)
	}
	return nil
}

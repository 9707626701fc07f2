package fault

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hidden is the text of an error whose own text is not for the caller: it may hold addresses, SQL or
// what a peer said about other things.
const hidden = "an internal error, see the log of the server"

// reasonPeerUnavailable tells a caller that it is not the server itself that is unavailable.
const reasonPeerUnavailable = "PeerUnavailable"

// Status returns what a server answers for err, and whether the error is unexpected, so that the
// server must log it: its text is not in the answer.
//
// Sentinels and statuses keep code, reason and text. A peer's status becomes Unavailable if the peer
// was not available and Internal otherwise, whatever its code meant to us. All else is Internal.
// The context of the call is asked first for a peer's error, because a call that its own caller gave
// up is not the peer's fault.
func Status(ctx context.Context, err error) (st *status.Status, unexpected bool) {
	if err == nil {
		return nil, false
	}
	c := classify(err)
	switch {
	case c.remote && ctx.Err() != nil:
		return status.FromContextError(ctx.Err()), false
	case c.remote && peerUnavailable(c.code):
		return newStatus(class{code: codes.Unavailable, reason: reasonPeerUnavailable}, "a peer is not available"), true
	case c.remote, !c.known, c.code == codes.Unknown:
		return status.New(codes.Internal, hidden), true
	case c.code == codes.Internal:
		return newStatus(c, hidden), true
	case c.status != nil:
		return c.status, false
	default:
		return newStatus(c, err.Error()), false
	}
}

func peerUnavailable(code codes.Code) bool {
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

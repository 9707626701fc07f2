package fault

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FromPeer marks the error of a gRPC call as the status of a peer. The gRPC client of this module
// calls it for every answer; it returns nil for nil.
//
// status.Code, Code, Reason and Violations read the peer's status through it. errors.Is holds for
// context.Canceled and context.DeadlineExceeded, since a call that ends that way mostly ends by our
// own context.
func FromPeer(err error, method string) error {
	if err == nil {
		return nil
	}
	if _, marked := err.(*remote); marked { //nolint:errorlint // only the outermost error can be marked twice
		return err
	}
	return &remote{status: status.Convert(err), method: method}
}

// remote is the status of a peer.
type remote struct {
	status *status.Status
	method string
}

func (e *remote) Error() string {
	return fmt.Sprintf("calling %s: %s (%s)", e.method, e.status.Message(), e.status.Code())
}

// GRPCStatus is for callers that look at the answer with package status. The server of this module
// never sends it on, see Status.
func (e *remote) GRPCStatus() *status.Status { return e.status }

func (e *remote) Is(target error) bool {
	switch e.status.Code() { //nolint:exhaustive // two codes have an equal among the errors of Go
	case codes.Canceled:
		return target == context.Canceled
	case codes.DeadlineExceeded:
		return target == context.DeadlineExceeded
	default:
		return false
	}
}

func (e *remote) class() class {
	c := classOfStatus(e.status)
	c.remote = true
	return c
}

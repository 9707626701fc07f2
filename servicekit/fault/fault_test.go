package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"diego.internal/servicekit/fault"
)

var (
	errGone  = fault.New(codes.NotFound, "ResourceNotFound", "there is no such thing")
	errTaken = fault.New(codes.AlreadyExists, "ResourceExists", "the thing exists")
)

func TestClassification(t *testing.T) {
	t.Parallel()
	peer := fault.FromPeer(errTaken.GRPCStatus().Err(), "/x.v1.X/Do")
	tests := map[string]struct {
		err    error
		code   codes.Code
		reason string
		remote bool
	}{
		"no error is OK":                        {err: nil, code: codes.OK},
		"a sentinel":                            {err: errGone, code: codes.NotFound, reason: "ResourceNotFound"},
		"a sentinel with text":                  {err: errGone.With("thing %d", 1), code: codes.NotFound, reason: "ResourceNotFound"},
		"a wrapped sentinel":                    {err: fmt.Errorf("doing: %w", errGone), code: codes.NotFound, reason: "ResourceNotFound"},
		"a joined sentinel":                     {err: errors.Join(errors.New("x"), errGone), code: codes.NotFound, reason: "ResourceNotFound"},
		"the outer sentinel decides":            {err: errGone.With("because %w", errTaken), code: codes.NotFound, reason: "ResourceNotFound"},
		"a bad request":                         {err: fault.InvalidRequest(fault.Violation{Field: "a"}), code: codes.InvalidArgument, reason: "InvalidRequest"},
		"a peer's status, wrapped":              {err: fmt.Errorf("doing: %w", peer), code: codes.AlreadyExists, reason: "ResourceExists", remote: true},
		"a peer's status, reclassified":         {err: errGone.With("asking: %w", peer), code: codes.NotFound, reason: "ResourceNotFound"},
		"a cancelled context":                   {err: fmt.Errorf("doing: %w", context.Canceled), code: codes.Canceled},
		"a deadline":                            {err: fmt.Errorf("doing: %w", context.DeadlineExceeded), code: codes.DeadlineExceeded},
		"a plain status":                        {err: fmt.Errorf("doing: %w", status.Error(codes.Aborted, "x")), code: codes.Aborted},
		"anything else":                         {err: errors.New("x"), code: codes.Unknown},
		"an error type that cannot be compared": {err: uncomparable{"a"}, code: codes.Unknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.code, fault.Code(test.err))
			require.Equal(t, test.reason, fault.Reason(test.err))
			require.Equal(t, test.remote, fault.Remote(test.err))
		})
	}
}

type uncomparable []string

func (u uncomparable) Error() string { return u[0] }

func TestErrorIdentityAndText(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	err := fmt.Errorf("doing: %w", errGone.With("thing %d: %w", 7, cause))
	require.ErrorIs(t, err, errGone)
	require.ErrorIs(t, err, cause)
	require.NotErrorIs(t, err, errTaken)
	require.EqualError(t, err, "doing: there is no such thing: thing 7: cause")
	require.Equal(t, codes.NotFound, status.Code(err), "grpc-go finds the code through wrapping")
}

// What a server sends is what a client reads.
func TestStatusRoundTrip(t *testing.T) {
	t.Parallel()
	violations := []fault.Violation{{Field: "a.b[1]", Description: "must be set"}, {Field: "c", Description: "too long"}}
	sent, unexpected := fault.Status(t.Context(), fmt.Errorf("checking: %w", fault.InvalidRequest(violations...)))
	require.False(t, unexpected)
	got := fault.FromPeer(sent.Err(), "/x.v1.X/Do")
	require.Equal(t, codes.InvalidArgument, fault.Code(got))
	require.Equal(t, fault.ReasonInvalidRequest, fault.Reason(got))
	if diff := cmp.Diff(violations, fault.Violations(got)); diff != "" {
		t.Errorf("Violations() (-want +got):\n%s", diff)
	}

	sent, _ = fault.Status(t.Context(), errTaken.WithMetadata(map[string]string{"owner": "b"}, "by b"))
	require.Equal(t, map[string]string{"owner": "b"}, fault.Metadata(fault.FromPeer(sent.Err(), "/x.v1.X/Do")))
}

func TestStatus(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	peer := func(code codes.Code) error { return fault.FromPeer(status.Error(code, "secret"), "/x.v1.X/Do") }
	tests := map[string]struct {
		ctx        context.Context //nolint:containedctx // an argument of the function under test
		err        error
		want       codes.Code
		unexpected bool
	}{
		"a sentinel is told":                     {ctx: t.Context(), err: errGone, want: codes.NotFound},
		"an unknown error is internal":           {ctx: t.Context(), err: errors.New("secret"), want: codes.Internal, unexpected: true},
		"a peer's refusal is internal":           {ctx: t.Context(), err: peer(codes.PermissionDenied), want: codes.Internal, unexpected: true},
		"a peer that is away is unavailable":     {ctx: t.Context(), err: peer(codes.Unavailable), want: codes.Unavailable, unexpected: true},
		"a peer that is slow is unavailable":     {ctx: t.Context(), err: peer(codes.DeadlineExceeded), want: codes.Unavailable, unexpected: true},
		"a call that the caller gave up is that": {ctx: ended, err: peer(codes.Canceled), want: codes.Canceled},
		"a cancelled context is that":            {ctx: t.Context(), err: context.Canceled, want: codes.Canceled},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, unexpected := fault.Status(test.ctx, test.err)
			require.Equal(t, test.want, st.Code())
			require.Equal(t, test.unexpected, unexpected)
			require.NotContains(t, st.Message(), "secret")
		})
	}
}

func TestFromPeerKeepsContextErrors(t *testing.T) {
	t.Parallel()
	require.NoError(t, fault.FromPeer(nil, "/x.v1.X/Do"))
	require.ErrorIs(t, fault.FromPeer(status.FromContextError(context.Canceled).Err(), "m"), context.Canceled)
	require.ErrorIs(t, fault.FromPeer(status.FromContextError(context.DeadlineExceeded).Err(), "m"), context.DeadlineExceeded)
	require.NotErrorIs(t, fault.FromPeer(status.Error(codes.NotFound, ""), "m"), context.Canceled)
}

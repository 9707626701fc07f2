package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/locket/internal/api"
	"diego.internal/locket/lockettest"
	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgrestest"
)

const (
	lock     = locketv1.ClaimType_CLAIM_TYPE_LOCK
	presence = locketv1.ClaimType_CLAIM_TYPE_PRESENCE
)

func ask(key, owner string, typ locketv1.ClaimType) *locketv1.LockRequest {
	return &locketv1.LockRequest{
		Claim: &locketv1.Claim{Key: key, Owner: owner, Type: typ, Value: "value of " + owner},
		Ttl:   durationpb.New(time.Minute),
	}
}

func client(t *testing.T, id mtls.Identity, servers ...*lockettest.Server) locketv1.LocketClient {
	t.Helper()
	return locketv1.NewLocketClient(lockettest.Dial(t, id, servers...))
}

// pair starts two lockets on one database.
func pair(t *testing.T) (one, two *lockettest.Server) {
	t.Helper()
	cfg := lockettest.Config{CA: mtlstest.NewAuthority(t), Database: postgrestest.URL(postgrestest.New(t, lockettest.Migrate))}
	return lockettest.Start(t, cfg), lockettest.Start(t, cfg)
}

var (
	bbs      = mtls.Identity{Role: mtls.RoleBBS}
	operator = mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}
)

func cell(name string) mtls.Identity { return mtls.Identity{Role: mtls.RoleCell, Name: name} }

func TestLocketCertificateBinding(t *testing.T) {
	t.Parallel()
	server := lockettest.Start(t, lockettest.Config{})
	type call struct {
		id   mtls.Identity
		key  string
		typ  locketv1.ClaimType
		want codes.Code
	}
	tests := map[string]call{
		"a bbs takes its lock":                          {bbs, "bbs", lock, codes.OK},
		"an auctioneer takes its lock":                  {mtls.Identity{Role: mtls.RoleAuctioneer}, "auctioneer", lock, codes.OK},
		"a route emitter takes its lock":                {mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell-1"}, "route_emitter", lock, codes.OK},
		"a cell registers itself":                       {cell("cell-1"), "cell-1", presence, codes.OK},
		"an operator takes any lock":                    {operator, "any-lock", lock, codes.OK},
		"an operator registers anything":                {operator, "any-presence", presence, codes.OK},
		"a bbs does not take the lock of another role":  {bbs, "auctioneer", lock, codes.PermissionDenied},
		"a bbs does not take a lock of another name":    {bbs, "bbs-2", lock, codes.PermissionDenied},
		"a bbs does not register a presence":            {bbs, "bbs", presence, codes.PermissionDenied},
		"a cell does not register another cell":         {cell("cell-1"), "cell-2", presence, codes.PermissionDenied},
		"a cell does not take a lock":                   {cell("cell-1"), "cell-1", lock, codes.PermissionDenied},
		"a cell of the name of a lock stays out of it":  {cell("bbs"), "bbs", presence, codes.PermissionDenied},
		"a cell without a name registers nothing":       {cell(""), "", presence, codes.InvalidArgument},
		"a router holds nothing":                        {mtls.Identity{Role: mtls.RoleRouter}, "router", lock, codes.PermissionDenied},
		"a nats server does not speak to locket at all": {mtls.Identity{Role: mtls.RoleNATS}, "nats", lock, codes.PermissionDenied},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, tc.id, server)
			_, err := c.Lock(t.Context(), ask(tc.key, name, tc.typ))
			require.Equal(t, tc.want, fault.Code(err), "Lock: %v", err)
			release := &locketv1.ReleaseRequest{Key: tc.key, Owner: name}
			_, err = c.Release(t.Context(), release)
			if tc.typ == presence && tc.id == bbs || tc.typ == lock && tc.id.Role == mtls.RoleCell && tc.id.Name == tc.key {
				return // the key is the caller's, only the type was not
			}
			require.Equal(t, tc.want, fault.Code(err), "Release: %v", err)
		})
	}
}

func TestLocketReadsAreOpenToThePlatform(t *testing.T) {
	t.Parallel()
	server := lockettest.Start(t, lockettest.Config{})
	_, err := client(t, operator, server).Lock(t.Context(), ask("k", "o", lock))
	require.NoError(t, err)
	for role, want := range map[string]codes.Code{
		mtls.RoleBBS: codes.OK, mtls.RoleAuctioneer: codes.OK, mtls.RoleLocket: codes.OK, mtls.RoleCell: codes.OK,
		mtls.RoleRouteEmitter: codes.OK, mtls.RoleRouter: codes.OK, mtls.RoleOperator: codes.OK, mtls.RoleCCBridge: codes.OK,
		mtls.RoleNATS: codes.PermissionDenied, "stranger": codes.PermissionDenied,
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			c := client(t, mtls.Identity{Role: role, Name: "x"}, server)
			_, err := c.Fetch(t.Context(), &locketv1.FetchRequest{Key: "k"})
			require.Equal(t, want, fault.Code(err), "Fetch: %v", err)
			list, err := c.FetchAll(t.Context(), &locketv1.FetchAllRequest{Type: lock})
			require.NoError(t, err)
			_, err = list.Recv()
			require.Equal(t, want, fault.Code(err), "FetchAll: %v", err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			watch, err := c.Watch(ctx, &locketv1.WatchRequest{Type: lock})
			require.NoError(t, err)
			_, err = watch.Recv()
			require.Equal(t, want, fault.Code(err), "Watch: %v", err)
		})
	}
}

func TestAccessNamesEveryMethod(t *testing.T) {
	t.Parallel()
	allowed := api.Access()
	for _, method := range locketv1.Locket_ServiceDesc.Methods {
		require.NotEmpty(t, allowed["/"+locketv1.Locket_ServiceDesc.ServiceName+"/"+method.MethodName], method.MethodName)
	}
	for _, stream := range locketv1.Locket_ServiceDesc.Streams {
		require.NotEmpty(t, allowed["/"+locketv1.Locket_ServiceDesc.ServiceName+"/"+stream.StreamName], stream.StreamName)
	}
}

func TestLocketNamesEveryBadField(t *testing.T) {
	t.Parallel()
	c := client(t, operator, lockettest.Start(t, lockettest.Config{}))
	tests := map[string]struct {
		req  *locketv1.LockRequest
		want []string
	}{
		"an empty request": {&locketv1.LockRequest{}, []string{"claim", "ttl"}},
		"an empty claim": {
			&locketv1.LockRequest{Claim: &locketv1.Claim{}, Ttl: durationpb.New(0), Incarnation: -1},
			[]string{"claim.key", "claim.owner", "claim.type", "incarnation", "ttl"},
		},
		"what is too long": {
			&locketv1.LockRequest{Claim: &locketv1.Claim{
				Key: strings.Repeat("k", 256), Owner: strings.Repeat("o", 256), Type: lock, Value: strings.Repeat("v", 64<<10+1),
			}, Ttl: durationpb.New(301 * time.Second)},
			[]string{"claim.key", "claim.owner", "claim.value", "ttl"},
		},
		"what no text column takes": {
			&locketv1.LockRequest{Claim: &locketv1.Claim{Key: "a\x00", Owner: "\x00b", Type: lock, Value: "c\x00d"}, Ttl: durationpb.New(time.Minute)},
			[]string{"claim.key", "claim.owner", "claim.value"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.Lock(t.Context(), tc.req)
			require.Equal(t, codes.InvalidArgument, fault.Code(err), "%v", err)
			require.Equal(t, "InvalidRequest", fault.Reason(err))
			var got []string
			for _, v := range fault.Violations(err) {
				got = append(got, v.Field)
			}
			require.ElementsMatch(t, tc.want, got)
		})
	}
}

// Every other method is as exact about what it cannot take as Lock is.
func TestLocketReadsNameEveryBadField(t *testing.T) {
	t.Parallel()
	c := client(t, operator, lockettest.Start(t, lockettest.Config{}))
	first := func(stream interface{ RecvMsg(m any) error }, err error, into any) error {
		if err != nil {
			return err
		}
		return stream.RecvMsg(into)
	}
	long := strings.Repeat("k", 256)
	tests := map[string]struct {
		call func(ctx context.Context) error
		want []string
	}{
		"a release of nothing": {func(ctx context.Context) error {
			_, err := c.Release(ctx, &locketv1.ReleaseRequest{})
			return err
		}, []string{"key", "owner"}},
		"a release of what is too long": {func(ctx context.Context) error {
			_, err := c.Release(ctx, &locketv1.ReleaseRequest{Key: long, Owner: long})
			return err
		}, []string{"key", "owner"}},
		"a release of what no text column takes": {func(ctx context.Context) error {
			_, err := c.Release(ctx, &locketv1.ReleaseRequest{Key: "a\x00", Owner: "b\x00"})
			return err
		}, []string{"key", "owner"}},
		"a fetch of nothing": {func(ctx context.Context) error {
			_, err := c.Fetch(ctx, &locketv1.FetchRequest{})
			return err
		}, []string{"key"}},
		"a fetch of what no text column takes": {func(ctx context.Context) error {
			_, err := c.Fetch(ctx, &locketv1.FetchRequest{Key: "\x00"})
			return err
		}, []string{"key"}},
		"a list of no type": {func(ctx context.Context) error {
			stream, err := c.FetchAll(ctx, &locketv1.FetchAllRequest{})
			return first(stream, err, &locketv1.FetchAllResponse{})
		}, []string{"type"}},
		"a list of a type that does not exist": {func(ctx context.Context) error {
			stream, err := c.FetchAll(ctx, &locketv1.FetchAllRequest{Type: 7})
			return first(stream, err, &locketv1.FetchAllResponse{})
		}, []string{"type"}},
		"a watch of nothing": {func(ctx context.Context) error {
			stream, err := c.Watch(ctx, &locketv1.WatchRequest{KeyPrefix: long})
			return first(stream, err, &locketv1.WatchResponse{})
		}, []string{"type", "key_prefix"}},
		"a watch of what no text column takes": {func(ctx context.Context) error {
			stream, err := c.Watch(ctx, &locketv1.WatchRequest{Type: lock, KeyPrefix: "\x00"})
			return first(stream, err, &locketv1.WatchResponse{})
		}, []string{"key_prefix"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := tc.call(ctx)
			require.Equal(t, codes.InvalidArgument, fault.Code(err), "%v", err)
			var got []string
			for _, v := range fault.Violations(err) {
				got = append(got, v.Field)
			}
			require.ElementsMatch(t, tc.want, got)
		})
	}
}

func TestLocketAnswersWithReasons(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	first, second := client(t, bbs, one), client(t, bbs, two)
	granted, err := first.Lock(t.Context(), ask("bbs", "bbs-1", lock))
	require.NoError(t, err)
	require.True(t, granted.GetAcquired())

	_, err = second.Lock(t.Context(), ask("bbs", "bbs-2", lock))
	require.Equal(t, "LockCollision", fault.Reason(err))
	require.Equal(t, codes.AlreadyExists, fault.Code(err))
	require.ErrorContains(t, err, `"bbs-1"`)
	require.Equal(t, map[string]string{"owner": "bbs-1"}, fault.Metadata(err))
	_, err = second.Release(t.Context(), &locketv1.ReleaseRequest{Key: "bbs", Owner: "bbs-2"})
	require.Equal(t, "LockCollision", fault.Reason(err))

	fetched, err := second.Fetch(t.Context(), &locketv1.FetchRequest{Key: "bbs"})
	require.NoError(t, err)
	if diff := cmp.Diff(granted.GetHeld(), fetched.GetHeld(), protocmp.Transform()); diff != "" {
		t.Errorf("the other server fetched (-granted +fetched):\n%s", diff)
	}
	_, err = first.Release(t.Context(), &locketv1.ReleaseRequest{Key: "bbs", Owner: "bbs-1"})
	require.NoError(t, err)
	_, err = second.Fetch(t.Context(), &locketv1.FetchRequest{Key: "bbs"})
	require.Equal(t, "ResourceNotFound", fault.Reason(err))
	require.Equal(t, codes.NotFound, fault.Code(err))
}

// Only the certificate decides who a cell is: a later run takes over, another cell or a lower
// incarnation does not.
func TestLocketTakeOverIsBoundToTheIdentity(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	claim := func(c locketv1.LocketClient, owner string, incarnation int64) error {
		req := ask("cell-1", owner, presence)
		req.Incarnation = incarnation
		_, err := c.Lock(t.Context(), req)
		return err
	}
	itself := client(t, cell("cell-1"), one, two)
	require.NoError(t, claim(itself, "run-1", 10))
	require.Equal(t, "LockCollision", fault.Reason(claim(client(t, operator, one), "intruder", 99)))
	require.Equal(t, "LockCollision", fault.Reason(claim(itself, "run-0", 9)))
	require.NoError(t, claim(itself, "run-2", 11))
	require.Equal(t, "LockCollision", fault.Reason(claim(itself, "run-1", 10)), "the earlier run cannot renew any more")
}

func TestLocketFetchAllSendsLargeValues(t *testing.T) {
	t.Parallel()
	c := client(t, operator, lockettest.Start(t, lockettest.Config{}))
	const count = 40
	for i := range count {
		req := ask(fmt.Sprintf("cell-%02d", i), "o", presence)
		req.Claim.Value = strings.Repeat("v", 64<<10)
		_, err := c.Lock(t.Context(), req)
		require.NoError(t, err)
	}
	list, err := c.FetchAll(t.Context(), &locketv1.FetchAllRequest{Type: presence})
	require.NoError(t, err)
	var keys []string
	messages := 0
	for len(keys) < count {
		chunk, err := list.Recv()
		require.NoError(t, err)
		messages++
		for _, held := range chunk.GetHeld() {
			keys = append(keys, held.GetClaim().GetKey())
			require.Len(t, held.GetClaim().GetValue(), 64<<10)
		}
	}
	require.IsIncreasing(t, keys)
	require.Greater(t, messages, 2, "2.5 MiB in messages of at most 1 MiB")
}

func TestLocketWatchAcrossServers(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	writer := client(t, operator, one)
	_, err := writer.Lock(t.Context(), ask("cell-0", "zero", presence))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := client(t, bbs, two).Watch(ctx, &locketv1.WatchRequest{Type: presence, KeyPrefix: "cell-"})
	require.NoError(t, err)
	event := func() string {
		for {
			got, err := watch.Recv()
			require.NoError(t, err)
			switch {
			case got.GetSynced() != nil:
				return "synced"
			case got.GetChange() != nil:
				return got.GetChange().GetKind().String() + " " + got.GetChange().GetHeld().GetClaim().GetOwner()
			}
		}
	}
	require.Equal(t, "CHANGE_KIND_ACQUIRED zero", event())
	require.Equal(t, "synced", event())
	_, err = writer.Lock(t.Context(), ask("cell-1", "one", presence))
	require.NoError(t, err)
	require.Equal(t, "CHANGE_KIND_ACQUIRED one", event())
	_, err = writer.Release(t.Context(), &locketv1.ReleaseRequest{Key: "cell-1", Owner: "one"})
	require.NoError(t, err)
	require.Equal(t, "CHANGE_KIND_RELEASED one", event())
	short := ask("cell-2", "two", presence)
	short.Ttl = durationpb.New(time.Second)
	_, err = writer.Lock(t.Context(), short)
	require.NoError(t, err)
	require.Equal(t, "CHANGE_KIND_ACQUIRED two", event())
	require.Equal(t, "CHANGE_KIND_EXPIRED two", event())
}

func TestLocketWatchSendsHeartbeats(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := client(t, bbs, lockettest.Start(t, lockettest.Config{})).Watch(ctx, &locketv1.WatchRequest{Type: lock})
	require.NoError(t, err)
	begun := time.Now()
	for {
		got, err := watch.Recv()
		require.NoError(t, err)
		if got.GetHeartbeat() != nil {
			break
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the first heartbeat came after %v, the contract says 5s", took)
	}
}

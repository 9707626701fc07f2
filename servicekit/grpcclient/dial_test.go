package grpcclient_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/dynamicpb"

	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/internal/echo"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

const healthService = "echo.v1"

// server runs an echo server of role bbs.
func server(t *testing.T, ca *mtlstest.Authority, impl *echo.Server) *grpcserver.Server {
	t.Helper()
	s, err := grpcserver.New(grpcserver.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleBBS, Name: "one"}), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{"/" + echo.Service + "/": {mtls.RoleOperator}},
	})
	require.NoError(t, err)
	echo.Register(s.GRPC(), impl)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return s
}

// named answers with a name of its own, so that a test sees which server it was.
func named(name string) *echo.Server {
	return &echo.Server{OnSay: func(context.Context, *dynamicpb.Message) (*dynamicpb.Message, error) {
		return echo.Message(name, 1), nil
	}}
}

func dial(t *testing.T, ca *mtlstest.Authority, health string, peer mtls.Peer, addresses ...string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: addresses}, grpcclient.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleOperator, Name: "test"}), Server: peer, HealthService: health,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func call(t *testing.T, conn *grpc.ClientConn) string {
	t.Helper()
	resp, err := echo.Call(t.Context(), conn, echo.Message("hello", 1))
	require.NoError(t, err)
	return echo.Name(resp)
}

func TestDialFindsTheActiveServer(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	first, second := server(t, ca, named("first")), server(t, ca, named("second"))
	first.SetServing(healthService, true)
	second.SetServing(healthService, false)
	conn := dial(t, ca, healthService, mtls.Peer{Role: mtls.RoleBBS}, first.Addr(), second.Addr())
	for range 10 {
		require.Equal(t, "first", call(t, conn))
	}
	// The roles change; no call fails, because those in between are retried.
	first.SetServing(healthService, false)
	second.SetServing(healthService, true)
	deadline, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	// News of the two servers may arrive in any order, and for a moment both count as active.
	for in := 0; in < 10; in++ {
		require.NoError(t, deadline.Err(), "the second server was not found")
		if call(t, conn) != "second" {
			in = -1
		}
	}
}

func TestDialWaitsForASingleServerToServe(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	only := server(t, ca, named("only"))
	only.SetServing(healthService, false)
	conn := dial(t, ca, healthService, mtls.Peer{Role: mtls.RoleBBS}, only.Addr())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := echo.Call(ctx, conn, echo.Message("hello", 1))
	require.Error(t, err, "a call to a server that does not serve")
	only.SetServing(healthService, true)
	require.Equal(t, "only", call(t, conn))
}

func TestDialVerifiesTheServer(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	s := server(t, ca, named("one"))
	tests := map[string]struct {
		ca     *mtlstest.Authority
		peer   mtls.Peer
		wantOK bool
	}{
		"the role and any name":             {ca: ca, peer: mtls.Peer{Role: mtls.RoleBBS}, wantOK: true},
		"the role and the name":             {ca: ca, peer: mtls.Peer{Role: mtls.RoleBBS, Name: "one"}, wantOK: true},
		"another name is refused":           {ca: ca, peer: mtls.Peer{Role: mtls.RoleBBS, Name: "two"}},
		"another role is refused":           {ca: ca, peer: mtls.Peer{Role: mtls.RoleLocket}},
		"a server of another CA is refused": {ca: mtlstest.NewAuthority(t), peer: mtls.Peer{Role: mtls.RoleBBS}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := echo.Call(ctx, dial(t, test.ca, "", test.peer, s.Addr()), echo.Message("hello", 1))
			require.Equal(t, test.wantOK, err == nil, "Call() = %v", err)
		})
	}
}

func TestDialRetries(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		code codes.Code
		want int // calls that the server sees
	}{
		"unavailable is tried again": {code: codes.Unavailable, want: 3},
		"aborted is tried again":     {code: codes.Aborted, want: 3},
		"internal is not":            {code: codes.Internal, want: 1},
		"a conflict is not":          {code: codes.AlreadyExists, want: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, calls := mtlstest.NewAuthority(t), make(chan struct{}, 100)
			s := server(t, ca, &echo.Server{OnSay: func(_ context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error) {
				calls <- struct{}{}
				if len(calls) < 3 {
					return nil, status.Error(test.code, "not yet")
				}
				return req, nil
			}})
			_, err := echo.Call(t.Context(), dial(t, ca, "", mtls.Peer{Role: mtls.RoleBBS}, s.Addr()), echo.Message("hello", 1))
			require.Len(t, calls, test.want)
			require.Equal(t, test.want == 3, err == nil, "Call() = %v", err)
		})
	}
}

// A method of which each call counts is sent once, whatever comes back, but it waits for a server.
func TestDialOnce(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unavailable, codes.Aborted} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			ca, calls := mtlstest.NewAuthority(t), make(chan struct{}, 100)
			s := server(t, ca, &echo.Server{OnSay: func(context.Context, *dynamicpb.Message) (*dynamicpb.Message, error) {
				calls <- struct{}{}
				return nil, status.Error(code, "who knows how far this came")
			}})
			s.SetServing(healthService, false)
			conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{s.Addr()}}, grpcclient.Options{
				Source: ca.Source(mtls.Identity{Role: mtls.RoleOperator}), Server: mtls.Peer{Role: mtls.RoleBBS},
				HealthService: healthService, Once: []string{"/" + echo.Service + "/Say"},
			})
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err = echo.Call(ctx, conn, echo.Message("hello", 1))
			require.ErrorIs(t, err, context.DeadlineExceeded, "it waits for a server that serves")
			require.Empty(t, calls)

			s.SetServing(healthService, true)
			_, err = echo.Call(t.Context(), conn, echo.Message("hello", 1))
			require.Equal(t, code, fault.Code(err))
			require.Len(t, calls, 1)
		})
	}
}

func TestDialRefusesWhatIsNoMethod(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	_, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{"127.0.0.1:1"}}, grpcclient.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleOperator}), Server: mtls.Peer{Role: mtls.RoleBBS}, Once: []string{"RejectTasks"},
	})
	require.ErrorContains(t, err, "RejectTasks")
}

func TestDialSetsADeadline(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	s := server(t, ca, &echo.Server{OnSay: func(ctx context.Context, _ *dynamicpb.Message) (*dynamicpb.Message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{s.Addr()}}, grpcclient.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleOperator}), Server: mtls.Peer{Role: mtls.RoleBBS}, Timeout: 200 * time.Millisecond,
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = echo.Call(t.Context(), conn, echo.Message("hello", 1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestErrorsAreThePeers(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	taken := fault.New(codes.AlreadyExists, "LockCollision", "the lock is held")
	refuse := taken.WithMetadata(map[string]string{"owner": "b"}, "by b")
	s := server(t, ca, &echo.Server{
		OnSay:    func(context.Context, *dynamicpb.Message) (*dynamicpb.Message, error) { return nil, refuse },
		OnStream: func(grpc.ServerStream) error { return refuse },
	})
	conn := dial(t, ca, "", mtls.Peer{Role: mtls.RoleBBS}, s.Addr())
	_, unary := echo.Call(t.Context(), conn, echo.Message("hello", 1))
	stream, err := echo.Stream(t.Context(), conn)
	require.NoError(t, err)
	for name, err := range map[string]error{"unary": unary, "stream": stream.RecvMsg(echo.Empty())} {
		require.True(t, fault.Remote(err), name)
		require.Equal(t, "LockCollision", fault.Reason(err), name)
		require.Equal(t, "b", fault.Metadata(err)["owner"], name)
		require.Equal(t, codes.AlreadyExists, status.Code(err), name)
		require.NotErrorIs(t, err, taken, "%s: a peer's error is not our sentinel", name)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, (&grpcclient.Config{}).Validate(), "addresses")
	require.ErrorContains(t, (&grpcclient.Config{Addresses: []string{"a:1", "b"}}).Validate(), "addresses.1")
	require.NoError(t, (&grpcclient.Config{Addresses: []string{"a:1", "b:2"}}).Validate())
}

package grpcserver_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/dynamicpb"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/internal/echo"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// callTimeout is for calls that are meant to be refused: ample, but not the ten seconds of a retry.
const callTimeout = 700 * time.Millisecond

var errTaken = fault.New(codes.AlreadyExists, "ResourceExists", "the thing exists")

// fixture is a running server with the echo service, and its CA.
type fixture struct {
	ca     *mtlstest.Authority
	files  mtls.Config
	source *mtls.Source
	server *grpcserver.Server
	tel    *telemetry.Telemetry
	stop   func() error // ends the server, waits, returns its error
}

// start runs a server that lets the role "bbs" call the echo service.
func start(t *testing.T, impl *echo.Server) *fixture {
	t.Helper()
	f := &fixture{ca: mtlstest.NewAuthority(t), tel: telemetry.Discard()}
	f.files = f.ca.Issue(mtls.Identity{Role: mtls.RoleLocket})
	var err error
	f.source, err = mtls.Load(f.files)
	require.NoError(t, err)
	f.server, err = grpcserver.New(grpcserver.Options{
		Source: f.source, Telemetry: f.tel, Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{"/" + echo.Service + "/": {mtls.RoleBBS}},
	})
	require.NoError(t, err)
	echo.Register(f.server.GRPC(), impl)
	f.server.SetServing("echo.v1", true)
	f.stop = run(t, f.server.Run)
	return f
}

// run runs a function until the test ends or the returned function is called.
func run(t *testing.T, fn func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	var result error
	stopped := false
	stop = func() error {
		if !stopped {
			cancel()
			result, stopped = <-done, true
		}
		return result
	}
	t.Cleanup(func() { require.NoError(t, stop()) })
	return stop
}

// dial connects as source through our own client.
func (f *fixture) dial(t *testing.T, source *mtls.Source) *grpc.ClientConn {
	t.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{f.server.Addr()}}, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: mtls.RoleLocket},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func (f *fixture) as(t *testing.T, role string) *grpc.ClientConn {
	t.Helper()
	return f.dial(t, f.ca.Source(mtls.Identity{Role: role}))
}

func TestServerAuthorization(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	tests := map[string]struct {
		source *mtls.Source
		want   codes.Code
	}{
		"a role in the table is let in":          {source: f.ca.Source(mtls.Identity{Role: mtls.RoleBBS}), want: codes.OK},
		"a role outside the table is refused":    {source: f.ca.Source(mtls.Identity{Role: mtls.RoleCell, Name: "a"}), want: codes.PermissionDenied},
		"an expired certificate is refused":      {source: f.ca.Source(mtls.Identity{Role: mtls.RoleBBS}, mtlstest.Expired()), want: codes.Unavailable},
		"another trust domain is refused":        {source: f.ca.Source(mtls.Identity{TrustDomain: "other", Role: mtls.RoleBBS}), want: codes.Unavailable},
		"a certificate of another CA is refused": {source: foreign(t, f.ca), want: codes.Unavailable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			if test.want == codes.OK {
				ctx = t.Context()
			}
			defer cancel()
			conn := f.dial(t, test.source)
			_, err := echo.Call(ctx, conn, echo.Message("hello", 1))
			got := fault.Code(err)
			if got == codes.DeadlineExceeded { // the retries were still going on
				got = codes.Unavailable
			}
			require.Equal(t, test.want, got, "Call() = %v", err)
			stream, err := echo.Stream(ctx, conn)
			if err == nil {
				require.NoError(t, stream.SendMsg(echo.Message("hello", 1)))
				err = stream.RecvMsg(echo.Empty())
			}
			if test.want == codes.OK || test.want == codes.PermissionDenied {
				require.Equal(t, test.want, fault.Code(err), "Stream() = %v", err)
			} else {
				require.Error(t, err)
			}
		})
	}
}

// foreign makes a certificate of another CA for a process that trusts the server's.
func foreign(t *testing.T, servers *mtlstest.Authority) *mtls.Source {
	t.Helper()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleBBS})
	require.NoError(t, os.WriteFile(files.CA, servers.PEM(), 0o600))
	source, err := mtls.Load(files)
	require.NoError(t, err)
	return source
}

func TestServerRefusesConnectionsWithoutMutualTLS(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	client := f.ca.Source(mtls.Identity{Role: mtls.RoleBBS})
	nameless := client.ClientConfig(mtls.Peer{Role: mtls.RoleLocket})
	nameless.GetClientCertificate = nil
	tests := map[string]credentials.TransportCredentials{
		"a client without a certificate is refused": credentials.NewTLS(nameless),
		"a plaintext client is refused":             insecure.NewCredentials(),
	}
	for name, creds := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := grpc.NewClient(f.server.Addr(), grpc.WithTransportCredentials(creds))
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			_, err = echo.Call(ctx, conn, echo.Message("hello", 1))
			require.Error(t, err)
		})
	}
}

func TestHealthAndReflectionAreOpenToEveryRole(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	var header metadata.MD
	resp, err := grpc_health_v1.NewHealthClient(f.as(t, mtls.RoleRouter)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "echo.v1"}, grpc.Header(&header))
	require.NoError(t, err)
	require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, resp.GetStatus())
	require.Equal(t, []string{config.BuildVersion()}, header.Get(grpcserver.HeaderVersion), "it says which release it is")
	clock, err := time.Parse(time.RFC3339Nano, header.Get(grpcserver.HeaderTime)[0])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), clock, time.Minute)
}

func TestServerNamesEveryBadField(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	conn := f.as(t, mtls.RoleBBS)
	stream, err := echo.Stream(t.Context(), conn)
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(echo.Message("x", 0)))
	_, unary := echo.Call(t.Context(), conn, echo.Message("x", 0))

	for name, err := range map[string]error{"unary": unary, "stream": stream.RecvMsg(echo.Empty())} {
		require.Equal(t, codes.InvalidArgument, fault.Code(err), "%s: %v", name, err)
		require.Equal(t, "InvalidRequest", fault.Reason(err), name)
		var fields []string
		for _, v := range fault.Violations(err) {
			require.NotEmpty(t, v.Description, name)
			fields = append(fields, v.Field)
		}
		if diff := cmp.Diff([]string{"name", "count"}, fields); diff != "" {
			t.Errorf("%s: bad fields (-want +got):\n%s", name, diff)
		}
	}
}

func TestServerMapsErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err    error
		code   codes.Code
		reason string
		text   string // contained in the message
		hides  string // not contained in it
	}{
		"a sentinel keeps code and reason":      {err: errTaken.With("thing %d", 7), code: codes.AlreadyExists, reason: "ResourceExists", text: "the thing exists: thing 7"},
		"an unknown error is hidden":            {err: errors.New("dial 10.0.0.1"), code: codes.Internal, hides: "10.0.0.1"},
		"a peer's NotFound is not ours":         {err: fault.FromPeer(status.Error(codes.NotFound, "no x"), "/a/B"), code: codes.Internal, hides: "no x"},
		"a peer that is unavailable shows":      {err: fault.FromPeer(status.Error(codes.Unavailable, "gone"), "/a/B"), code: codes.Unavailable, hides: "gone"},
		"a reclassified peer error is our own":  {err: errTaken.With("asking: %w", fault.FromPeer(status.Error(codes.NotFound, "x"), "/a/B")), code: codes.AlreadyExists, reason: "ResourceExists"},
		"a deadline of the handler's own shows": {err: context.DeadlineExceeded, code: codes.DeadlineExceeded},
		"a status made by a handler is kept":    {err: status.Error(codes.ResourceExhausted, "too many"), code: codes.ResourceExhausted, text: "too many"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, &echo.Server{OnSay: func(context.Context, *dynamicpb.Message) (*dynamicpb.Message, error) { return nil, test.err }})
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			// Without our client's retries, which would wait for what is unavailable.
			conn, err := grpc.NewClient(f.server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(
				f.ca.Source(mtls.Identity{Role: mtls.RoleBBS}).ClientConfig(mtls.Peer{Role: mtls.RoleLocket}))))
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			_, err = echo.Call(ctx, conn, echo.Message("hello", 1))
			require.Equal(t, test.code, status.Code(err), "Call() = %v", err)
			if test.reason != "" {
				require.Equal(t, test.reason, fault.Reason(err))
			}
			require.ErrorContains(t, err, test.text)
			if test.hides != "" {
				require.NotContains(t, err.Error(), test.hides)
			}
		})
	}
}

func TestServerSurvivesPanics(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{OnSay: func(_ context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error) {
		if echo.Name(req) == "panic" {
			panic("on purpose")
		}
		return req, nil
	}})
	conn := f.as(t, mtls.RoleBBS)
	_, err := echo.Call(t.Context(), conn, echo.Message("panic", 1))
	require.Equal(t, codes.Internal, fault.Code(err))
	require.NotContains(t, err.Error(), "on purpose")
	_, err = echo.Call(t.Context(), conn, echo.Message("hello", 1))
	require.NoError(t, err)
}

func TestHandlerKnowsCallerTraceAndDeadline(t *testing.T) {
	t.Parallel()
	type seen struct {
		id    mtls.Identity
		trace string
		left  time.Duration
	}
	calls := make(chan seen, 1)
	f := start(t, &echo.Server{OnSay: func(ctx context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error) {
		id, _ := mtls.PeerFromContext(ctx)
		deadline, _ := ctx.Deadline()
		calls <- seen{id: id, trace: telemetry.TraceID(ctx), left: time.Until(deadline)}
		return req, nil
	}})
	ctx, trace := telemetry.StartTrace(t.Context())
	_, err := echo.Call(ctx, f.as(t, mtls.RoleBBS), echo.Message("hello", 1))
	require.NoError(t, err)
	got := <-calls
	require.Equal(t, mtls.Identity{TrustDomain: mtlstest.TrustDomain, Role: mtls.RoleBBS}, got.id)
	require.Equal(t, trace, got.trace)
	require.Less(t, got.left, grpcclient.DefaultTimeout, "the handler has less time than its caller")
	require.Greater(t, got.left, grpcclient.DefaultTimeout/2)
}

// A client that keeps calling, on old and on new connections, sees no error while certificates and
// then the CA itself are replaced under both processes.
func TestServerRotationUnderLoad(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	clientFiles := f.ca.Issue(mtls.Identity{Role: mtls.RoleBBS})
	client, err := mtls.Load(clientFiles)
	require.NoError(t, err)
	old := f.dial(t, client)
	calls := func(step string) {
		t.Helper()
		fresh, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{f.server.Addr()}}, grpcclient.Options{
			Source: client, Server: mtls.Peer{Role: mtls.RoleLocket},
		})
		require.NoError(t, err)
		for _, conn := range []*grpc.ClientConn{old, fresh} {
			_, err := echo.Call(t.Context(), conn, echo.Message("hello", 1))
			require.NoError(t, err, step)
		}
		require.NoError(t, fresh.Close())
	}
	ca2 := mtlstest.NewAuthority(t)
	bundle := func(pems ...[]byte) {
		t.Helper()
		for _, files := range []mtls.Config{clientFiles, f.files} {
			require.NoError(t, authority.WriteFile(files.CA, bytes.Join(pems, nil), 0o644))
		}
	}
	locket, bbs := mtls.Identity{Role: mtls.RoleLocket}, mtls.Identity{Role: mtls.RoleBBS}
	replace := func(ca *mtlstest.Authority, id mtls.Identity, files mtls.Config) {
		t.Helper()
		files.CA = filepath.Join(t.TempDir(), "unused.crt") // the bundle is changed in steps of its own
		ca.Issue(id, mtlstest.InPlace(files))
	}

	calls("before")
	replace(f.ca, locket, f.files)
	calls("after the server's certificate")
	replace(f.ca, bbs, clientFiles)
	calls("after the client's certificate")
	bundle(f.ca.PEM(), ca2.PEM())
	calls("after trusting the new ca")
	replace(ca2, locket, f.files)
	calls("after the server's certificate of the new ca")
	replace(ca2, bbs, clientFiles)
	calls("after the client's certificate of the new ca")
	bundle(ca2.PEM())
	calls("after distrusting the old ca")

	// And the old CA is really out.
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	_, err = echo.Call(ctx, f.as(t, mtls.RoleBBS), echo.Message("hello", 1))
	require.Error(t, err)
}

func TestServerStop(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	f := start(t, &echo.Server{
		OnSay: func(_ context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error) {
			close(entered)
			<-release
			return req, nil
		},
		OnStream: func(stream grpc.ServerStream) error {
			// A stream that has got nothing yet would be retried by the client.
			if err := stream.SendMsg(echo.Message("begin", 1)); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		},
	})
	conn := f.as(t, mtls.RoleBBS)
	stream, err := echo.Stream(t.Context(), conn)
	require.NoError(t, err)
	require.NoError(t, stream.RecvMsg(echo.Empty()))
	answered := make(chan error, 1)
	go func() {
		_, err := echo.Call(t.Context(), conn, echo.Message("hello", 1))
		answered <- err
	}()
	<-entered
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	err = stream.RecvMsg(echo.Empty())
	require.Equal(t, codes.Unavailable, fault.Code(err), "a stream at the stop: %v", err)
	close(release)
	require.NoError(t, <-answered, "a call that ran at the stop")
	require.NoError(t, <-stopped)
	require.Less(t, time.Since(began), 5*time.Second, "the stop waited for its grace to end")
}

func TestServerRunRefusesUnknownTableEntries(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]string{
		"an unknown service":     "/echo.v1.Typo/",
		"an unknown method":      "/" + echo.Service + "/Shout",
		"a name without slash":   echo.Service,
		"a method of no service": "/Say",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := grpcserver.New(grpcserver.Options{
				Source: mtlstest.NewAuthority(t).Source(mtls.Identity{Role: mtls.RoleLocket}),
				Allow:  grpcserver.Table{entry: {mtls.RoleBBS}}, Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
			})
			require.NoError(t, err)
			echo.Register(server.GRPC(), &echo.Server{})
			require.ErrorContains(t, server.Run(t.Context()), entry)
		})
	}
}

func TestServerMetrics(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	_, err := echo.Call(t.Context(), f.as(t, mtls.RoleBBS), echo.Message("hello", 1))
	require.NoError(t, err)
	_, err = echo.Call(t.Context(), f.as(t, mtls.RoleCell), echo.Message("hello", 1))
	require.Error(t, err)
	n, err := testutil.GatherAndCount(f.tel.Registry, "request_latency_seconds", "requests_refused_total", "certificate_expiry_seconds")
	require.NoError(t, err)
	require.Equal(t, 2+1+2, n, "series: two codes, one refusal, certificate and ca")
}

func TestServerLimitsMessages(t *testing.T) {
	t.Parallel()
	f := start(t, &echo.Server{})
	// Above the limit of the client too, so the call goes without it.
	conn, err := grpc.NewClient(f.server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(
		f.ca.Source(mtls.Identity{Role: mtls.RoleBBS}).ClientConfig(mtls.Peer{Role: mtls.RoleLocket}))))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = echo.Call(t.Context(), conn, echo.Message(string(make([]byte, grpcserver.MaxMessage)), 1))
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "Call() = %v", err)
}

func TestNewReportsATakenAddress(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	_, err = grpcserver.New(grpcserver.Options{
		Source:    mtlstest.NewAuthority(t).Source(mtls.Identity{Role: mtls.RoleLocket}),
		Telemetry: telemetry.Discard(), Listen: taken.Addr().String(),
	})
	require.ErrorContains(t, err, "address already in use")
}

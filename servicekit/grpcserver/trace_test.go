package grpcserver_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/dynamicpb"

	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/internal/echo"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// traceCollector is an OTLP collector that keeps the spans it gets.
type traceCollector struct {
	collector.UnimplementedTraceServiceServer
	spans chan *tracev1.Span
}

func (c *traceCollector) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans <- span
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Spans of client and server of one call reach a collector over mutual TLS, in one trace, which the
// handler sees too.
func TestTracing(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	c := &traceCollector{spans: make(chan *tracev1.Span, 10)}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	creds := ca.Source(mtls.Identity{Role: "collector"}, mtlstest.Hosts("127.0.0.1")).ServerConfig()
	collecting := grpc.NewServer(grpc.Creds(credentials.NewTLS(creds)))
	collector.RegisterTraceServiceServer(collecting, c)
	go func() { _ = collecting.Serve(listener) }()
	t.Cleanup(collecting.Stop)

	files := ca.Issue(mtls.Identity{Role: mtls.RoleLocket})
	tel, err := telemetry.New("locket", telemetry.Config{
		Log:   telemetry.LogConfig{Level: "error"},
		Trace: telemetry.TraceConfig{Endpoint: listener.Addr().String(), SampleRatio: 1, CA: files.CA, Certificate: files.Certificate, Key: files.Key},
	})
	require.NoError(t, err)
	stopTelemetry := run(t, tel.Run)

	inHandler := make(chan string, 1)
	server, err := grpcserver.New(grpcserver.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleLocket}), Telemetry: tel, Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{echo.Say: {mtls.RoleBBS}},
	})
	require.NoError(t, err)
	echo.Register(server.GRPC(), &echo.Server{OnSay: func(ctx context.Context, req *dynamicpb.Message) (*dynamicpb.Message, error) {
		inHandler <- telemetry.TraceID(ctx)
		return req, nil
	}})
	run(t, server.Run)
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{server.Addr()}}, grpcclient.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleBBS}), Server: mtls.Peer{Role: mtls.RoleLocket}, Telemetry: tel,
	})
	require.NoError(t, err)
	_, err = echo.Call(t.Context(), conn, echo.Message("hello", 1))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, stopTelemetry(), "the end of the process sends the last spans")

	require.Len(t, c.spans, 2, "one of the client, one of the server")
	first, second := <-c.spans, <-c.spans
	require.Equal(t, first.GetTraceId(), second.GetTraceId())
	require.Len(t, <-inHandler, 32)
}

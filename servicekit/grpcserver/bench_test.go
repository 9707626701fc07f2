package grpcserver_test

import (
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/internal/echo"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// BenchmarkUnary is one small validated call over mutual TLS, client and server in this process, on
// eight connections with many callers each.
func BenchmarkUnary(b *testing.B) {
	ca := mtlstest.NewAuthority(b)
	server, err := grpcserver.New(grpcserver.Options{
		Source: ca.Source(mtls.Identity{Role: mtls.RoleBBS}), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{echo.Say: {mtls.RoleCell}},
	})
	if err != nil {
		b.Fatal(err)
	}
	echo.Register(server.GRPC(), &echo.Server{})
	done := make(chan error, 1)
	go func() { done <- server.Run(b.Context()) }()
	b.Cleanup(func() {
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	source := ca.Source(mtls.Identity{Role: mtls.RoleCell, Name: "a"})
	var conns []*grpc.ClientConn
	for range 8 {
		conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{server.Addr()}}, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	var next atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		conn := conns[int(next.Add(1))%len(conns)]
		req := echo.Message("hello", 1)
		for pb.Next() {
			if _, err := echo.Call(b.Context(), conn, req); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

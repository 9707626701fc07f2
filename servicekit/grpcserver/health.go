package grpcserver

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"diego.internal/servicekit/config"
)

// Headers of the answer to a health check, for operators who look for servers of another release or with a wrong clock.
const (
	// HeaderVersion is the release of the server.
	HeaderVersion = "diego-version"
	// HeaderTime is the server's clock, in time.RFC3339Nano.
	HeaderTime = "diego-time"
)

// introduced is a health service that says who answers. It is the one thing that all servers have and all callers may ask.
type introduced struct{ *health.Server }

// Check implements grpc_health_v1.HealthServer.
func (i introduced) Check(ctx context.Context, q *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	// It fails only where there is no stream to put it on; then nobody reads it.
	_ = grpc.SetHeader(ctx, metadata.Pairs(HeaderVersion, config.BuildVersion(), HeaderTime, time.Now().UTC().Format(time.RFC3339Nano)))
	return i.Server.Check(ctx, q)
}

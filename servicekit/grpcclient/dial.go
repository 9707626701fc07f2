// Package grpcclient owns how processes call each other: mutual TLS to a named role, one connection
// that finds the active server among several, deadlines, careful retries, and the rule that the
// status of a peer is not our own (package fault). It knows no service.
package grpcclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // the client side of health checks, by which the active server is found
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"diego.internal/servicekit/codec"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

const (
	// DefaultTimeout is the deadline of a unary call that comes without one.
	DefaultTimeout = 10 * time.Second
	// maxMessage is grpcserver.MaxMessage.
	maxMessage = 16 << 20
	// Reconnecting pauses from minPause to maxPause, so that a server that is back is found within
	// about a second.
	minPause       = 100 * time.Millisecond
	maxPause       = time.Second
	connectTimeout = 3 * time.Second
	// keepaliveTime must not exceed keepaliveTimeout.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 22 * time.Second
	// maxAttempts with pauses from 50 ms to 1 s, doubling, last about as long as DefaultTimeout.
	maxAttempts = 14
	// Windows for streams of large lists.
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

// Config is a section such as bbs or locket.
type Config struct {
	Addresses []string `yaml:"addresses"` // host:port of each server
}

// Validate requires at least one address, each with a port.
func (c *Config) Validate() error {
	if len(c.Addresses) == 0 {
		return config.Invalid("addresses", "is missing")
	}
	var problems []error
	for i, address := range c.Addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			problems = append(problems, config.Invalid("addresses."+strconv.Itoa(i), "%v", err))
		}
	}
	return errors.Join(problems...)
}

// Options of a connection.
type Options struct {
	Source *mtls.Source // the own certificate
	Server mtls.Peer    // who must be at the other end
	// HealthService is the gRPC health service that a server must be SERVING to get calls; "" = no
	// health check.
	HealthService string
	Telemetry     *telemetry.Telemetry // nil = none
	Timeout       time.Duration        // of unary calls without a deadline; 0 = DefaultTimeout
	// Once are the full names of methods, such as "/bbs.v1.Placement/RejectTasks", of which each call
	// counts. They wait for a healthy server until their deadline, but what may have reached one is
	// never sent again.
	Once []string
}

// Dial returns a connection that is made when it is first used and made again when it is lost. Calls
// go in turn to the servers that are healthy; while none is, they fail with Unavailable after the
// retries, or at their deadline.
//
// A call is repeated after Unavailable and Aborted only, within its deadline, with growing pauses and
// a budget that stops retries while most calls fail. Methods that must not be repeated are named in
// Options.Once. Errors are the peer's, see fault.FromPeer.
func Dial(cfg Config, o Options) (*grpc.ClientConn, error) {
	if len(cfg.Addresses) == 0 {
		return nil, fmt.Errorf("dialing %s: no address", o.Server.Role)
	}
	if o.Telemetry == nil {
		o.Telemetry = telemetry.Discard()
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	serviceConfig, err := serviceConfig(o.HealthService, o.Once)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(o.Telemetry.Registry)
	if err != nil {
		return nil, err
	}
	calls := &interceptor{timeout: o.Timeout, latency: metrics, role: o.Server.Role, tracing: o.Telemetry.Tracing()}
	addresses := addressList(cfg.Addresses)
	options := append(transport(),
		grpc.WithTransportCredentials(credentials.NewTLS(o.Source.ClientConfig(o.Server))),
		grpc.WithResolvers(addresses),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithMaxCallAttempts(maxAttempts),
		grpc.WithUnaryInterceptor(calls.unary),
		grpc.WithStreamInterceptor(calls.stream),
	)
	if o.Telemetry.Tracing() {
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(o.Telemetry.Tracer),
			otelgrpc.WithPropagators(propagation.TraceContext{}),
		)))
	}
	conn, err := grpc.NewClient(addresses.Scheme()+":///"+o.Server.Role, options...)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", o.Server.Role, err)
	}
	o.Source.Observe(o.Telemetry)
	if o.Server.Name == "" { // connections to single cells come and go
		o.Telemetry.AddReadiness("connection "+o.Server.Role, func() (any, error) {
			// Without its peer a process is degraded, not unable to work.
			return map[string]any{"state": conn.GetState().String(), "addresses": cfg.Addresses}, nil
		})
	}
	return conn, nil
}

// addressList resolves to a fixed list; host names in it are looked up at each connect.
func addressList(addresses []string) *manual.Resolver {
	list := manual.NewBuilderWithScheme("addresses")
	var state resolver.State
	for _, address := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	list.InitialState(state)
	return list
}

// transport are the options of the connection itself.
func transport() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.ForceCodecV2(codec.New())),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxPause},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
	}
}

// serviceConfig is gRPC's own description of balancing, health checks and retries.
func serviceConfig(healthService string, once []string) (string, error) {
	methods := []any{map[string]any{
		"name": []any{map[string]any{}},
		"retryPolicy": map[string]any{
			"maxAttempts": maxAttempts, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
			"retryableStatusCodes": []string{"UNAVAILABLE", "ABORTED"},
		},
	}}
	for _, full := range once {
		service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
		if !ok || service == "" || method == "" {
			return "", fmt.Errorf("%q is not the full name of a method", full)
		}
		// Without a policy gRPC sends again only what it knows that no server has begun to read.
		methods = append(methods, map[string]any{
			"name": []any{map[string]any{"service": service, "method": method}}, "waitForReady": true,
		})
	}
	document := map[string]any{
		"loadBalancingConfig": []any{map[string]any{"round_robin": map[string]any{}}},
		"methodConfig":        methods,
		// Ten good calls pay for one retry once half of the tokens are gone.
		"retryThrottling": map[string]any{"maxTokens": 1000, "tokenRatio": 0.1},
	}
	if healthService != "" {
		document["healthCheckConfig"] = map[string]any{"serviceName": healthService}
	}
	encoded, err := json.Marshal(document)
	if err != nil {
		return "", fmt.Errorf("encoding the service config: %w", err)
	}
	return string(encoded), nil
}

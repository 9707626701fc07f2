// Package grpcserver owns what every gRPC server of the product does besides its own work: mutual
// TLS, who may call what, deadlines, validation of requests, mapping of errors, metrics, health,
// reflection and a stop that loses no answer. It knows no service but health and reflection.
package grpcserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"diego.internal/servicekit/codec"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

const (
	// MaxMessage bounds each message in both directions, in bytes.
	MaxMessage = 16 << 20
	// maxConnections bounds the connections of one listener; further ones wait to be accepted.
	maxConnections = 16384
	// maxStreams bounds the calls that run on one connection at a time; further ones wait in the client.
	maxStreams = 1 << 16
	// handshakeTimeout bounds the time from accepting a connection to its first call.
	handshakeTimeout = 10 * time.Second
	// maxAge ends connections, gently, so that a certificate that has ended or a CA that is no longer
	// trusted is not used for ever on a connection that it once opened. Streams get the grace to end.
	maxAge      = time.Hour
	maxAgeGrace = 10 * time.Minute
	// The server looks for dead clients at probe; clients may ask as often as minProbe.
	probe        = 20 * time.Second
	probeTimeout = 20 * time.Second
	minProbe     = 5 * time.Second
	// stopGrace is how long calls may take to end when the server stops; less than
	// lifecycle.StopTimeout, so that the rest of the process has time too.
	stopGrace = 8 * time.Second
	// Windows for streams of large lists; a fixed size keeps grpc-go from measuring.
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
	// readBuffer is what each connection keeps to read into. TLS has a buffer of its own, from which this one is filled: it only
	// has to hold the small frames of a call, and a thousand connections of cells, most of them idle, each have one.
	readBuffer = 2 << 10
	// workers are goroutines that keep the stack that a call needs, which a new goroutine would have to grow first. Streams keep
	// theirs for as long as they last; calls that find none free get a new one.
	defaultWorkers = 256
)

// Config is the section grpc.
type Config struct {
	Listen string      `yaml:"listen"` // host:port; port 0 lets the system choose
	TLS    mtls.Config `yaml:"tls"`
}

// Validate checks the address; the section tls checks itself.
func (c *Config) Validate() error {
	if c.Listen == "" {
		return config.Invalid("listen", "is missing")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return config.Invalid("listen", "%v", err)
	}
	return nil
}

// Options of a server; all are required.
type Options struct {
	Source    *mtls.Source
	Allow     Table
	Telemetry *telemetry.Telemetry
	Listen    string
	// Workers are goroutines that are kept for calls; calls beyond them work all the same. Zero means 256, which suits a server
	// that is called all the time.
	Workers uint32
}

// Server is a gRPC server that listens from New on and serves while Run runs.
type Server struct {
	grpc     *grpc.Server
	listener net.Listener
	health   *health.Server
	tel      *telemetry.Telemetry
	allow    Table
	metrics  *metrics
	methods  sync.Map // full method → *method

	stopping context.Context // ends when the server begins to stop
	stop     context.CancelCauseFunc

	mu      sync.Mutex
	serving map[string]bool // what SetServing said
}

// errStopping is why streams end when the server stops; clients may try again elsewhere.
var errStopping = errors.New("the server is stopping")

// New opens the listener and makes the server. Health and reflection are registered; they are open to
// every caller with a certificate. The caller registers its services and then calls Run.
func New(o Options) (*Server, error) {
	if o.Telemetry == nil {
		o.Telemetry = telemetry.Discard()
	}
	s := &Server{
		health: health.NewServer(), tel: o.Telemetry, allow: o.Allow, serving: map[string]bool{},
	}
	var err error
	if s.metrics, err = newMetrics(o.Telemetry.Registry); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancelCause(context.Background())
	s.grpc = grpc.NewServer(s.options(o)...)
	grpc_health_v1.RegisterHealthServer(s.grpc, introduced{s.health})
	reflection.Register(s.grpc)

	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening the grpc listener: %w", err)
	}
	s.listener = listener
	o.Source.Observe(o.Telemetry)
	o.Telemetry.Listening("grpc "+o.Listen, s.Addr())
	o.Telemetry.AddReadiness("grpc "+s.Addr(), s.readiness)
	return s, nil
}

func (s *Server) options(o Options) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.Creds(newCredentials(o.Source, s.tel.Log, s.metrics)),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.ForceServerCodecV2(codec.New()),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: maxAge, MaxConnectionAgeGrace: maxAgeGrace, Time: probe, Timeout: probeTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minProbe, PermitWithoutStream: true}),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(readBuffer),
		grpc.NumStreamWorkers(cmp.Or(o.Workers, defaultWorkers)),
		grpc.WaitForHandlers(true),
	}
	if s.tel.Tracing() {
		options = append(options, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.tel.Tracer),
			otelgrpc.WithPropagators(propagation.TraceContext{}),
		)))
	}
	return options
}

// GRPC is where services are registered, before Run.
func (s *Server) GRPC() grpc.ServiceRegistrar { return s.grpc }

// Addr returns the address of the listener, with the port that the system chose.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// SetServing sets the gRPC health of a service, or of the whole process for "". A service that is set
// to false makes the process not ready, as that of a standby does.
func (s *Server) SetServing(service string, serving bool) {
	s.mu.Lock()
	s.serving[service] = serving
	s.mu.Unlock()
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, state)
}

// readiness tells which services are served.
func (s *Server) readiness() (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	detail := map[string]bool{}
	var err error
	for service, serving := range s.serving {
		name := service
		if name == "" {
			name = "process"
		}
		detail[name] = serving
		if !serving {
			err = errors.Join(err, fmt.Errorf("%s is not serving", name))
		}
	}
	if s.stopping.Err() != nil {
		err = errors.Join(err, errStopping)
	}
	return detail, err
}

// Run serves until ctx ends. Then health goes off, streams end with Unavailable, calls get stopGrace
// to finish, and what is left is cut off. It returns nil after such a stop. A role table that names
// services or methods that are not registered is an error.
func (s *Server) Run(ctx context.Context) error {
	defer s.stop(errStopping)
	if err := s.allow.check(s.grpc.GetServiceInfo()); err != nil {
		return errors.Join(err, s.listener.Close())
	}
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(netutil.LimitListener(s.listener, maxConnections)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving grpc on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}

	s.health.Shutdown()
	s.stop(errStopping)
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.grpc.GracefulStop() }()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-stopped:
	case <-grace.C:
		s.tel.Log.WarnContext(ctx, "grpc-stop-forced", "grace", stopGrace)
		go s.grpc.Stop() // it waits for handlers, which may ignore their contexts
		select {
		case <-stopped:
		case <-time.After(time.Second):
		}
	}
	return nil
}

var stoppingStatus = status.New(codes.Unavailable, errStopping.Error())

package grpcclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/telemetry"
)

// interceptor is what every call of a connection goes through.
type interceptor struct {
	timeout time.Duration
	latency *prometheus.HistogramVec
	role    string
	tracing bool // then the stats handler sends the trace
}

// unary adds a deadline and the trace, measures, and marks the answer as the peer's.
func (i *interceptor) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, i.timeout)
		defer cancel()
	}
	start := time.Now()
	err := invoke(i.withTrace(ctx), method, req, reply, cc, opts...)
	i.latency.WithLabelValues(i.role, method, status.Code(err).String()).Observe(time.Since(start).Seconds())
	return fault.FromPeer(err, method)
}

// stream sets no deadline: streams live as long as their context.
func (i *interceptor) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(i.withTrace(ctx), desc, cc, method, opts...)
	if err != nil {
		return nil, fault.FromPeer(err, method)
	}
	return &clientStream{ClientStream: s, method: method}, nil
}

// withTrace sends the trace of ctx, or begins one, so that every line that the call causes anywhere
// can be found by one id.
func (i *interceptor) withTrace(ctx context.Context) context.Context {
	if i.tracing {
		return ctx
	}
	ctx, _ = telemetry.StartTrace(ctx)
	var header carrier
	propagation.TraceContext{}.Inject(ctx, &header)
	return metadata.AppendToOutgoingContext(ctx, "traceparent", header.traceparent)
}

// carrier takes the one header that we send.
type carrier struct{ traceparent string }

func (c *carrier) Get(string) string { return "" }
func (c *carrier) Keys() []string    { return nil }
func (c *carrier) Set(key, value string) {
	if key == "traceparent" {
		c.traceparent = value
	}
}

// clientStream marks the errors of a stream as the peer's.
type clientStream struct {
	grpc.ClientStream
	method string
}

func (s *clientStream) mark(err error) error {
	if err == nil || errors.Is(err, io.EOF) { // the regular end
		return err
	}
	return fault.FromPeer(err, s.method)
}

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, s.mark(err)
}
func (s *clientStream) CloseSend() error    { return s.mark(s.ClientStream.CloseSend()) }
func (s *clientStream) SendMsg(m any) error { return s.mark(s.ClientStream.SendMsg(m)) }
func (s *clientStream) RecvMsg(m any) error { return s.mark(s.ClientStream.RecvMsg(m)) }

func newMetrics(reg prometheus.Registerer) (*prometheus.HistogramVec, error) {
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "peer_request_latency_seconds", Help: "Time of unary calls to other processes, retries included, by role, method and code.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"role", "method", "code"})
	err := reg.Register(latency)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(*prometheus.HistogramVec); ok {
			return existing, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of the grpc client: %w", err)
	}
	return latency, nil
}

package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// method is what is known of a method after its first call. All stages of a call are one function
// and not a chain, since the chain would cost more than most of what the stages do.
type method struct {
	name      string
	roles     []string
	everybody bool
	latency   *observers
}

func (s *Server) method(fullMethod string) *method {
	if m, ok := s.methods.Load(fullMethod); ok {
		return m.(*method)
	}
	m := &method{name: fullMethod, latency: s.metrics.observers(fullMethod)}
	m.roles, m.everybody = s.allow.roles(fullMethod)
	actual, _ := s.methods.LoadOrStore(fullMethod, m)
	return actual.(*method)
}

// unary runs one call: identity, permission, deadline, validation, handler, error, metrics.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	m, start := s.method(info.FullMethod), time.Now()
	m.latency.inFlight.Inc()
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, s.panicked(ctx, m, v)
		}
		m.latency.inFlight.Dec()
		m.latency.observe(status.Code(err), time.Since(start))
		s.debugLine(ctx, m, err, start)
	}()
	id, refused := s.authorize(ctx, m)
	ctx = s.callContext(ctx, m, id)
	if refused != nil {
		return nil, s.answer(ctx, refused)
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	if err := validate(req); err != nil {
		return nil, s.answer(ctx, err)
	}
	resp, err = handler(ctx, req)
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	return resp, nil
}

// stream is unary for streams: each received message is validated, and the context ends when the
// server stops.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	m, start := s.method(info.FullMethod), time.Now()
	ctx := ss.Context()
	m.latency.inFlight.Inc()
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(ctx, m, v)
		}
		m.latency.inFlight.Dec()
		m.latency.finished(status.Code(err))
		s.debugLine(ctx, m, err, start)
	}()
	id, refused := s.authorize(ctx, m)
	ctx = s.callContext(ctx, m, id)
	if refused != nil {
		return s.answer(ctx, refused)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopping) })()

	err = handler(srv, &serverStream{ServerStream: ss, ctx: ctx, server: s})
	if err != nil && errors.Is(context.Cause(ctx), errStopping) && fault.Code(err) == codes.Canceled {
		return stoppingStatus.Err()
	}
	return s.answer(ctx, err)
}

// serverStream is the stream that a handler sees.
type serverStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // grpc.ServerStream hands out its context
	server *Server
}

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return validate(m)
}

// callContext adds the trace of the caller and what every log line of this call shall tell.
func (s *Server) callContext(ctx context.Context, m *method, id mtls.Identity) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() { // with tracing on, the span is there already
		ctx = propagation.TraceContext{}.Extract(ctx, incoming{ctx})
	}
	attrs := make([]slog.Attr, 2, 3)
	attrs[0] = slog.String("method", m.name)
	attrs[1] = slog.String("caller", caller(id))
	if requestID := (incoming{ctx}).Get("x-vcap-request-id"); requestID != "" {
		attrs = append(attrs, slog.String("request_id", requestID))
	}
	return telemetry.With(ctx, attrs...)
}

func caller(id mtls.Identity) string {
	if id.Name == "" {
		return id.Role
	}
	return id.Role + "/" + id.Name
}

// incoming reads single values of the metadata; the whole would be copied.
type incoming struct{ ctx context.Context } //nolint:containedctx // lives for one expression

func (c incoming) Get(key string) string {
	if values := metadata.ValueFromIncomingContext(c.ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}
func (c incoming) Set(string, string) {}
func (c incoming) Keys() []string     { return nil }

// answer turns the error of a handler into the status that the caller gets, and logs what the caller
// is not told.
func (s *Server) answer(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	st, unexpected := fault.Status(ctx, err)
	if unexpected {
		level := slog.LevelError
		if st.Code() == codes.Unavailable { // the peer's own log tells what is wrong there
			level = slog.LevelWarn
		}
		s.tel.Log.LogAttrs(ctx, level, "request-failed", slog.Any("error", err), slog.String("code", st.Code().String()), address(ctx))
	}
	return st.Err()
}

func (s *Server) panicked(ctx context.Context, m *method, value any) error {
	stack := strings.Split(strings.TrimSpace(string(debug.Stack())), "\n")
	s.tel.Log.LogAttrs(ctx, slog.LevelError, "request-panicked",
		slog.String("method", m.name), slog.Any("panic", value), slog.Any("stack", stack), address(ctx))
	st, _ := fault.Status(ctx, fmt.Errorf("panic: %v", value))
	return st.Err()
}

// debugLine is the request log at the border of the API.
func (s *Server) debugLine(ctx context.Context, m *method, err error, start time.Time) {
	if !s.tel.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	id, _ := mtls.PeerFromContext(ctx)
	s.tel.Log.LogAttrs(ctx, slog.LevelDebug, "request",
		slog.String("method", m.name), slog.String("caller", caller(id)), address(ctx), slog.String("code", status.Code(err).String()),
		slog.String("reason", fault.Reason(err)), slog.Duration("duration", time.Since(start)))
}

func address(ctx context.Context) slog.Attr {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return slog.String("peer", p.Addr.String())
	}
	return slog.String("peer", "")
}

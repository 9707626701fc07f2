package telemetry

import (
	"context"
	"crypto/rand"

	"go.opentelemetry.io/otel/trace"
)

// StartTrace returns a context with a new trace, unless ctx has one, and the id of its trace. The
// id is in every line that any process logs for the calls made with the context; a command shows it
// to its user. It makes no span.
func StartTrace(ctx context.Context) (context.Context, string) {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		return ctx, span.TraceID().String()
	}
	var traceID trace.TraceID
	var spanID trace.SpanID
	// rand.Read of the standard library never fails.
	_, _ = rand.Read(traceID[:])
	_, _ = rand.Read(spanID[:])
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID})
	return trace.ContextWithSpanContext(ctx, span), traceID.String()
}

// TraceID returns the id of the trace of ctx, or "".
func TraceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	return ""
}

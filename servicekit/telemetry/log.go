package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// levelFatal is above every level that code may log at; only Fatal uses it.
const levelFatal = slog.LevelError + 4

// handler turns slog records into lines of a lager sink. lager has no warning: those lines have
// level info and "severity":"warn", because an error line means that an operator may have to act.
//
// lager's own slog handler is not used: it makes errors of warnings, and two loggers derived from
// one share the memory of their attributes.
type handler struct {
	component string
	sink      lager.Sink
	level     slog.Leveler
	lines     *lineMetrics
	scopes    []scope
}

// scope is one WithGroup or WithAttrs; exactly one of its members is set.
type scope struct {
	group string
	attrs []slog.Attr
}

func newHandler(component string, out io.Writer, level slog.Leveler, lines *lineMetrics) *handler {
	// The level is checked by Enabled, so that it can change at run time.
	sink := lager.NewPrettySink(&countingWriter{out: out, bytes: lines.bytes}, lager.DEBUG)
	return &handler{component: component, sink: sink, level: level, lines: lines}
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(scope{attrs: attrs})
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(scope{group: name})
}

func (h *handler) with(s scope) *handler {
	derived := *h
	derived.scopes = append(slices.Clone(h.scopes), s)
	return &derived
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	data := make(map[string]any, r.NumAttrs()+4)
	add(data, contextAttrs(ctx))
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		data["trace_id"] = span.TraceID().String()
	}
	if r.Level >= slog.LevelWarn && r.Level < slog.LevelError {
		data["severity"] = "warn"
	}
	inner := data
	for _, s := range h.scopes {
		if s.group == "" {
			add(inner, s.attrs)
			continue
		}
		group := map[string]any{}
		inner[s.group] = group
		inner = group
	}
	r.Attrs(func(a slog.Attr) bool {
		addOne(inner, a)
		return true
	})
	level := lagerLevel(r.Level)
	h.lines.count(r.Level)
	h.sink.Log(lager.LogFormat{
		Timestamp: timestamp(r.Time),
		Source:    h.component,
		Message:   h.component + "." + r.Message,
		LogLevel:  level,
		Data:      data,
	})
	return nil
}

// timestamp is the form in which lager hands times to its sinks; the sink writes rfc3339.
func timestamp(t time.Time) string {
	if t.IsZero() {
		t = time.Now()
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

func lagerLevel(level slog.Level) lager.LogLevel {
	switch {
	case level < slog.LevelInfo:
		return lager.DEBUG
	case level < slog.LevelError:
		return lager.INFO
	case level < levelFatal:
		return lager.ERROR
	default:
		return lager.FATAL
	}
}

// Fatal writes the last line of a process that cannot go on. The stack, if there is one, is that of
// a panic. It does not end the process; package lifecycle does.
func Fatal(component string, err error, code int, stack []byte) {
	writeFatal(os.Stdout, component, err, code, stack)
}

func writeFatal(out io.Writer, component string, err error, code int, stack []byte) {
	attrs := []slog.Attr{slog.Any("error", err), slog.Int("exit_code", code)}
	if len(stack) > 0 {
		// As lines, because a string would be cut.
		attrs = append(attrs, slog.Any("trace", strings.Split(strings.TrimSpace(string(stack)), "\n")))
	}
	h := newHandler(component, out, slog.LevelInfo, newLineMetrics(prometheus.NewRegistry()))
	slog.New(h).LogAttrs(context.Background(), levelFatal, "exiting", attrs...)
}

// attrsKey is the key of the request attributes in a context.
type attrsKey struct{}

// With returns a context whose attributes are part of every line logged with it, besides those that
// ctx has already.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	old := contextAttrs(ctx)
	return context.WithValue(ctx, attrsKey{}, append(slices.Clip(old), attrs...))
}

func contextAttrs(ctx context.Context) []slog.Attr {
	attrs, _ := ctx.Value(attrsKey{}).([]slog.Attr)
	return attrs
}

// lineMetrics counts what is logged, so that a process that floods its log can be found.
type lineMetrics struct {
	bytes                   prometheus.Counter
	debug, info, warn, errs prometheus.Counter
}

func newLineMetrics(reg prometheus.Registerer) *lineMetrics {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "log_lines_total", Help: "Lines logged, by level.",
	}, []string{"level"})
	bytes := prometheus.NewCounter(prometheus.CounterOpts{Name: "log_bytes_total", Help: "Bytes logged."})
	reg.MustRegister(lines, bytes)
	return &lineMetrics{
		bytes: bytes,
		debug: lines.WithLabelValues("debug"), info: lines.WithLabelValues("info"),
		warn: lines.WithLabelValues("warn"), errs: lines.WithLabelValues("error"),
	}
}

func (m *lineMetrics) count(level slog.Level) {
	switch {
	case level < slog.LevelInfo:
		m.debug.Inc()
	case level < slog.LevelWarn:
		m.info.Inc()
	case level < slog.LevelError:
		m.warn.Inc()
	default:
		m.errs.Inc()
	}
}

type countingWriter struct {
	out   io.Writer
	bytes prometheus.Counter
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.bytes.Add(float64(len(p)))
	return w.out.Write(p)
}

// Package telemetry owns what a process shows of itself: log lines in lager's shape on stdout,
// Prometheus metrics, OpenTelemetry traces, and the local debug listener with health, readiness and
// profiles. It does not own what is measured or logged; each package does that with what it gets here.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"diego.internal/servicekit/config"
)

// Telemetry is everything one process has to show itself with. All of it is safe for concurrent use.
type Telemetry struct {
	Log      *slog.Logger
	Registry *prometheus.Registry
	// Tracer makes spans, or none if no endpoint is configured.
	Tracer trace.TracerProvider

	component string
	digest    string // of the configuration file, "" if there is none
	started   time.Time
	level     *slog.LevelVar
	listener  net.Listener // nil for Discard
	exporter  *sdktrace.TracerProvider
	ready     readiness
}

// New makes the telemetry of a process and opens the debug listener, which answers once Run runs.
// The component is the source of each log line.
func New(component string, cfg Config) (*Telemetry, error) {
	return newTelemetry(component, cfg, os.Stdout)
}

func newTelemetry(component string, cfg Config, out io.Writer) (*Telemetry, error) {
	t := bare(component)
	t.digest = cfg.digest
	level, err := parseLevel(cfg.Log.Level)
	if err != nil {
		return nil, fmt.Errorf("reading the log section: %w", err)
	}
	t.level.Set(level)
	lines := newLineMetrics(t.Registry)
	t.Log = slog.New(newHandler(component, out, t.level, lines))

	t.Registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		versionMetric(component, cfg.digest),
	)
	if cfg.Trace.Endpoint != "" {
		if t.exporter, err = newTracing(component, cfg.Trace); err != nil {
			return nil, fmt.Errorf("setting up tracing: %w", err)
		}
		t.Tracer = t.exporter
	}
	listen := cfg.Debug.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	if t.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", listen); err != nil {
		return nil, fmt.Errorf("opening the debug listener: %w", err)
	}
	t.Listening("debug", t.listener.Addr().String())
	return t, nil
}

// bare returns what New and Discard have in common.
func bare(component string) *Telemetry {
	return &Telemetry{
		Registry:  prometheus.NewRegistry(),
		Tracer:    noop.NewTracerProvider(),
		component: component,
		started:   time.Now(),
		level:     new(slog.LevelVar),
		ready:     newReadiness(),
	}
}

// Discard returns telemetry that shows nothing, for tests: no output, no listener, a registry of its
// own. Run waits for the end of its context.
func Discard() *Telemetry {
	t := bare("test")
	t.Log = slog.New(slog.DiscardHandler)
	return t
}

// versionMetric tells which build runs with which configuration, beside the module information of the Go collector.
func versionMetric(component, digest string) prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "application_info", Help: "Always 1; the labels tell component, version and digest of the configuration file.",
	}, []string{"component", "version", "config_digest"})
	info.WithLabelValues(component, config.BuildVersion(), digest).Set(1)
	return info
}

// Tracing reports whether spans are made and exported.
func (t *Telemetry) Tracing() bool { return t.exporter != nil }

// DebugAddr returns the address of the debug listener, or "" if there is none.
func (t *Telemetry) DebugAddr() string {
	if t.listener == nil {
		return ""
	}
	return t.listener.Addr().String()
}

// Listening records an address that the process listens on, for the start line and /readyz.
func (t *Telemetry) Listening(name, address string) { t.ready.listening(name, address) }

// Started writes the one line that tells what has just started: version, digest of the configuration file,
// listening addresses, and what attrs add.
func (t *Telemetry) Started(attrs ...slog.Attr) {
	all := append([]slog.Attr{
		slog.String("version", config.BuildVersion()),
		slog.String("config_digest", t.digest),
		slog.Int("pid", os.Getpid()),
		slog.Any("listen", t.ready.addresses()),
	}, attrs...)
	t.Log.LogAttrs(context.Background(), slog.LevelInfo, "started", all...)
}

// Run serves the debug listener until ctx ends, and then sends the last spans.
func (t *Telemetry) Run(ctx context.Context) error {
	if t.listener == nil {
		<-ctx.Done()
		return nil
	}
	err := t.serveDebug(ctx)
	if t.exporter == nil {
		return err
	}
	flush, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), flushTimeout, errors.New("the trace collector did not take the last spans"))
	defer cancel()
	if flushErr := t.exporter.Shutdown(flush); flushErr != nil {
		// Spans are not worth a failed exit.
		t.Log.LogAttrs(ctx, slog.LevelWarn, "trace-flush-failed", slog.Any("error", flushErr))
	}
	return err
}

// Package telemetry owns what a process shows of itself: log lines in lager's shape, Prometheus
// metrics, OpenTelemetry traces, and the local debug listener with health, readiness and profiles.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is embedded in the configuration of every process with yaml:",inline".
type Config struct {
	Log   LogConfig   `yaml:"log"`
	Debug DebugConfig `yaml:"debug"`
	Trace TraceConfig `yaml:"trace"`
}

type LogConfig struct {
	Level string `yaml:"level"`
}
type DebugConfig struct {
	Listen string `yaml:"listen"`
}
type TraceConfig struct {
	Endpoint string `yaml:"endpoint"`
}

type Telemetry struct {
	Log      *slog.Logger
	Registry *prometheus.Registry
}

func New(component string, cfg Config) (*Telemetry, error) {
	return nil, errors.New("not yet")
}
func (t *Telemetry) Run(ctx context.Context) error                                     { <-ctx.Done(); return nil }
func (t *Telemetry) AddReadiness(name string, check func() (detail any, err error))   {}
func (t *Telemetry) Started(attrs ...slog.Attr)                                        {}
func With(ctx context.Context, attrs ...slog.Attr) context.Context                     { return ctx }
func Discard() *Telemetry {
	return &Telemetry{Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
}
func Fatal(component string, err error, code int, stack []byte) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", component, err)
}

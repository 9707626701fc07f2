package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"

	"diego.internal/servicekit/config"
)

// flushTimeout bounds how long the end of a process waits for the trace collector.
const flushTimeout = 3 * time.Second

// newTracing makes a provider that exports in the background. The collector need not be there: spans
// that it does not take are dropped, and the process goes on.
func newTracing(component string, cfg TraceConfig) (*sdktrace.TracerProvider, error) {
	tlsConfig, err := collectorTLS(cfg)
	if err != nil {
		return nil, err
	}
	client := otlptracegrpc.NewClient(
		otlptracegrpc.WithEndpoint(cfg.Endpoint),
		otlptracegrpc.WithTLSCredentials(credentials.NewTLS(tlsConfig)),
	)
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("connecting to the trace collector: %w", err)
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.SampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", component),
			attribute.String("service.version", config.BuildVersion()),
		)),
	), nil
}

// collectorTLS verifies the collector by host name, since it is not one of our processes, and shows
// it the newest certificate at each handshake.
func collectorTLS(cfg TraceConfig) (*tls.Config, error) {
	bundle, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the ca of the trace collector: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("the ca of the trace collector, %s, holds no certificate", cfg.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cfg.Certificate, cfg.Key)
			return &pair, err
		},
	}, nil
}

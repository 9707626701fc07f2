// Package grpcserver serves gRPC over mutual TLS.
package grpcserver

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

type Config struct {
	Listen string      `yaml:"listen"`
	TLS    mtls.Config `yaml:"tls"`
}
type Options struct {
	Source    *mtls.Source
	Allow     Table
	Telemetry *telemetry.Telemetry
	Listen    string
}
type Table map[string][]string
type Server struct{ grpc *grpc.Server }

func New(o Options) (*Server, error)                      { return nil, errors.New("not yet") }
func (s *Server) GRPC() grpc.ServiceRegistrar             { return s.grpc }
func (s *Server) Addr() string                            { return "" }
func (s *Server) SetServing(service string, serving bool) {}
func (s *Server) Run(ctx context.Context) error           { <-ctx.Done(); return nil }

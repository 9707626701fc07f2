package main

import (
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of locket.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// GRPC is where the service listens and with which certificate (role "locket").
	GRPC grpcserver.Config `yaml:"grpc"`
	// Database is where claims are kept; every locket of an installation uses the same one.
	Database postgres.Config `yaml:"database"`
}

// defaultListen is the port that the product has always used for locket.
const defaultListen = "0.0.0.0:8891"

// SetDefaults fills what the file may leave out.
func (c *Config) SetDefaults() {
	if c.GRPC.Listen == "" {
		c.GRPC.Listen = defaultListen
	}
}

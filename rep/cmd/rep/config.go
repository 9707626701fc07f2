package main

import (
	"errors"
	"net"

	"diego.internal/executor"
	"diego.internal/executor/garden/containerd"
	"diego.internal/locket/lockclient"
	"diego.internal/rep/internal/cell"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of a rep.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// Cell says who this cell is.
	Cell cell.Description `yaml:"cell"`
	// GRPC is the API of the cell. Its certificate must name this cell.
	GRPC grpcserver.Config `yaml:"grpc"`
	// BBS are the addresses of all BBSs; the active one is found among them.
	BBS grpcclient.Config `yaml:"bbs"`
	// StoresConfig says where the cell is present: the section locket, or consul.
	lockclient.StoresConfig `yaml:",inline"`
	// Presence says how long the cell counts as present after its last sign of life.
	Presence cell.PresenceConfig `yaml:"presence"`
	// Reconcile times the rounds that compare containers with records.
	Reconcile cell.ReconcileConfig `yaml:"reconcile"`
	// Evacuation times the emptying of the cell.
	Evacuation cell.EvacuationConfig `yaml:"evacuation"`
	// Metrics says which metrics of containers are published.
	Metrics cell.MetricsConfig `yaml:"metrics"`
	// Executor and Garden run the containers.
	Executor executor.Config   `yaml:"executor"`
	Garden   containerd.Config `yaml:"garden"`
}

// Validate checks what no section can check alone.
func (c *Config) Validate() error {
	return errors.Join(c.CheckStores(c.Presence.Backend), c.checkAddress())
}

func (c *Config) checkAddress() error {
	if c.Cell.Address != "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.GRPC.Listen)
	if err != nil {
		return nil //nolint:nilerr // the section grpc complains of it
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return errors.New("cell.address: must be set when grpc.listen names no single address, or nobody could reach the cell")
	}
	return nil
}

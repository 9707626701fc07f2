package main

import (
	"errors"
	"time"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of an auctioneer.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// GRPC is the listener and the certificate, which also proves this process to
	// the BBS, to locket and to cells. Default listener 0.0.0.0:9016.
	GRPC grpcserver.Config `yaml:"grpc"`
	// StoresConfig says where claims are kept: the sections locket and consul.
	lockclient.StoresConfig `yaml:",inline"`
	// BBS are the addresses of all BBSs; the active one is found among them.
	BBS grpcclient.Config `yaml:"bbs"`
	// Lock is the owner of the lock "auctioneer", how long it outlives us, and the store that it is kept in.
	Lock lockclient.Config `yaml:"lock"`

	Placement PlacementConfig `yaml:"placement"`
	Cells     CellsConfig     `yaml:"cells"`
	Queue     QueueConfig     `yaml:"queue"`
}

// PlacementConfig is the section of weights and limits.
type PlacementConfig struct {
	// BinPackFirstFitWeight is the cost of each step of a cell's index within its
	// zone, 0 to 1. Default 0: no bin packing.
	BinPackFirstFitWeight float64 `yaml:"bin_pack_first_fit_weight"`
	// StartingContainerWeight is the cost of each starting container on a cell, 0 to
	// 1. Default 0.25.
	StartingContainerWeight float64 `yaml:"starting_container_weight"`
	// StartingContainerCountMaximum is how many containers may be starting at once
	// over all cells. Default 0: no limit.
	StartingContainerCountMaximum int `yaml:"starting_container_count_maximum"`
}

// CellsConfig is the section about calls to cells.
type CellsConfig struct {
	// StateTimeout bounds a State call. Default 10s.
	StateTimeout time.Duration `yaml:"state_timeout"`
	// PerformTimeout bounds a Perform call. Default 10s.
	PerformTimeout time.Duration `yaml:"perform_timeout"`
	// SoftDeadline is how long a batch waits for the answers of cells before it goes
	// on without them. Default 2s.
	SoftDeadline time.Duration `yaml:"soft_deadline"`
	// StateMaxAge is how old a state may be for the first try of a batch; work that
	// finds no place is tried again on fresh states. Where asking all cells takes long
	// it is three times that, at most half of stale_limit. Default 1s.
	StateMaxAge time.Duration `yaml:"state_max_age"`
	// StaleLimit is how old the state of a slow cell may be. Default 10s.
	StaleLimit time.Duration `yaml:"stale_limit"`
	// Workers bounds the calls to cells at one time. Default 1000.
	Workers int `yaml:"workers"`
}

// QueueConfig is the section about work that waits.
type QueueConfig struct {
	// Limit is how much work may wait; more is refused. Default 1000000.
	Limit int `yaml:"limit"`
}

// SetDefaults fills what the file may leave out.
func (c *Config) SetDefaults() {
	c.GRPC.Listen = "0.0.0.0:9016"
}

// SetDefaults fills what the file may leave out.
func (c *PlacementConfig) SetDefaults() { c.StartingContainerWeight = 0.25 }

// SetDefaults fills what the file may leave out.
func (c *CellsConfig) SetDefaults() {
	*c = CellsConfig{
		StateTimeout: 10 * time.Second, PerformTimeout: 10 * time.Second, SoftDeadline: 2 * time.Second,
		StateMaxAge: time.Second, StaleLimit: 10 * time.Second, Workers: 1000,
	}
}

// SetDefaults fills what the file may leave out.
func (c *QueueConfig) SetDefaults() { c.Limit = 1_000_000 }

// Validate checks what no section can check alone.
func (c *Config) Validate() error { return c.CheckStores(c.Lock.Backend) }

// Validate returns all problems of the section.
func (c *PlacementConfig) Validate() error {
	return errors.Join(
		checkWeight("bin_pack_first_fit_weight", c.BinPackFirstFitWeight),
		checkWeight("starting_container_weight", c.StartingContainerWeight),
	)
}

func checkWeight(key string, w float64) error {
	if w >= 0 && w <= 1 { // NaN is not
		return nil
	}
	return config.Invalid(key, "must be from 0 to 1, is %v", w)
}

// Validate returns all problems of the section.
func (c *CellsConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"state_timeout", c.StateTimeout},
		{"perform_timeout", c.PerformTimeout},
		{"soft_deadline", c.SoftDeadline},
		{"state_max_age", c.StateMaxAge},
		{"stale_limit", c.StaleLimit},
	} {
		if d.value <= 0 {
			problems = append(problems, config.Invalid(d.key, "must be more than 0, is %v", d.value))
		}
	}
	if c.Workers < 1 {
		problems = append(problems, config.Invalid("workers", "must be at least 1, is %d", c.Workers))
	}
	return errors.Join(problems...)
}

// Validate returns all problems of the section.
func (c *QueueConfig) Validate() error {
	if c.Limit < 1 {
		return config.Invalid("limit", "must be at least 1, is %d", c.Limit)
	}
	return nil
}

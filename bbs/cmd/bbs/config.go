package main

import (
	"errors"
	"time"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/seal"
	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of a BBS.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// GRPC is the listener and the certificate, which also proves this process to locket, to the
	// auctioneer, to cells and to receivers of callbacks. Default listener 0.0.0.0:8889.
	GRPC grpcserver.Config `yaml:"grpc"`
	// Database is the Postgres that holds the state. All BBSs share it.
	Database postgres.Config `yaml:"database"`
	// StoresConfig says where claims are kept: the sections locket and consul.
	lockclient.StoresConfig `yaml:",inline"`
	// Auctioneer are the addresses of all auctioneers; the active one is found among them.
	Auctioneer grpcclient.Config `yaml:"auctioneer"`
	// Lock is the owner of the lock "bbs", how long it outlives us, and the store that it is kept in.
	Lock lockclient.Config `yaml:"lock"`
	// Presences says where cells are present.
	Presences PresencesConfig `yaml:"presences"`
	// Encryption names the keys of what is sealed in the database.
	Encryption seal.Config `yaml:"encryption"`

	Convergence ConvergenceConfig `yaml:"convergence"`
	Tasks       TasksConfig       `yaml:"tasks"`
	Writer      WriterConfig      `yaml:"writer"`
	Watch       WatchConfig       `yaml:"watch"`
	Comparison  ComparisonConfig  `yaml:"comparison"`

	// RollBackTo is the version of the schema that an earlier release wants: the BBS that gets the lock
	// brings the tables back to it and stays passive. Default 0, none.
	RollBackTo int64 `yaml:"rollback_to_version"`
}

// ComparisonConfig is the section about comparing memory with the tables.
type ComparisonConfig struct {
	// Interval from the end of one comparison to the beginning of the next. Default 10m.
	Interval time.Duration `yaml:"interval"`
	// Chunk is how many rows are read at once. Default 2000.
	Chunk int `yaml:"chunk"`
	// Pause between two chunks. Default 200ms.
	Pause time.Duration `yaml:"pause"`
}

// PresencesConfig is the section about the presences of cells.
type PresencesConfig struct {
	// Backend is the store that the cells choose in their section presence: "locket", the default, or "consul".
	Backend lockclient.Kind `yaml:"backend"`
}

// ConvergenceConfig is the section about comparing what is desired with what is.
type ConvergenceConfig struct {
	// Interval between two looks at everything. Default 30s.
	Interval time.Duration `yaml:"interval"`
	// StaleUnclaimed is after how long an instance that waits for a cell is offered to the auctioneer
	// again. Default 30s.
	StaleUnclaimed time.Duration `yaml:"stale_unclaimed"`
	// PresenceTTL is how long a cell must be missing whose end nobody has told. Default 5s.
	PresenceTTL time.Duration `yaml:"presence_ttl"`
	// BrakeShare is the share of the cells seen lately below which those present must not fall without
	// the brake engaging, 0 to 1. Default 0.5.
	BrakeShare float64 `yaml:"brake_share"`
	// BrakeMemory is for how long a missing cell counts as seen lately. Default 10m.
	BrakeMemory time.Duration `yaml:"brake_memory"`
	// BrakeFor is how long the brake holds before the loss is believed. Default 1m.
	BrakeFor time.Duration `yaml:"brake_for"`
}

// TasksConfig is the section about the lives of tasks.
type TasksConfig struct {
	// Kick is after how long a completed task is called back again, and how long somebody may resolve
	// one. Default 30s.
	Kick time.Duration `yaml:"kick"`
	// ExpireCompleted is how long after its completion a task is kept. Default 2m.
	ExpireCompleted time.Duration `yaml:"expire_completed"`
	// ExpirePending is how long a task may wait for a cell. Default 30m.
	ExpirePending time.Duration `yaml:"expire_pending"`
	// MaxRetries is how often a task may be rejected before it fails. Default 3.
	MaxRetries int32 `yaml:"max_retries"`
}

// WriterConfig is the section about batches.
type WriterConfig struct {
	// MaxBatch bounds the requests of one batch. Default 2000.
	MaxBatch int `yaml:"max_batch"`
	// QueueLimit bounds the requests that wait; more are refused. Default 20000.
	QueueLimit int `yaml:"queue_limit"`
	// CommitTimeout is how long a batch may take before its outcome is looked up. Default 10s.
	CommitTimeout time.Duration `yaml:"commit_timeout"`
}

// WatchConfig is the section about the log that watchers read.
type WatchConfig struct {
	// MemoryMB bounds the recent batches in memory, in mebibytes; older ones are read from the database. Default 12.
	MemoryMB int `yaml:"memory_mb"`
	// MinAge is how long the log is kept at least. Default 1h.
	MinAge time.Duration `yaml:"min_age"`
	// MinEvents is how many events are kept at least. Default 1000000.
	MinEvents int64 `yaml:"min_events"`
	// PruneInterval is between two prunings of the log. Default 1m.
	PruneInterval time.Duration `yaml:"prune_interval"`
	// Bookmark is how long a watch may be silent, at most 10s. Default 5s.
	Bookmark time.Duration `yaml:"bookmark"`
}

// SetDefaults fills what the file may leave out.
func (c *Config) SetDefaults() { c.GRPC.Listen = "0.0.0.0:8889" }

// SetDefaults fills what the file may leave out.
func (c *ConvergenceConfig) SetDefaults() {
	rules, fleet := converge.DefaultConfig(), converge.DefaultFleetConfig()
	*c = ConvergenceConfig{
		Interval: 30 * time.Second, StaleUnclaimed: rules.StaleUnclaimed, PresenceTTL: fleet.PresenceTTL,
		BrakeShare: fleet.BrakeShare, BrakeMemory: fleet.BrakeMemory, BrakeFor: fleet.BrakeFor,
	}
}

// SetDefaults fills what the file may leave out.
func (c *TasksConfig) SetDefaults() {
	rules := converge.DefaultConfig()
	*c = TasksConfig{
		Kick: rules.KickTask, ExpireCompleted: rules.ExpireCompletedTask, ExpirePending: rules.ExpirePendingTask, MaxRetries: 3,
	}
}

// SetDefaults fills what the file may leave out.
func (c *WriterConfig) SetDefaults() {
	*c = WriterConfig{MaxBatch: 2000, QueueLimit: 20000, CommitTimeout: 10 * time.Second}
}

// SetDefaults fills what the file may leave out.
func (c *ComparisonConfig) SetDefaults() {
	*c = ComparisonConfig{Interval: 10 * time.Minute, Chunk: 2000, Pause: 200 * time.Millisecond}
}

// SetDefaults fills what the file may leave out.
func (c *WatchConfig) SetDefaults() {
	*c = WatchConfig{MemoryMB: 12, MinAge: time.Hour, MinEvents: 1_000_000, PruneInterval: time.Minute, Bookmark: 5 * time.Second}
}

// Validate checks what no section can check alone.
func (c *Config) Validate() error {
	problems := []error{c.CheckStores(c.Lock.Backend, c.Presences.Backend)}
	if c.RollBackTo < 0 || c.RollBackTo > schema.Built() {
		problems = append(problems, config.Invalid("rollback_to_version", "must be from 1 to %d, is %d", schema.Built(), c.RollBackTo))
	}
	return errors.Join(problems...)
}

// Validate returns all problems of the section.
func (c *PresencesConfig) Validate() error {
	if err := c.Backend.Validate(); err != nil {
		return config.Invalid("backend", "%v", err)
	}
	return nil
}

// Validate returns all problems of the section.
func (c *ComparisonConfig) Validate() error {
	return errors.Join(positive("interval", c.Interval), positive("chunk", c.Chunk), positive("pause", c.Pause))
}

// Validate returns all problems of the section.
func (c *ConvergenceConfig) Validate() error {
	problems := []error{
		positive("interval", c.Interval), positive("stale_unclaimed", c.StaleUnclaimed), positive("presence_ttl", c.PresenceTTL),
		positive("brake_memory", c.BrakeMemory), positive("brake_for", c.BrakeFor),
	}
	if !(c.BrakeShare >= 0 && c.BrakeShare <= 1) { // NaN is neither
		problems = append(problems, config.Invalid("brake_share", "must be from 0 to 1, is %v", c.BrakeShare))
	}
	return errors.Join(problems...)
}

// Validate returns all problems of the section.
func (c *TasksConfig) Validate() error {
	problems := []error{
		positive("kick", c.Kick), positive("expire_completed", c.ExpireCompleted), positive("expire_pending", c.ExpirePending),
	}
	if c.MaxRetries < 1 {
		problems = append(problems, config.Invalid("max_retries", "must be at least 1, is %d", c.MaxRetries))
	}
	return errors.Join(problems...)
}

// Validate returns all problems of the section.
func (c *WriterConfig) Validate() error {
	return errors.Join(
		positive("max_batch", c.MaxBatch), positive("queue_limit", c.QueueLimit), positive("commit_timeout", c.CommitTimeout),
	)
}

// Validate returns all problems of the section.
func (c *WatchConfig) Validate() error {
	problems := []error{
		positive("memory_mb", c.MemoryMB), positive("min_age", c.MinAge), positive("min_events", c.MinEvents),
		positive("prune_interval", c.PruneInterval), positive("bookmark", c.Bookmark),
	}
	if c.Bookmark > 10*time.Second {
		problems = append(problems, config.Invalid("bookmark", "must be at most 10s, is %v", c.Bookmark))
	}
	return errors.Join(problems...)
}

func positive[T int | int64 | time.Duration](key string, value T) error {
	if value > 0 {
		return nil
	}
	return config.Invalid(key, "must be more than 0, is %v", value)
}

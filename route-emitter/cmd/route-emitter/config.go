package main

import (
	"errors"
	"net"
	"time"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of a route emitter.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// CellID selects local mode: the instances of this cell only. It must be the name in the certificate. Empty, the
	// default, selects global mode: the instances of all cells, by one active emitter that holds a lock.
	CellID string            `yaml:"cell_id"`
	BBS    grpcclient.Config `yaml:"bbs"`
	NATS   NATSConfig        `yaml:"nats"`
	TLS    mtls.Config       `yaml:"tls"` // towards the BBS, NATS and locket
	// StoresConfig, the sections locket and consul, and Lock are for global mode only.
	lockclient.StoresConfig `yaml:",inline"`

	Lock LockConfig `yaml:"lock"`

	// SyncInterval is how often the table is replaced by a snapshot of the BBS, as a safeguard; default 60s.
	SyncInterval time.Duration `yaml:"sync_interval"`
	// CommunicationTimeout limits reads of the BBS beside the event stream; default 30s.
	CommunicationTimeout time.Duration `yaml:"communication_timeout"`
	// StreamSilence is how long the event stream may say nothing before it is given up. The BBS speaks at least
	// every 10s; default 30s, at least 11s.
	StreamSilence time.Duration `yaml:"stream_silence"`

	// RegisterDirectInstanceRoutes sends traffic to containers instead of cells where an instance says neither;
	// default false.
	RegisterDirectInstanceRoutes bool `yaml:"register_direct_instance_routes"`
	// EnableInternalEmitter also serves service discovery; default false.
	EnableInternalEmitter bool `yaml:"enable_internal_emitter"`

	// EmissionInterval is how often everything is sent until a router has asked for another interval; default 20s.
	EmissionInterval time.Duration `yaml:"emission_interval"`
	// JitterFactor is the part of the interval, in (0,1], over which emissions spread after the start of a router;
	// default 0.2.
	JitterFactor float64 `yaml:"jitter_factor"`
	// UnregistrationInterval and UnregistrationSendCount say how unregistrations are repeated; default every 30s, 20
	// times. A count of 0 repeats none.
	UnregistrationInterval  time.Duration `yaml:"unregistration_interval"`
	UnregistrationSendCount int           `yaml:"unregistration_send_count"`
	// HandOver is how long an evacuated instance stays registered after its replacement became routable, so that routers
	// have heard of that first. It must be shorter than the drain_time of the cells (1s); default 500ms.
	HandOver time.Duration `yaml:"hand_over"`
}

// NATSConfig says where registrations go.
type NATSConfig struct {
	Addresses []string `yaml:"addresses"` // host:port, required
}

// LockConfig is the lock of global mode.
type LockConfig struct {
	Owner string        `yaml:"owner"` // names this emitter among its peers; required in global mode
	TTL   time.Duration `yaml:"ttl"`   // how long the lock outlives its holder; default 15s
	// Backend is the store of the lock, "locket" or "consul"; default "locket". All emitters choose the same.
	Backend lockclient.Kind `yaml:"backend"`
}

// SetDefaults fills what the file may leave out.
func (c *Config) SetDefaults() {
	c.SyncInterval, c.CommunicationTimeout, c.StreamSilence = time.Minute, 30*time.Second, 30*time.Second
	c.EmissionInterval, c.JitterFactor = 20*time.Second, 0.2
	c.UnregistrationInterval, c.UnregistrationSendCount = 30*time.Second, 20
	c.HandOver = 500 * time.Millisecond
	c.Lock.TTL = 15 * time.Second
}

// Validate returns all problems.
func (c *Config) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"sync_interval", c.SyncInterval},
		{"communication_timeout", c.CommunicationTimeout},
		{"emission_interval", c.EmissionInterval},
		{"unregistration_interval", c.UnregistrationInterval},
	} {
		if d.value <= 0 {
			problems = append(problems, config.Invalid(d.key, "must be more than 0, is %v", d.value))
		}
	}
	if c.StreamSilence < 11*time.Second {
		problems = append(problems, config.Invalid("stream_silence", "must be at least 11s, is %v", c.StreamSilence))
	}
	if !(c.JitterFactor > 0 && c.JitterFactor <= 1) { // refuses NaN too
		problems = append(problems, config.Invalid("jitter_factor", "must be more than 0 and at most 1, is %v", c.JitterFactor))
	}
	if c.HandOver < 0 || c.HandOver > time.Minute {
		problems = append(problems, config.Invalid("hand_over", "must be from 0 to 1m, is %v", c.HandOver))
	}
	if c.UnregistrationSendCount < 0 {
		problems = append(problems, config.Invalid("unregistration_send_count", "must not be negative, is %d", c.UnregistrationSendCount))
	}
	return errors.Join(append(problems, c.validateMode()...)...)
}

// validateMode checks what depends on local or global mode.
func (c *Config) validateMode() []error {
	var problems []error
	if c.CellID != "" {
		if c.Locket != nil || c.Consul != nil || c.Lock.Owner != "" {
			problems = append(problems, config.Invalid("cell_id", "excludes locket, consul and lock: an emitter of a cell takes no lock"))
		}
		return problems
	}
	if err := c.CheckStores(c.Lock.Backend); err != nil {
		problems = append(problems, err)
	}
	lock := lockclient.Config{Owner: c.Lock.Owner, TTL: c.Lock.TTL, Backend: c.Lock.Backend}
	if err := lock.Validate(); err != nil {
		problems = append(problems, config.Invalid("lock", "%v", err))
	}
	return problems
}

// Validate requires at least one server.
func (c *NATSConfig) Validate() error {
	if len(c.Addresses) == 0 {
		return config.Invalid("addresses", "at least one host:port is required")
	}
	var problems []error
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			problems = append(problems, config.Invalid("addresses", "%v", err))
		}
	}
	return errors.Join(problems...)
}

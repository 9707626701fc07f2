package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"diego.internal/router/internal/proxy"
	"diego.internal/router/internal/registry"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// Config is the configuration file of the router.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// Listen is the public HTTP address; default 127.0.0.1:0.
	Listen string       `yaml:"listen"`
	Status StatusConfig `yaml:"status"`
	// Index tells this router from the others of an installation; default "0". It begins the id that emitters see.
	Index string `yaml:"index"`
	// Zone is where this router runs; default none.
	Zone string      `yaml:"zone"`
	NATS NATSConfig  `yaml:"nats"`
	TLS  mtls.Config `yaml:"tls"` // towards NATS

	Registration RegistrationConfig `yaml:"registration"`
	Requests     RequestsConfig     `yaml:"requests"`
	Backends     BackendsConfig     `yaml:"backends"`
	AccessLog    AccessLogConfig    `yaml:"access_log"`
	Drain        DrainConfig        `yaml:"drain"`
}

// StatusConfig is the listener of /health and /routes.
type StatusConfig struct {
	// Listen is its address; default 127.0.0.1:0.
	Listen string `yaml:"listen"`
	// User and PasswordFile guard /routes. They are required unless Listen is a loopback address.
	User         string            `yaml:"user"`
	PasswordFile config.SecretFile `yaml:"password_file"`
	// HealthyAfter is how long after the first connection to NATS /health turns good; default 20s.
	HealthyAfter time.Duration `yaml:"healthy_after"`
}

// NATSConfig says where registrations come from.
type NATSConfig struct {
	Addresses []string `yaml:"addresses"` // host:port, required
}

// RegistrationConfig is what emitters are told and how long their word counts.
type RegistrationConfig struct {
	MinimumInterval time.Duration `yaml:"minimum_register_interval"`           // at which emitters repeat themselves, whole seconds; default 20s
	StaleThreshold  time.Duration `yaml:"stale_threshold"`                     // after which a silent endpoint is dropped, whole seconds; default 120s
	PruneInterval   time.Duration `yaml:"prune_interval"`                      // at which stale endpoints are looked for; default 30s
	EmptyPool       time.Duration `yaml:"empty_pool_retention"`                // 503 instead of 404 for so long after the last endpoint left; default 0
	SuspendPruning  bool          `yaml:"suspend_pruning_if_nats_unavailable"` // default true
}

// RequestsConfig limits what clients may do.
type RequestsConfig struct {
	Timeout           time.Duration      `yaml:"timeout"`             // of one request, upgraded connections aside; default 900s, 0 is none
	IdleTimeout       time.Duration      `yaml:"idle_timeout"`        // of a client's connection between requests; default 900s
	ReadHeaderTimeout time.Duration      `yaml:"read_header_timeout"` // for the headers of a request; default 60s
	MaxHeaderBytes    int                `yaml:"max_header_bytes"`    // of one request, in bytes; default 1048576
	MaxAttempts       int                `yaml:"max_attempts"`        // endpoints tried for one request; default 3
	Balancing         registry.Algorithm `yaml:"balancing"`           // round-robin or least-connection; default round-robin
	ZonePreference    string             `yaml:"zone_preference"`     // none or locally-optimistic; default none
	StickyCookies     []string           `yaml:"sticky_cookies"`      // default [JSESSIONID]
}

// BackendsConfig says how instances are connected to.
type BackendsConfig struct {
	DialTimeout      time.Duration `yaml:"dial_timeout"`          // default 5s
	HandshakeTimeout time.Duration `yaml:"tls_handshake_timeout"` // default 10s
	IdleTimeout      time.Duration `yaml:"idle_timeout"`          // of kept connections; default 90s
	MaxIdle          int           `yaml:"max_idle_connections"`  // in all; default 100
	MaxConnections   int           `yaml:"max_connections"`       // open requests of one endpoint; default 500, 0 is no limit
	CA               string        `yaml:"ca"`                    // PEM file that verifies instances with TLS; default the system's
	Certificate      string        `yaml:"certificate"`           // PEM file presented to instances with TLS; default none
	Key              string        `yaml:"key"`                   // PEM file, required with certificate
}

// AccessLogConfig says where the access log goes.
type AccessLogConfig struct {
	File string `yaml:"file"` // appended to; default standard output
}

// DrainConfig says how the router ends. Both together must leave room within the time that a process has to stop.
type DrainConfig struct {
	Wait    time.Duration `yaml:"wait"`    // requests are still taken for so long, with bad health; default 3s
	Timeout time.Duration `yaml:"timeout"` // open requests get so long afterwards; default 9s
}

// SetDefaults fills in what most installations use.
func (c *Config) SetDefaults() {
	c.Listen, c.Index = "127.0.0.1:0", "0"
	c.Status.Listen, c.Status.HealthyAfter = "127.0.0.1:0", 20*time.Second
	c.Registration = RegistrationConfig{
		MinimumInterval: 20 * time.Second, StaleThreshold: 120 * time.Second, PruneInterval: 30 * time.Second, SuspendPruning: true,
	}
	c.Requests = RequestsConfig{
		Timeout: 900 * time.Second, IdleTimeout: 900 * time.Second, ReadHeaderTimeout: 60 * time.Second, MaxHeaderBytes: 1 << 20,
		MaxAttempts: 3, Balancing: registry.RoundRobin, ZonePreference: zoneNone, StickyCookies: []string{"JSESSIONID"},
	}
	c.Backends = BackendsConfig{
		DialTimeout: 5 * time.Second, HandshakeTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second, MaxIdle: 100, MaxConnections: 500,
	}
	c.Drain = DrainConfig{Wait: 3 * time.Second, Timeout: 9 * time.Second}
}

const (
	zoneNone  = "none"
	zoneLocal = "locally-optimistic"
)

// Validate checks the public address.
func (c *Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return config.Invalid("listen", "%v", err)
	}
	if c.Requests.ZonePreference == zoneLocal && c.Zone == "" {
		return config.Invalid("zone", "is required with zone_preference %s", zoneLocal)
	}
	return nil
}

// Validate requires a password where others than this machine reach the listener.
func (c *StatusConfig) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return config.Invalid("listen", "%v", err)
	}
	ip := net.ParseIP(host)
	local := host == "localhost" || (ip != nil && ip.IsLoopback())
	var problems []error
	if !local && c.User == "" {
		problems = append(problems, config.Invalid("user", "is required because %s is no loopback address", c.Listen))
	}
	if (c.User == "") != (c.PasswordFile == "") {
		problems = append(problems, config.Invalid("password_file", "goes together with user"))
	}
	if c.HealthyAfter < 0 {
		problems = append(problems, config.Invalid("healthy_after", "must not be negative"))
	}
	return errors.Join(problems...)
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

// Validate keeps the intervals in proportion: an emitter must be able to miss a repetition.
func (c *RegistrationConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"minimum_register_interval", c.MinimumInterval}, {"stale_threshold", c.StaleThreshold}} {
		if d.d < time.Second || d.d%time.Second != 0 {
			problems = append(problems, config.Invalid(d.key, "must be whole seconds, at least 1s"))
		}
	}
	if c.StaleThreshold < 2*c.MinimumInterval {
		problems = append(problems, config.Invalid("stale_threshold", "must be at least twice minimum_register_interval"))
	}
	if c.PruneInterval <= 0 {
		problems = append(problems, config.Invalid("prune_interval", "must be positive"))
	}
	if c.EmptyPool < 0 {
		problems = append(problems, config.Invalid("empty_pool_retention", "must not be negative"))
	}
	return errors.Join(problems...)
}

// Validate checks the limits.
func (c *RequestsConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"timeout", c.Timeout}, {"idle_timeout", c.IdleTimeout}, {"read_header_timeout", c.ReadHeaderTimeout}} {
		if d.d < 0 {
			problems = append(problems, config.Invalid(d.key, "must not be negative"))
		}
	}
	if c.MaxHeaderBytes < 4096 {
		problems = append(problems, config.Invalid("max_header_bytes", "must be at least 4096"))
	}
	if c.MaxAttempts < 1 {
		problems = append(problems, config.Invalid("max_attempts", "must be at least 1"))
	}
	if !c.Balancing.Valid() {
		problems = append(problems, config.Invalid("balancing", "must be %s or %s", registry.RoundRobin, registry.LeastConnection))
	}
	if c.ZonePreference != zoneNone && c.ZonePreference != zoneLocal {
		problems = append(problems, config.Invalid("zone_preference", "must be %s or %s", zoneNone, zoneLocal))
	}
	return errors.Join(problems...)
}

// Validate checks the limits and that the files can be used.
func (c *BackendsConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"dial_timeout", c.DialTimeout}, {"tls_handshake_timeout", c.HandshakeTimeout}, {"idle_timeout", c.IdleTimeout}} {
		if d.d <= 0 {
			problems = append(problems, config.Invalid(d.key, "must be positive"))
		}
	}
	if c.MaxIdle < 1 {
		problems = append(problems, config.Invalid("max_idle_connections", "must be at least 1"))
	}
	if c.MaxConnections < 0 {
		problems = append(problems, config.Invalid("max_connections", "must not be negative"))
	}
	if _, err := c.proxyConfig(); err != nil {
		problems = append(problems, config.Invalid("ca", "%v", err))
	}
	return errors.Join(problems...)
}

// proxyConfig reads the files. The client certificate is read again for each connection, so that it can be renewed.
func (c *BackendsConfig) proxyConfig() (proxy.BackendConfig, error) {
	out := proxy.BackendConfig{
		DialTimeout: c.DialTimeout, HandshakeTimeout: c.HandshakeTimeout, IdleTimeout: c.IdleTimeout, MaxIdle: c.MaxIdle,
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return out, fmt.Errorf("reading the CA of backends: %w", err)
		}
		out.Roots = x509.NewCertPool()
		if !out.Roots.AppendCertsFromPEM(pem) {
			return out, fmt.Errorf("reading the CA of backends: no certificate in %s", c.CA)
		}
	}
	if (c.Certificate == "") != (c.Key == "") {
		return out, errors.New("certificate and key go together")
	}
	if c.Certificate == "" {
		return out, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("loading the certificate for backends: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return out, err
	}
	out.ClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return out, nil
}

// Validate keeps the drain within the time that a process has to stop.
func (c *DrainConfig) Validate() error {
	const reserve = time.Second // for closing what is left
	if c.Wait < 0 || c.Timeout < 0 {
		return config.Invalid("wait", "neither wait nor timeout may be negative")
	}
	if most := lifecycle.StopTimeout - reserve; c.Wait+c.Timeout > most {
		return config.Invalid("timeout", "wait and timeout together must not exceed %v", most)
	}
	return nil
}

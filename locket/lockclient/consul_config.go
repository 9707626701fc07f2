package lockclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"diego.internal/servicekit/config"
)

// ConsulConfig is the section "consul": the Consul agent that keeps claims.
type ConsulConfig struct {
	// Address is the https URL of an agent. Sessions belong to the agent through which they were made:
	// prefer the one on the same machine, or a name for the servers.
	Address string `yaml:"address"`
	// TLS is how the agent is verified and how this process proves itself to it. TLS 1.3 only.
	TLS ConsulTLS `yaml:"tls"`
	// TokenFile holds an ACL token that may write keys under Prefix and sessions. Default none.
	TokenFile config.SecretFile `yaml:"token_file"`
	// Prefix of all keys. Every process has to name the same one. Default "diego/v1/".
	Prefix string `yaml:"prefix"`
	// LockDelay is how long a lock cannot be taken after its holder went silent, 0s to 60s. Holders stop
	// by their own clock before that, so it adds to the time of a take-over and to nothing else. It is
	// never applied to presences. Default 0s.
	LockDelay time.Duration `yaml:"lock_delay"`
	// SessionTTLMin is the session_ttl_min of the Consul servers, below which they refuse sessions, 1s to
	// 300s. A presence of a dead holder ends after twice this, or twice its own TTL if that is more.
	// Default 10s, which is Consul's.
	SessionTTLMin time.Duration `yaml:"session_ttl_min"`
}

// ConsulTLS names PEM files, which are read anew for each connection, so that they may be replaced.
type ConsulTLS struct {
	CA          string `yaml:"ca"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// ServerName is what the agent's certificate is for, for example "server.dc1.consul". Default: the
	// host of Address.
	ServerName string `yaml:"server_name"`
}

// Limits and defaults of ConsulConfig.
const (
	defaultPrefix      = "diego/v1/"
	defaultSessionTTL  = 10 * time.Second
	maxLockDelay       = 60 * time.Second // Consul takes no more
	consulDialTimeout  = 5 * time.Second
	consulIdleTimeout  = 90 * time.Second
	consulIdlePerAgent = 8
)

// withDefaults fills what may be left out. It is no SetDefaults, because the section is optional and
// so a pointer, which package config does not fill.
func (c ConsulConfig) withDefaults() ConsulConfig {
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if c.SessionTTLMin == 0 {
		c.SessionTTLMin = defaultSessionTTL
	}
	return c
}

// Validate returns all problems, joined.
func (c *ConsulConfig) Validate() error {
	full := c.withDefaults()
	var problems []error
	if u, err := url.Parse(c.Address); err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		problems = append(problems, config.Invalid("address", "must be like https://127.0.0.1:8501, is %q", c.Address))
	}
	if !strings.HasSuffix(full.Prefix, "/") || !cleanKey(strings.TrimSuffix(full.Prefix, "/")) {
		problems = append(problems, config.Invalid("prefix", "must be like %q, is %q", defaultPrefix, c.Prefix))
	}
	if c.LockDelay < 0 || c.LockDelay > maxLockDelay {
		problems = append(problems, config.Invalid("lock_delay", "must be from 0s to %v, is %v", maxLockDelay, c.LockDelay))
	}
	if full.SessionTTLMin < time.Second || full.SessionTTLMin > 300*time.Second {
		problems = append(problems, config.Invalid("session_ttl_min", "must be from 1s to 300s, is %v", c.SessionTTLMin))
	}
	return errors.Join(problems...)
}

// Validate requires all three files to be named and readable.
func (c ConsulTLS) Validate() error {
	var problems []error
	for key, file := range map[string]string{"ca": c.CA, "certificate": c.Certificate, "key": c.Key} {
		if file == "" {
			problems = append(problems, config.Invalid(key, "is missing"))
		} else if _, err := os.ReadFile(file); err != nil { //nolint:gosec // the file is configured by the operator
			problems = append(problems, config.Invalid(key, "%v", err))
		}
	}
	return errors.Join(problems...)
}

// client returns a client of the agent and a function that closes its idle connections.
func (c ConsulConfig) client() (*api.Client, func(), error) {
	transport := &http.Transport{
		DialTLSContext:      c.TLS.dial,
		MaxIdleConnsPerHost: consulIdlePerAgent,
		IdleConnTimeout:     consulIdleTimeout,
	}
	cfg := &api.Config{
		Address: c.Address, Scheme: "https", Transport: transport,
		HttpClient: &http.Client{Transport: refusals{transport}},
	}
	if c.TokenFile != "" {
		token, err := c.TokenFile.Read()
		if err != nil {
			return nil, nil, fmt.Errorf("reading the consul token: %w", err)
		}
		cfg.Token = token
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("making a consul client: %w", err)
	}
	return client, transport.CloseIdleConnections, nil
}

// dial opens a connection with the files as they are now.
func (c ConsulTLS) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, consulDialTimeout)
	defer cancel()
	name := c.ServerName
	if name == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("dialing consul: %w", err)
		}
		name = host
	}
	cfg, err := api.SetupTLSConfig(&api.TLSConfig{Address: name, CAFile: c.CA, CertFile: c.Certificate, KeyFile: c.Key})
	if err != nil {
		return nil, fmt.Errorf("loading the tls files for consul: %w", err)
	}
	cfg.MinVersion = tls.VersionTLS13
	dialer := &tls.Dialer{Config: cfg}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dialing consul: %w", err)
	}
	return conn, nil
}

// refusals turns the answers of an agent that say "never" into ErrRefused. The client library tells
// them from others by their text only.
type refusals struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (r refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		_ = resp.Body.Close() // read or not, it is not used any more
		return nil, ErrRefused.With("consul answers %q to %s", resp.Status, req.URL.Path)
	default:
		return resp, nil
	}
}

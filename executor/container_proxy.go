package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ContainerProxy is the section container_proxy: a TLS proxy in every container with ports, which needs instance_identity.
type ContainerProxy struct {
	// Enabled puts a proxy into containers that are created from now on. Default false.
	Enabled bool `yaml:"enabled"`
	// Binary is the absolute path of the static program container-proxy; required when enabled.
	Binary string `yaml:"binary"`
	// MemoryMB is added to the limit of a container that has one, and reserved for it. Default 32.
	MemoryMB int `yaml:"memory_mb"`
	// ReloadTime is how long a container that was told to stop runs on after its proxy shows an invalid certificate, by which
	// routers learn to avoid it; executor.drain_time, if that is longer. Default 5 s.
	ReloadTime time.Duration `yaml:"reload_time"`
	// DrainTime is how long connections may go on after the proxy was told to end. Default 15 min.
	DrainTime time.Duration `yaml:"drain_time"`
	// HTTP2 offers HTTP/2 in handshakes. Default true.
	HTTP2 *bool `yaml:"http2"`
	// UnproxiedPortMappings maps the ports of the application itself to the host too. Default true.
	UnproxiedPortMappings *bool `yaml:"unproxied_port_mappings"`
	// HealthChecks goes on asking the ports of the proxy after the start; a proxy that does not take a connection ends the
	// container. Default false.
	HealthChecks bool `yaml:"health_checks"`
	// RequireClientCertificates turns away clients without a certificate that TrustedCA vouches for. Default false.
	RequireClientCertificates bool `yaml:"require_client_certificates"`
	// TrustedCA is the absolute path of a PEM file of at most 512 KiB, read again when it changes.
	TrustedCA string `yaml:"trusted_ca"`
	// VerifySubjectAltNames are the names of which a client's certificate must have one, exactly. Default: any will do.
	VerifySubjectAltNames []string `yaml:"verify_subject_alt_names"`
}

// SetDefaults fills what is zero.
func (p *ContainerProxy) SetDefaults() {
	def(&p.MemoryMB, 32)
	def(&p.ReloadTime, 5*time.Second)
	def(&p.DrainTime, 15*time.Minute)
	def(&p.HTTP2, new(true))
	def(&p.UnproxiedPortMappings, new(true))
}

// Validate checks the form only.
func (p *ContainerProxy) Validate() error {
	var problems []error
	if p.Enabled && !filepath.IsAbs(p.Binary) {
		problems = append(problems, fmt.Errorf("binary %q is not an absolute path", p.Binary))
	}
	if p.TrustedCA != "" && !filepath.IsAbs(p.TrustedCA) {
		problems = append(problems, fmt.Errorf("trusted_ca %q is not an absolute path", p.TrustedCA))
	}
	if p.RequireClientCertificates && p.TrustedCA == "" {
		problems = append(problems, errors.New("require_client_certificates needs a trusted_ca"))
	}
	if len(p.VerifySubjectAltNames) > 0 && !p.RequireClientCertificates {
		problems = append(problems, errors.New("verify_subject_alt_names needs require_client_certificates"))
	}
	for name, value := range map[string]int64{
		"memory_mb": int64(p.MemoryMB), "reload_time": int64(p.ReloadTime), "drain_time": int64(p.DrainTime),
	} {
		if value <= 0 {
			problems = append(problems, fmt.Errorf("%s is not positive", name))
		}
	}
	return errors.Join(problems...)
}

// checkProxies finds out at the start what no container could be built with.
func (c *Client) checkProxies() error {
	cfg := c.cfg.ContainerProxy
	if !cfg.Enabled {
		return nil
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("container_proxy: %w", err)
	}
	if c.authority == nil {
		return errors.New("container_proxy needs instance_identity, and containers that outlive the process")
	}
	if _, err := os.Stat(cfg.Binary); err != nil {
		return fmt.Errorf("looking for the program of container proxies: %w", err)
	}
	if _, err := c.clientCA(); err != nil {
		return err
	}
	return nil
}

package cell

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	"diego.internal/locket/lockclient"
)

// Description says who a cell is. It is a section of configuration files.
type Description struct {
	// ID is unique among all cells: 1 to 63 characters of [a-zA-Z0-9_-].
	ID   string `yaml:"id"`
	Zone string `yaml:"zone"`
	// Index is the ordinal of the cell in its deployment, from 0.
	Index int32 `yaml:"index"`
	// Address is host:port at which others reach the API; empty means the address that it listens at.
	Address string `yaml:"address"`
	// RootFSProviders are the schemes of root filesystems that the engine fetches by itself, whatever their name. Default
	// [docker] for real cells; [] offers the preloaded ones only.
	RootFSProviders []string `yaml:"rootfs_providers"`
	// PlacementTags must all be asked for by what runs here; OptionalPlacementTags may be.
	PlacementTags         []string `yaml:"placement_tags"`
	OptionalPlacementTags []string `yaml:"optional_placement_tags"`
	// MaxStarting is how many containers may be starting at a time; 0 is no limit.
	MaxStarting int32 `yaml:"max_starting"`
}

// SetDefaults fills what the file may leave out.
func (c *Description) SetDefaults() { c.RootFSProviders = []string{"docker"} }

var cellID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,63}$`)

// Validate checks what can be checked without looking at the machine.
func (c *Description) Validate() error {
	var problems []error
	if !cellID.MatchString(c.ID) {
		problems = append(problems, fmt.Errorf("id: must be 1 to 63 letters, digits, dashes and underscores, is %q", c.ID))
	}
	if c.Zone == "" {
		problems = append(problems, errors.New("zone: must be set"))
	}
	for _, scheme := range c.RootFSProviders {
		// The engine knows no other; a cell that offers what it cannot make would fail whatever is placed on it.
		if scheme != "docker" {
			problems = append(problems, fmt.Errorf("rootfs_providers: only docker is known, have %q", scheme))
		}
	}
	if c.Index < 0 {
		problems = append(problems, fmt.Errorf("index: must not be negative, is %d", c.Index))
	}
	if c.MaxStarting < 0 {
		problems = append(problems, fmt.Errorf("max_starting: must not be negative, is %d", c.MaxStarting))
	}
	if c.Address != "" {
		if _, _, err := net.SplitHostPort(c.Address); err != nil {
			problems = append(problems, fmt.Errorf("address: must be host:port: %w", err))
		}
	}
	return errors.Join(problems...)
}

// PresenceConfig is the section presence.
type PresenceConfig struct {
	// TTL from 3 s to 300 s. Default 5 s.
	TTL time.Duration `yaml:"ttl"`
	// Backend is the store of the presence, "locket" or "consul", the one in which the BBS looks. Default "locket".
	Backend lockclient.Kind `yaml:"backend"`
}

// SetDefaults fills what the file may leave out.
func (c *PresenceConfig) SetDefaults() { c.TTL = 5 * time.Second }

// Validate checks the range and the store.
func (c *PresenceConfig) Validate() error {
	var problems []error
	if c.TTL < 3*time.Second || c.TTL > 300*time.Second {
		problems = append(problems, fmt.Errorf("ttl: must be from 3 s to 300 s, is %v", c.TTL))
	}
	if err := c.Backend.Validate(); err != nil {
		problems = append(problems, fmt.Errorf("backend: %w", err))
	}
	return errors.Join(problems...)
}

// MetricsConfig is the section metrics.
type MetricsConfig struct {
	// ExcludeContainer names metrics of containers that are not published. Default [container_cpu_entitlement_percent].
	ExcludeContainer []string `yaml:"exclude_container"`
}

// SetDefaults fills what the file may leave out.
func (c *MetricsConfig) SetDefaults() {
	c.ExcludeContainer = []string{"container_cpu_entitlement_percent"}
}

// Validate refuses names that nothing has, which would be misspelt.
func (c *MetricsConfig) Validate() error {
	var problems []error
	for _, name := range c.ExcludeContainer {
		if !slices.ContainsFunc(containerMetrics(), func(m containerMetric) bool { return m.name == name }) {
			problems = append(problems, fmt.Errorf("exclude_container: there is no metric %q", name))
		}
	}
	return errors.Join(problems...)
}

// ReconcileConfig is the section reconcile.
type ReconcileConfig struct {
	// Interval between rounds. Default 30 s.
	Interval time.Duration `yaml:"interval"`
	// Width is how many containers are dealt with at a time. Default 64.
	Width int `yaml:"width"`
}

// SetDefaults fills what the file may leave out.
func (c *ReconcileConfig) SetDefaults() { c.Interval, c.Width = 30*time.Second, 64 }

// Validate checks the ranges.
func (c *ReconcileConfig) Validate() error {
	var problems []error
	if c.Interval <= 0 {
		problems = append(problems, fmt.Errorf("interval: must be positive, is %v", c.Interval))
	}
	if c.Width <= 0 {
		problems = append(problems, fmt.Errorf("width: must be positive, is %d", c.Width))
	}
	return errors.Join(problems...)
}

// EvacuationConfig is the section evacuation.
type EvacuationConfig struct {
	// Timeout bounds an evacuation. Default 600 s.
	Timeout time.Duration `yaml:"timeout"`
	// Interval between rounds and counts meanwhile. Default 10 s.
	Interval time.Duration `yaml:"interval"`
}

// SetDefaults fills what the file may leave out.
func (c *EvacuationConfig) SetDefaults() { c.Timeout, c.Interval = 600*time.Second, 10*time.Second }

// Validate checks the ranges.
func (c *EvacuationConfig) Validate() error {
	if c.Timeout <= 0 || c.Interval <= 0 {
		return fmt.Errorf("timeout and interval: must be positive, are %v and %v", c.Timeout, c.Interval)
	}
	return nil
}

package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"diego.internal/executor/garden"
)

// MinGraceTime is the least time between SIGTERM and SIGKILL that a configuration may ask for.
const MinGraceTime = 10 * time.Second

// Config of a Client. SetDefaults fills what is zero; CellID, StateDir and Engine have no default.
type Config struct {
	// CellID names the cell in log lines.
	CellID string `yaml:"-"`
	// Engine builds the containers.
	Engine garden.Client `yaml:"-"`
	// Log takes the lines of the executor itself.
	Log *slog.Logger `yaml:"-"`
	// Dial connects to addresses of containers for health checks; the default is the machine's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `yaml:"-"`

	// Stall is told how long the engine does not answer, also while Open waits for it; nil if nobody wants to know.
	Stall *Stall `yaml:"-"`

	// ECRTransport carries requests for tokens of AWS's registries; nil is the system's.
	ECRTransport http.RoundTripper `yaml:"-"`

	// Ephemeral says that containers end with this process, as those of a simulated engine do. Then nothing of them is
	// written to disk: there is no journal, because nothing could be adopted, and logs are discarded.
	Ephemeral bool `yaml:"-"`

	// StateDir is an absolute folder for journals, logs, dependencies and files shown in containers. It must survive a
	// restart of the process.
	StateDir string `yaml:"state_dir"`
	// OwnerName marks our containers in the engine; two cells on one engine need two names. Default "executor".
	OwnerName string `yaml:"owner_name"`

	// MemoryMB that containers may take together; 0 = all that the engine has.
	MemoryMB int `yaml:"memory_mb"`
	// DiskMB that containers may take together; 0 = what the engine has less CacheSizeBytes and DiskOverheadMB.
	DiskMB int `yaml:"disk_mb"`
	// DiskOverheadMB is left free when DiskMB is 0. Default 0.
	DiskOverheadMB int `yaml:"disk_overhead_mb"`
	// CacheSizeBytes bounds the cache of downloads on disk, also those in use. Default 10,000,000,000.
	CacheSizeBytes int64 `yaml:"cache_size_bytes"`

	// MetricsInterval is the pause between two samples of what containers use. Default 15 s.
	MetricsInterval time.Duration `yaml:"container_metrics_interval"`

	// CreatePool and DeletePool are how many containers are built and destroyed at a time. Default 32 each.
	CreatePool int `yaml:"create_pool"`
	DeletePool int `yaml:"delete_pool"`
	// ReadPool is how many GetFiles start at a time, MetricsPool how many GetBulkMetrics run. Default 64 and 8.
	ReadPool    int `yaml:"read_pool"`
	MetricsPool int `yaml:"metrics_pool"`
	// HealthCheckPool is how many monitor actions run at a time. Default 64.
	HealthCheckPool int `yaml:"health_check_pool"`
	// Downloads and Uploads at a time. Default 5 each.
	Downloads int `yaml:"downloads"`
	Uploads   int `yaml:"uploads"`

	// DownloadTLS is for servers of downloads and uploads that the system's authorities do not vouch for, or that want to
	// know who we are.
	DownloadTLS TLSFiles `yaml:"download_tls"`

	// InstanceIdentity gives each container a certificate of its own.
	InstanceIdentity InstanceIdentity `yaml:"instance_identity"`

	// Volumes says where volume drivers are found.
	Volumes VolumeConfig `yaml:"volumes"`

	// ContainerProxy puts a TLS proxy before the ports of containers.
	ContainerProxy ContainerProxy `yaml:"container_proxy"`
	// AdvertiseInstanceAddress says that others should reach containers at their own addresses and ports instead of the
	// cell's, which needs a network in which they can. Default false.
	AdvertiseInstanceAddress bool `yaml:"advertise_instance_address"`

	// CPUShares of a container of weight 100. Default 1,024.
	CPUShares uint64 `yaml:"cpu_shares"`
	// GraceTime is the time from SIGTERM to SIGKILL. Default and minimum 10 s.
	GraceTime time.Duration `yaml:"grace_time"`
	// DrainTime is how long a container that routers may send to runs on after it was told to stop: it is no longer
	// routable then, and that has to reach them first. Default 1 s; negative: none.
	DrainTime time.Duration `yaml:"drain_time"`
	// PostSetup is run in every container between its setup and its action; without a path nothing is.
	PostSetup Hook `yaml:"post_setup"`
	// ReservedExpiration is how long a reservation may wait for run information. Default 1 min.
	ReservedExpiration time.Duration `yaml:"reserved_expiration"`
	// ReapInterval is the pause between comparisons of records and engine. Default 1 min.
	ReapInterval time.Duration `yaml:"reap_interval"`
	// EngineCheckInterval is the pause between checks of a healthy engine, EngineCheckTimeout the limit of one. A failed
	// check is repeated after a third of the pause. Default 30 s and 10 s.
	EngineCheckInterval time.Duration `yaml:"engine_check_interval"`
	EngineCheckTimeout  time.Duration `yaml:"engine_check_timeout"`

	// SelfCheck makes a container for a check now and then.
	SelfCheck SelfCheck `yaml:"self_check"`

	// HealthyInterval and UnhealthyInterval are the pauses between health checks. Default 30 s and 2 s.
	HealthyInterval   time.Duration `yaml:"healthy_interval"`
	UnhealthyInterval time.Duration `yaml:"unhealthy_interval"`
	// FirstRetry is the pause after the first declarative check of a starting application, which is seldom ready by then. It
	// doubles with each attempt until it is UnhealthyInterval, and is not used where a workload has an interval of its own.
	// Default 100 ms.
	FirstRetry time.Duration `yaml:"first_retry"`
	// CheckTimeout is the limit of one declarative check that names none. Default 1 s.
	CheckTimeout time.Duration `yaml:"check_timeout"`

	// LogLinesPerSecond limits each instance; 0 = off.
	LogLinesPerSecond int `yaml:"log_lines_per_second"`
	// LogBytes and LogLines bound the log kept per container. Default 1 MiB and 10,000.
	LogBytes int64 `yaml:"log_bytes"`
	LogLines int   `yaml:"log_lines"`
	// LogRetention is how long the log of a deleted container can be read. Default 15 min.
	LogRetention time.Duration `yaml:"log_retention"`

	// MaxInflatedBytes bounds one download, received and unpacked. Default 8 GiB.
	MaxInflatedBytes int64 `yaml:"max_inflated_bytes"`
	// TrustedCertificates is a folder of the host with the cell's trusted certificates; empty = none.
	TrustedCertificates string `yaml:"trusted_certificates"`
}

// Hook is a process of the cell in a container.
type Hook struct {
	// Path and Args of the process, User a name of the container's passwd.
	Path string   `yaml:"path"`
	Args []string `yaml:"args"`
	User string   `yaml:"user"`
}

// Validate checks that a hook has a user.
func (h *Hook) Validate() error {
	if h.Path != "" && h.User == "" {
		return errors.New("a post-setup hook needs a user")
	}
	return nil
}

// SetDefaults fills every field that is zero and has a default.
func (c *Config) SetDefaults() {
	def(&c.OwnerName, "executor")
	def(&c.CacheSizeBytes, 10_000_000_000)
	def(&c.MetricsInterval, 15*time.Second)
	if c.Stall == nil {
		c.Stall = &Stall{}
	}
	def(&c.CreatePool, 32)
	def(&c.DeletePool, 32)
	def(&c.ReadPool, 64)
	def(&c.MetricsPool, 8)
	def(&c.HealthCheckPool, 64)
	def(&c.Downloads, 5)
	def(&c.Uploads, 5)
	def(&c.CPUShares, 1024)
	def(&c.GraceTime, 10*time.Second)
	def(&c.DrainTime, time.Second)
	def(&c.ReservedExpiration, time.Minute)
	def(&c.ReapInterval, time.Minute)
	def(&c.EngineCheckInterval, 30*time.Second)
	def(&c.EngineCheckTimeout, 10*time.Second)
	def(&c.HealthyInterval, 30*time.Second)
	def(&c.UnhealthyInterval, 2*time.Second)
	def(&c.FirstRetry, 100*time.Millisecond)
	def(&c.CheckTimeout, time.Second)
	def(&c.LogBytes, 1<<20)
	def(&c.LogLines, 10_000)
	def(&c.LogRetention, 15*time.Minute)
	def(&c.MaxInflatedBytes, 8<<30)
	c.InstanceIdentity.SetDefaults()
	c.ContainerProxy.SetDefaults()
	c.SelfCheck.SetDefaults()
	c.Volumes.SetDefaults()
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate checks the values that come from a configuration file; all problems are joined.
func (c *Config) Validate() error {
	var problems []error
	if !filepath.IsAbs(c.StateDir) {
		problems = append(problems, fmt.Errorf("state_dir %q is not an absolute path", c.StateDir))
	}
	if c.TrustedCertificates != "" && !filepath.IsAbs(c.TrustedCertificates) {
		problems = append(problems, fmt.Errorf("trusted_certificates %q is not an absolute path", c.TrustedCertificates))
	}
	if c.ContainerProxy.Enabled && c.InstanceIdentity.CACertificate == "" {
		problems = append(problems, errors.New("container_proxy needs instance_identity"))
	}
	if c.OwnerName == "" {
		problems = append(problems, errors.New("owner_name is empty"))
	}
	if c.MemoryMB < 0 {
		problems = append(problems, errors.New("memory limit must be a positive number or 'auto'"))
	}
	if c.DiskMB < 0 {
		problems = append(problems, errors.New("disk limit must be a positive number or 'auto'"))
	}
	if c.DiskOverheadMB < 0 {
		problems = append(problems, errors.New("disk_overhead_mb is negative"))
	}
	if c.LogLinesPerSecond < 0 {
		problems = append(problems, errors.New("log_lines_per_second is negative"))
	}
	if c.CPUShares == 0 {
		problems = append(problems, errors.New("cpu_shares is not positive"))
	}
	if c.GraceTime < MinGraceTime {
		problems = append(problems, fmt.Errorf("grace_time %v is below %v", c.GraceTime, MinGraceTime))
	}
	return errors.Join(append(problems, c.positive()...)...)
}

func (c *Config) positive() []error {
	values := []struct {
		name  string
		value int64
	}{
		{"cache_size_bytes", c.CacheSizeBytes},
		{"container_metrics_interval", int64(c.MetricsInterval)},
		{"create_pool", int64(c.CreatePool)},
		{"delete_pool", int64(c.DeletePool)},
		{"read_pool", int64(c.ReadPool)},
		{"metrics_pool", int64(c.MetricsPool)},
		{"health_check_pool", int64(c.HealthCheckPool)},
		{"downloads", int64(c.Downloads)},
		{"uploads", int64(c.Uploads)},
		{"reserved_expiration", int64(c.ReservedExpiration)},
		{"reap_interval", int64(c.ReapInterval)},
		{"engine_check_interval", int64(c.EngineCheckInterval)},
		{"engine_check_timeout", int64(c.EngineCheckTimeout)},
		{"healthy_interval", int64(c.HealthyInterval)},
		{"unhealthy_interval", int64(c.UnhealthyInterval)},
		{"first_retry", int64(c.FirstRetry)},
		{"check_timeout", int64(c.CheckTimeout)},
		{"log_bytes", c.LogBytes},
		{"log_lines", int64(c.LogLines)},
		{"log_retention", int64(c.LogRetention)},
		{"max_inflated_bytes", c.MaxInflatedBytes},
	}
	var problems []error
	for _, v := range values {
		if v.value <= 0 {
			problems = append(problems, fmt.Errorf("%s is not positive", v.name))
		}
	}
	return problems
}

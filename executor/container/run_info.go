package container

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// RunInfo is everything that is needed to build and run a container, given once with the order to run it.
type RunInfo struct {
	// RootFS is the engine's URI: "preloaded:<name>", an absolute path or "docker://…".
	RootFS        string `json:"rootfs"`
	ImageUsername string `json:"image_username,omitempty"`
	ImagePassword string `json:"image_password,omitempty"`
	Privileged    bool   `json:"privileged,omitempty"`
	// CPUWeight is 1 to 100 for LRPs; the engine's shares are 1,024 times weight / 100.
	CPUWeight uint32 `json:"cpu_weight,omitempty"`
	// Ports are the container's TCP ports to map to the host; duplicates are dropped.
	Ports []uint32 `json:"ports,omitempty"`
	// Proxied says that a cell with container proxies is to put one before Ports.
	Proxied bool `json:"proxied,omitempty"`
	// Env is seen by every process. For LRPs the caller puts INSTANCE_GUID, INSTANCE_INDEX, CF_INSTANCE_GUID and
	// CF_INSTANCE_INDEX in front.
	Env []EnvVar `json:"env,omitempty"`

	LogConfig LogConfig `json:"log_config"`
	// LogRateLimit is in bytes per second over all streams: -1 unlimited, 0 nothing at all.
	LogRateLimit int64 `json:"log_rate_limit"`

	// Setup runs before Action and may be nil. Its processes are gone when Action starts.
	Setup *Action `json:"setup,omitempty"`
	// Action must be set.
	Action   *Action   `json:"action,omitempty"`
	Sidecars []Sidecar `json:"sidecars,omitempty"`
	// Monitor is polled until it succeeds and then now and then; CheckDefinition replaces it when present.
	Monitor         *Action          `json:"monitor,omitempty"`
	CheckDefinition *CheckDefinition `json:"check_definition,omitempty"`
	// StartTimeout is the time to become healthy; zero means no limit.
	StartTimeout time.Duration `json:"start_timeout,omitempty"`
	HealthTiming HealthTiming  `json:"health_timing,omitzero"`
	// GraceTime is what processes have from SIGTERM to SIGKILL; nil means the cell's.
	GraceTime *time.Duration `json:"grace_time,omitempty"`

	EgressRules        []EgressRule       `json:"egress_rules,omitempty"`
	NetworkProperties  map[string]string  `json:"network_properties,omitempty"`
	CachedDependencies []CachedDependency `json:"cached_dependencies,omitempty"`
	// VolumeMounts are volumes of drivers of the cell.
	VolumeMounts []VolumeMount `json:"volume_mounts,omitempty"`
	// VolumeMountedFiles and those of all run actions appear read-only below /etc/cf-service-bindings.
	VolumeMountedFiles []File `json:"volume_mounted_files,omitempty"`
	// TrustedSystemCertificatesPath is where the cell's trusted certificates appear in the container; empty = nowhere.
	TrustedSystemCertificatesPath string          `json:"trusted_system_certificates_path,omitempty"`
	InternalRoutes                []InternalRoute `json:"internal_routes,omitempty"`
	// CertificateProperties go into the certificate that a cell with instance identity gives the container.
	CertificateProperties CertificateProperties `json:"certificate_properties,omitzero"`
}

// CertificateProperties say whom a container belongs to.
type CertificateProperties struct {
	// OrganizationalUnit lists such as "organization:<guid>", "space:<guid>" and "app:<guid>".
	OrganizationalUnit []string `json:"organizational_unit,omitempty"`
}

// EnvVar is one variable of an environment. Of two with one name the later wins.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// LogConfig says how lines of a container are marked.
type LogConfig struct {
	// GUID is the default source_id; without it the container's output is discarded.
	GUID string `json:"guid,omitempty"`
	// Index of the instance; -1 for tasks, which have none.
	Index int `json:"index"`
	// SourceName is the source type of lines that no action names itself; it defaults to "LOG".
	SourceName string `json:"source_name,omitempty"`
	// Tags are the metric tags, dynamic values already resolved.
	Tags map[string]string `json:"tags,omitempty"`
}

// Sidecar runs beside the action and shares its fate.
type Sidecar struct {
	Action   Action `json:"action"`
	MemoryMB int    `json:"memory_mb,omitempty"`
	DiskMB   int    `json:"disk_mb,omitempty"`
}

// CheckDefinition lists declarative checks. Invalid ones are logged and skipped.
type CheckDefinition struct {
	Checks          []Check `json:"checks,omitempty"`
	ReadinessChecks []Check `json:"readiness_checks,omitempty"`
	// LogSource defaults to "HEALTH".
	LogSource string `json:"log_source,omitempty"`
}

// Check is a TCP or an HTTP check; exactly one is set.
type Check struct {
	TCP  *TCPCheck  `json:"tcp,omitempty"`
	HTTP *HTTPCheck `json:"http,omitempty"`
}

// TCPCheck passes when the port takes a connection.
type TCPCheck struct {
	Port           uint32        `json:"port"`
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"` // zero: 1 s
	Interval       time.Duration `json:"interval,omitempty"`        // once healthy; zero: 30 s
}

// HTTPCheck passes when a GET answers 200.
type HTTPCheck struct {
	Port           uint32        `json:"port"`
	Path           string        `json:"path,omitempty"`            // empty: "/"
	RequestTimeout time.Duration `json:"request_timeout,omitempty"` // zero: 1 s
	Interval       time.Duration `json:"interval,omitempty"`        // once healthy; zero: 30 s
}

// HealthTiming overrides the cell's timings of health checks; nil fields keep them.
type HealthTiming struct {
	InitialDelay      *time.Duration `json:"initial_delay,omitempty"`
	UnhealthyInterval *time.Duration `json:"unhealthy_interval,omitempty"`
	// HealthyInterval zero means never again once healthy.
	HealthyInterval *time.Duration `json:"healthy_interval,omitempty"`
}

// EgressRule allows traffic that leaves the container.
type EgressRule struct {
	// Protocol is tcp, udp, icmp, icmpv6 or all.
	Protocol string `json:"protocol"`
	// Destinations are addresses, CIDRs or ranges "IP-IP"; an entry may hold several joined by commas.
	Destinations []string `json:"destinations"`
	// Ports or PortRange, exactly one of them, for tcp and udp.
	Ports     []uint32   `json:"ports,omitempty"`
	PortRange *PortRange `json:"port_range,omitempty"`
	ICMP      *ICMPInfo  `json:"icmp,omitempty"`
	Log       bool       `json:"log,omitempty"`
}

// PortRange is inclusive at both ends.
type PortRange struct {
	Start uint32 `json:"start"`
	End   uint32 `json:"end"`
}

// ICMPInfo selects ICMP messages; -1 means any.
type ICMPInfo struct {
	Type int32 `json:"type"`
	Code int32 `json:"code"`
}

// CachedDependency is an archive shown unpacked and read-only in the container.
type CachedDependency struct {
	Name              string `json:"name,omitempty"`
	From              string `json:"from"`
	To                string `json:"to"`
	CacheKey          string `json:"cache_key,omitempty"`
	LogSource         string `json:"log_source,omitempty"`
	ChecksumAlgorithm string `json:"checksum_algorithm,omitempty"`
	ChecksumValue     string `json:"checksum_value,omitempty"`
}

// VolumeMount shows a volume of a driver in the container.
type VolumeMount struct {
	Driver   string `json:"driver"`
	VolumeID string `json:"volume_id"`
	// Config is a JSON object for the driver, which may hold secrets; empty means none.
	Config string `json:"config,omitempty"`
	// Path in the container, absolute.
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// File is a file to show in the container; Path is "service/file".
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// InternalRoute is a host name under which other containers find this one.
type InternalRoute struct {
	Hostname string `json:"hostname"`
}

// Validate checks what must hold before anything is built. All problems are joined.
func (r *RunInfo) Validate() error {
	if r.Action == nil || r.Action.Empty() {
		return ErrEmptyAction
	}
	problems := []error{r.Action.Validate()}
	if r.RootFS == "" {
		problems = append(problems, errors.New("rootfs is missing"))
	}
	if r.LogRateLimit < -1 {
		problems = append(problems, fmt.Errorf("log rate limit %d is below -1", r.LogRateLimit))
	}
	if r.StartTimeout < 0 {
		problems = append(problems, fmt.Errorf("start timeout %v is negative", r.StartTimeout))
	}
	if r.GraceTime != nil && *r.GraceTime < 0 {
		problems = append(problems, fmt.Errorf("grace time %v is negative", *r.GraceTime))
	}
	for _, mount := range r.VolumeMounts {
		if mount.Driver == "" || mount.VolumeID == "" || !path.IsAbs(mount.Path) {
			problems = append(problems, fmt.Errorf("volume mount of %q at %q needs a driver, a volume and an absolute path", mount.VolumeID, mount.Path))
		}
	}
	for name, action := range map[string]*Action{"setup": r.Setup, "monitor": r.Monitor} {
		if action != nil {
			problems = append(problems, wrap(name, action.Validate()))
		}
	}
	for i, sidecar := range r.Sidecars {
		problems = append(problems, wrap(fmt.Sprintf("sidecar %d", i), sidecar.Action.Validate()))
	}
	return errors.Join(problems...)
}

func wrap(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// UniquePorts returns the ports once each, in their order.
func (r *RunInfo) UniquePorts() []uint32 {
	seen := make(map[uint32]bool, len(r.Ports))
	ports := make([]uint32, 0, len(r.Ports))
	for _, port := range r.Ports {
		if !seen[port] {
			seen[port] = true
			ports = append(ports, port)
		}
	}
	return ports
}

// Files returns the files that the container is to show: its own, then those of its run actions. It fails if two of one
// path differ.
func (r *RunInfo) Files() ([]File, error) {
	files := slices.Clone(r.VolumeMountedFiles)
	var add func(Action)
	add = func(a Action) {
		if a.Run != nil {
			files = append(files, a.Run.VolumeMountedFiles...)
		}
		_, children := a.Children()
		for _, child := range children {
			add(child)
		}
	}
	for _, action := range []*Action{r.Setup, r.Action, r.Monitor} {
		if action != nil {
			add(*action)
		}
	}
	for _, sidecar := range r.Sidecars {
		add(sidecar.Action)
	}
	contents := make(map[string]string, len(files))
	unique := files[:0]
	for _, file := range files {
		name := strings.TrimPrefix(file.Path, "/")
		content, known := contents[name]
		if known && content != file.Content {
			return nil, fmt.Errorf("two volume mounted files have the path %q", name)
		}
		if !known {
			contents[name] = file.Content
			unique = append(unique, file)
		}
	}
	return unique, nil
}

// Problem says what is wrong with a check, or nil.
func (c Check) Problem() error {
	var port uint32
	switch {
	case c.TCP != nil && c.HTTP != nil, c.TCP == nil && c.HTTP == nil:
		return errors.New("a check needs either tcp or http")
	case c.TCP != nil:
		port = c.TCP.Port
	default:
		port = c.HTTP.Port
	}
	if port == 0 || port > 65535 {
		return fmt.Errorf("check port %d is not in 1 to 65535", port)
	}
	return nil
}

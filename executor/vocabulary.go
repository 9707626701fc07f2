package executor

import (
	"time"

	"diego.internal/executor/container"
)

// The nouns of package container under the names that callers of Client use, so that one import is enough.
type (
	// Container is a snapshot of one container.
	Container = container.Record
	// State of a container.
	State = container.State
	// Result of a container that has ended.
	Result = container.Result
	// ContainerResources are what one container takes.
	ContainerResources = container.Resources
	// NetInfo is how a container is reached.
	NetInfo = container.NetInfo
	// PortMapping is one mapped port.
	PortMapping = container.PortMapping
	// RunInfo is everything needed to build and run a container.
	RunInfo = container.RunInfo
	// EnvVar is one variable of an environment.
	EnvVar = container.EnvVar
	// LogConfig says how lines are marked.
	LogConfig = container.LogConfig
	// Sidecar runs beside the action.
	Sidecar = container.Sidecar
	// CheckDefinition lists declarative checks.
	CheckDefinition = container.CheckDefinition
	// Check is one declarative check.
	Check = container.Check
	// TCPCheck is a check by connection.
	TCPCheck = container.TCPCheck
	// HTTPCheck is a check by request.
	HTTPCheck = container.HTTPCheck
	// HealthTiming overrides timings of checks.
	HealthTiming = container.HealthTiming
	// EgressRule allows outgoing traffic.
	EgressRule = container.EgressRule
	// PortRange is inclusive at both ends.
	PortRange = container.PortRange
	// ICMPInfo selects ICMP messages.
	ICMPInfo = container.ICMPInfo
	// CachedDependency is an archive shown unpacked in the container.
	CachedDependency = container.CachedDependency
	// VolumeMount shows a volume of a driver in the container.
	VolumeMount = container.VolumeMount
	// File is a file to show in the container.
	File = container.File
	// InternalRoute is a host name for other containers.
	InternalRoute = container.InternalRoute
	// CertificateProperties say whom a container belongs to.
	CertificateProperties = container.CertificateProperties

	// Action is one node of what a container does.
	Action = container.Action
	// RunAction runs a process.
	RunAction = container.RunAction
	// DownloadAction fetches and unpacks.
	DownloadAction = container.DownloadAction
	// UploadAction posts a file.
	UploadAction = container.UploadAction
	// EmitProgressAction logs around its inner action.
	EmitProgressAction = container.EmitProgressAction
	// TimeoutAction bounds its inner action in time.
	TimeoutAction = container.TimeoutAction
	// TryAction swallows failure.
	TryAction = container.TryAction
	// ParallelAction runs all at once.
	ParallelAction = container.ParallelAction
	// SerialAction runs one after the other.
	SerialAction = container.SerialAction
	// CodependentAction binds the fates of its actions.
	CodependentAction = container.CodependentAction
	// NetCheckAction asks a port of the container.
	NetCheckAction = container.NetCheckAction
)

// The states of a container.
const (
	StateReserved     = container.StateReserved
	StateInitializing = container.StateInitializing
	StateCreated      = container.StateCreated
	StateRunning      = container.StateRunning
	StateCompleted    = container.StateCompleted
)

// Resources of a cell: in all, or remaining.
type Resources struct {
	MemoryMB   int
	DiskMB     int
	Containers int
}

// AllocationRequest asks for a reservation.
type AllocationRequest struct {
	// GUID names the container from now on: 1 to 255 characters of [a-zA-Z0-9_.-].
	GUID      string
	Resources ContainerResources
	// Proxied reserves the memory of a proxy too, on a cell with container proxies, unless the memory is unlimited. It is
	// given back by the order to run the container if that gets no proxy.
	Proxied bool
	Tags    map[string]string
}

// AllocationFailure is the answer to a request that was refused.
type AllocationFailure struct {
	Request AllocationRequest
	// Err is ErrGUIDNotSpecified, ErrGUIDInvalid, ErrGUIDNotAvailable or wraps ErrInsufficientResources.
	Err error
}

// RunRequest attaches run information to a reservation.
type RunRequest struct {
	GUID string
	// Tags are added to those of the reservation.
	Tags map[string]string
	Info RunInfo
}

// UpdateRequest changes a container that has run information. Nil fields stay as they are.
type UpdateRequest struct {
	GUID           string
	InternalRoutes []InternalRoute
	// MetricTags have their dynamic values resolved.
	MetricTags map[string]string
}

// Metrics of one container.
type Metrics struct {
	MemoryUsageInBytes uint64
	DiskUsageInBytes   uint64
	// MemoryLimitInBytes and DiskLimitInBytes are zero when unlimited.
	MemoryLimitInBytes uint64
	DiskLimitInBytes   uint64
	CPUUsage           time.Duration
	// CPUEntitlement is what the container was entitled to use of the processors since it was created.
	CPUEntitlement time.Duration
	ContainerAge   time.Duration
	// CPUPercent is of one core and CPUEntitlementPercent of the entitlement, 100 being all of it, between the last two
	// samples that this process took; 0 before there are two.
	CPUPercent            float64
	CPUEntitlementPercent float64
	// SpikeStart and SpikeEnd are those of the latest time of more than the entitlement; SpikeEnd is zero while it goes on,
	// both are if there was none.
	SpikeStart, SpikeEnd time.Time
	PidCount             uint64
	RxBytes              uint64
	TxBytes              uint64
	// LogRate is in bytes per second over the last seconds; LogRateLimit -1 means unlimited.
	LogRate      float64
	LogRateLimit int64
	// LogRateExceeded counts how often it was exceeded since this process knows the container, and LogLinesDropped the
	// lines that it cost.
	LogRateExceeded int64
	LogLinesDropped int64
	// Tags are the container's metric tags, with source_id and instance_id.
	Tags map[string]string
}

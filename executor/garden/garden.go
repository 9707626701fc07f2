// Package garden is the border between the executor and whatever runs containers: the interfaces Client, Container
// and Process and the values that cross them. It owns the vocabulary and the errors, and no behaviour.
//
// Two packages implement it, garden/containerd (runc containers) and garden/simulated (none at all), and both pass the
// suite in garden/gardentest. Sizes are bytes, times are time.Duration, and every method that does I/O takes a context
// and returns when it ends.
package garden

import (
	"context"
	"io"
	"net/netip"
	"time"
)

// Client is a container engine as one cell sees it. Its methods may be called concurrently.
type Client interface {
	// Ping answers nil while the engine can take orders.
	Ping(ctx context.Context) error
	// Capacity is what the machine offers to containers in all, used or not.
	Capacity(ctx context.Context) (Capacity, error)
	// Create makes a container that runs nothing but its init and undoes everything it did when it fails.
	// It returns ErrHandleInUse if a container with that handle exists in any state, and a RootFSError when the image is to blame.
	Create(ctx context.Context, spec ContainerSpec) (Container, error)
	// Destroy kills and removes a container with all that belongs to it. It may be repeated, also after a failure half
	// way. It returns ErrUnknownHandle if nothing of that name is left.
	Destroy(ctx context.Context, handle string) error
	// Containers lists fully created containers that have all the given properties; PropertyStateAll lists
	// half-created ones too.
	Containers(ctx context.Context, filter Properties) ([]Container, error)
	// Lookup finds one container, created by this process or by an earlier one. It returns ErrUnknownHandle.
	Lookup(ctx context.Context, handle string) (Container, error)
	// BulkMetrics reads the metrics of many containers at once. Handles that are gone are left out.
	BulkMetrics(ctx context.Context, handles []string) (map[string]Metrics, error)
}

// Container is one container. Its methods may be called concurrently.
type Container interface {
	Handle() string
	// Info reads addresses, mapped ports, properties and events.
	Info(ctx context.Context) (Info, error)
	// Run starts a process beside the init. ProcessSpec.ID must be new in this container. It returns an
	// ExecutableNotFoundError if the path does not exist and ErrUnknownUser for a user that passwd does not name.
	// The process goes on when the caller's context ends, when this program ends, and when the engine restarts.
	Run(ctx context.Context, spec ProcessSpec, io ProcessIO) (Process, error)
	// Attach takes up a process that was started earlier, also by another program. Output that the process wrote and
	// that nobody has been given yet is delivered first; none is delivered twice, save the last lines before a kill -9.
	// It returns ErrUnknownProcess.
	Attach(ctx context.Context, processID string, io ProcessIO) (Process, error)
	// Stop signals every process but the init: TERM, then KILL after 10 s; with kill set, KILL at once.
	Stop(ctx context.Context, kill bool) error
	// StreamIn unpacks a tar stream below path as the given user, making directories on the way.
	StreamIn(ctx context.Context, spec StreamInSpec) error
	// StreamOut packs a file or a directory as a tar stream. The caller closes it.
	StreamOut(ctx context.Context, spec StreamOutSpec) (io.ReadCloser, error)
	// SetProperty stores a property for good; Property values survive restarts of every process.
	SetProperty(ctx context.Context, name, value string) error
	Metrics(ctx context.Context) (Metrics, error)
}

// Process is one process in a container.
type Process interface {
	// ID is unique in its container and known to its creator beforehand.
	ID() string
	// Wait blocks until the process has ended and all its output was delivered. It may be called more than once.
	Wait(ctx context.Context) (ExitStatus, error)
	// Signal sends a signal to the process and its children. A process that has ended is no error.
	Signal(ctx context.Context, signal Signal) error
}

// Signal is one of the two signals that the executor needs.
type Signal int

// The signals.
const (
	SignalTerminate Signal = iota + 1
	SignalKill
)

// ExitStatus tells how a process ended.
type ExitStatus struct {
	// Code is the exit code, or 128 plus the number of the signal that ended it.
	Code int
	// OutOfMemory says that the kernel killed a process of this container for memory while this one was running.
	OutOfMemory bool
	// OutOfDisk says that the process failed, or was stopped, while the container had used up its disk or its files.
	OutOfDisk bool
}

// Capacity of a machine.
type Capacity struct {
	MemoryInBytes uint64
	DiskInBytes   uint64
	MaxContainers int
	// Restrictions are what this engine should do and cannot on this machine, one sentence each; empty on a sound one.
	Restrictions []string
}

// Properties are names and values stored with a container.
type Properties map[string]string

// PropertyStateAll makes Client.Containers list half-created containers too, given as a filter with value "all".
const PropertyStateAll = "garden.state"

// ContainerSpec says what to create.
type ContainerSpec struct {
	// Handle names the container: 1 to 63 characters of [a-zA-Z0-9_.-].
	Handle     string
	Image      Image
	Privileged bool
	Env        []EnvVar
	BindMounts []BindMount
	Limits     Limits
	Properties Properties
	// NetIn are the container ports (TCP) to map; host port 0 picks one.
	NetIn []NetIn
	// NetOut are allow rules for traffic that leaves the container.
	NetOut []NetOutRule
}

// Image names a root filesystem: "preloaded:<name>", an absolute path of a folder or tarball, or
// "docker://[registry]/repository[#tag|#sha256:digest]", also with ":tag" or "@sha256:digest". The configuration of an
// image of a registry gives its variables to every process, below those of the container, and its user and working
// folder to processes that name none; entry point and command are left to the caller.
type Image struct {
	URI      string
	Username string
	Password string
}

// EnvVar is one variable of an environment. Of two with one name the later wins.
type EnvVar struct {
	Name  string
	Value string
}

// BindMount shows a folder or file of the host in the container.
type BindMount struct {
	SrcPath  string
	DstPath  string
	ReadOnly bool
}

// Limits of a container; zero means unlimited.
type Limits struct {
	MemoryInBytes uint64
	// DiskInBytes bounds what DiskScope counts. Writes beyond it fail, and all processes of a container that has used it
	// up are killed; their ExitStatus says so.
	DiskInBytes uint64
	DiskScope   DiskScope
	// Inodes bounds the files of a container that has a limit of disk; zero means the engine's default, 200,000. A disk
	// too small to hold as many has fewer.
	Inodes uint64
	Pids   int64
	// CPUShares is the weight against other containers (1,024 is the engine's usual one).
	CPUShares uint64
}

// DiskScope says what counts against a limit of disk.
type DiskScope int

// The scopes.
const (
	// DiskScopeExclusive counts what the container writes.
	DiskScopeExclusive DiskScope = iota
	// DiskScopeTotal counts the image too.
	DiskScopeTotal
)

// NetIn maps a port of the host to one of the container.
type NetIn struct {
	HostPort      uint32
	ContainerPort uint32
}

// Protocol of an egress rule.
type Protocol string

// The protocols.
const (
	ProtocolAll    Protocol = "all"
	ProtocolTCP    Protocol = "tcp"
	ProtocolUDP    Protocol = "udp"
	ProtocolICMP   Protocol = "icmp"
	ProtocolICMPv6 Protocol = "icmpv6"
)

// NetOutRule allows outgoing traffic. Empty Networks means every destination, empty Ports every port.
type NetOutRule struct {
	Protocol Protocol
	Networks []IPRange
	Ports    []PortRange
	ICMP     *ICMPControl
	Log      bool
}

// IPRange is inclusive at both ends.
type IPRange struct {
	Start netip.Addr
	End   netip.Addr
}

// PortRange is inclusive at both ends.
type PortRange struct {
	Start uint16
	End   uint16
}

// ICMPControl selects ICMP messages; nil means any.
type ICMPControl struct {
	Type *uint8
	Code *uint8
}

// Info is what is known about a container.
type Info struct {
	// ExternalIP is the address of the cell at which mapped ports answer, ContainerIP that of the container.
	ExternalIP  string
	ContainerIP string
	MappedPorts []NetIn
	Properties  Properties
	CreatedAt   time.Time
}

// ProcessSpec says what to run.
type ProcessSpec struct {
	// ID is chosen by the caller, unique in the container: 1 to 63 characters of [a-zA-Z0-9_.-].
	ID   string
	Path string
	Args []string
	Env  []EnvVar
	// Dir defaults to the image's working folder, if it has one, and else to the user's home.
	Dir string
	// User is a name or number of the container's passwd, with ":group" if wanted; it defaults to the image's user, and
	// if that has none to root.
	User string
	// Nofile limits open files; nil keeps the engine's default.
	Nofile *uint64
}

// ProcessIO receives output. A nil writer discards. Writers are called from one goroutine each and must not block for long.
type ProcessIO struct {
	Stdout io.Writer
	Stderr io.Writer
}

// StreamInSpec says where a tar stream goes.
type StreamInSpec struct {
	// Path is a folder; a relative one is below the user's home.
	Path string
	User string
	Tar  io.Reader
}

// StreamOutSpec says what is packed.
type StreamOutSpec struct {
	Path string
	User string
}

// Metrics of a container since it was created.
type Metrics struct {
	CPUUsage      time.Duration
	MemoryInBytes uint64
	MemoryLimit   uint64
	DiskInBytes   uint64
	PidCount      uint64
	Age           time.Duration
	RxBytes       uint64
	TxBytes       uint64
}

// Package container owns the nouns of the executor, the record of one container and its life cycle: which state follows
// which, and what each change writes. It is pure: no clock, no I/O, no goroutine. It does not build or run anything.
package container

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxFailureReason is the largest failure reason in bytes; a longer one is cut.
const MaxFailureReason = 10000

const truncated = "\n... (truncated)\n"

// ErrInvalidTransition says that the order does not fit the state of the container.
var ErrInvalidTransition = errors.New("container cannot transition to given state")

// State of a container.
type State string

// The states, in their order.
const (
	// StateReserved: resources are held, nothing is built.
	StateReserved State = "reserved"
	// StateInitializing: run information is attached, building is queued or under way.
	StateInitializing State = "initializing"
	// StateCreated: the container exists; setup, action and checks are starting.
	StateCreated State = "created"
	// StateRunning: all members of the action tree are ready.
	StateRunning State = "running"
	// StateCompleted: finished, failed or stopped; it waits to be deleted.
	StateCompleted State = "completed"
)

// Resources that one container takes; zero memory or disk means unlimited and takes nothing.
type Resources struct {
	MemoryMB int `json:"memory_mb"`
	DiskMB   int `json:"disk_mb"`
	MaxPids  int `json:"max_pids"`
	// ProxyMemoryMB is the part of MemoryMB that is for the container's proxy.
	ProxyMemoryMB int `json:"proxy_memory_mb,omitempty"`
}

// Result of a container that has ended.
type Result struct {
	// Failed is false when the action ended well. For an LRP that is a crash all the same.
	Failed bool `json:"failed"`
	// FailureReason is at most MaxFailureReason bytes and valid UTF-8.
	FailureReason string `json:"failure_reason"`
	// Retryable says that the infrastructure failed before user code ran.
	Retryable bool `json:"retryable"`
	// CellAtFault says that the cell failed and not the workload: any other cell may well run it. It implies Retryable.
	CellAtFault bool `json:"cell_at_fault,omitempty"`
	// Stopped says that somebody asked for the stop.
	Stopped bool `json:"stopped"`
}

// PortMapping is one port of the container and the host's port that leads to it, and the port at which the container's proxy
// takes TLS for it, with the host's port that leads there. A host port is 0 when nothing leads there.
type PortMapping struct {
	ContainerPort uint32 `json:"container_port"`
	HostPort      uint32 `json:"host_port"`
	// ContainerTLSPort is 0 in a container without a proxy.
	ContainerTLSPort uint32 `json:"container_tls_port,omitempty"`
	HostTLSPort      uint32 `json:"host_tls_port,omitempty"`
}

// NetInfo is how a container is reached.
type NetInfo struct {
	// ExternalIP is the cell's address, at which the host ports answer.
	ExternalIP string `json:"external_ip,omitempty"`
	// InternalIP is the container's own address.
	InternalIP string        `json:"internal_ip,omitempty"`
	Ports      []PortMapping `json:"ports,omitempty"`
	// PreferInternal says that others should use InternalIP and the container's ports.
	PreferInternal bool `json:"prefer_internal,omitempty"`
}

// Proxied says whether a proxy takes TLS for the ports of the container.
func (n NetInfo) Proxied() bool {
	return slices.ContainsFunc(n.Ports, func(p PortMapping) bool { return p.ContainerTLSPort != 0 })
}

// Record is what is known about one container. It is a value: methods return the changed copy. Maps and pointers in it
// are shared between copies and must not be written to.
type Record struct {
	GUID      string            `json:"guid"`
	State     State             `json:"state"`
	Resources Resources         `json:"resources"`
	Tags      map[string]string `json:"tags,omitempty"`
	// AllocatedAt is when the reservation was made.
	AllocatedAt time.Time `json:"allocated_at"`
	// RunInfo is nil while reserved.
	RunInfo *RunInfo `json:"run_info,omitempty"`
	Net     NetInfo  `json:"net,omitzero"`
	// Routable says whether routers may send requests; it is true only while running.
	Routable bool   `json:"routable"`
	Result   Result `json:"result,omitzero"`
}

// Reserve makes a record that holds resources.
func Reserve(guid string, resources Resources, tags map[string]string, now time.Time) Record {
	return Record{GUID: guid, State: StateReserved, Resources: resources, Tags: maps.Clone(tags), AllocatedAt: now}
}

// Initialized attaches run information and, where given, more tags.
func (r Record) Initialized(info *RunInfo, tags map[string]string) (Record, error) {
	if r.State != StateReserved {
		return r, r.refuse(StateInitializing)
	}
	merged := r.Tags
	if len(tags) > 0 {
		merged = make(map[string]string, len(r.Tags)+len(tags))
		maps.Copy(merged, r.Tags)
		maps.Copy(merged, tags)
	}
	r.State, r.RunInfo, r.Tags = StateInitializing, info, merged
	return r, nil
}

// Created notes that the container exists and how it is reached.
func (r Record) Created(net NetInfo) (Record, error) {
	if r.State != StateInitializing {
		return r, r.refuse(StateCreated)
	}
	r.State, r.Net = StateCreated, net
	return r, nil
}

// Running notes that all members of the tree are ready.
func (r Record) Running(routable bool) (Record, error) {
	if r.State != StateCreated {
		return r, r.refuse(StateRunning)
	}
	r.State, r.Routable = StateRunning, routable && !r.Result.Stopped
	return r, nil
}

// WithRoutable changes the flag of a running container. One that is to stop does not become routable any more.
func (r Record) WithRoutable(routable bool) (Record, error) {
	if r.State != StateRunning || routable && r.Result.Stopped {
		return r, fmt.Errorf("changing routable of container %q in state %s: %w", r.GUID, r.State, ErrInvalidTransition)
	}
	r.Routable = routable
	return r, nil
}

// StopRequested notes that somebody asked for the stop. No more requests are to come, but the state changes only when it
// has happened.
func (r Record) StopRequested() Record {
	r.Result.Stopped, r.Routable = true, false
	return r
}

// Completed ends the container from any state. A second completion overwrites the first result, but Stopped stays.
func (r Record) Completed(failed bool, reason string, retryable bool) Record {
	r.State, r.Routable = StateCompleted, false
	r.Result = Result{Failed: failed, FailureReason: CutReason(reason), Retryable: retryable, Stopped: r.Result.Stopped}
	return r
}

// Undone ends a container that the cell could not build, for a reason that is the cell's own.
func (r Record) Undone(reason string) Record {
	r = r.Completed(true, reason, true)
	r.Result.CellAtFault = true
	return r
}

// Updated replaces internal routes and metric tags; a nil argument keeps what is there. Run information must be present.
func (r Record) Updated(routes []InternalRoute, tags map[string]string) (Record, error) {
	if r.RunInfo == nil || r.State == StateCompleted {
		return r, fmt.Errorf("updating container %q in state %s: %w", r.GUID, r.State, ErrInvalidTransition)
	}
	info := *r.RunInfo
	if routes != nil {
		info.InternalRoutes = routes
	}
	if tags != nil {
		info.LogConfig.Tags = maps.Clone(tags)
	}
	r.RunInfo = &info
	return r, nil
}

// HasContainer says whether the engine should know a container for this record.
func (r Record) HasContainer() bool { return r.State == StateCreated || r.State == StateRunning }

func (r Record) refuse(to State) error {
	return fmt.Errorf("container %q is %s, not to be %s: %w", r.GUID, r.State, to, ErrInvalidTransition)
}

// CutReason bounds a failure reason to MaxFailureReason bytes at a border between characters.
func CutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= MaxFailureReason {
		return reason
	}
	cut := MaxFailureReason - len(truncated)
	for cut > 0 && !utf8.RuneStart(reason[cut]) {
		cut--
	}
	return reason[:cut] + truncated
}

package translate

import (
	"cmp"
	"maps"
	"slices"

	"diego.internal/executor"
	"diego.internal/executor/logs"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Running is everything that a cell reports about a running instance.
type Running struct {
	NetInfo        *workloadv1.ActualLRPNetInfo
	InternalRoutes []string
	MetricTags     map[string]string
	Routable       bool
	Zone           string
	DefinitionID   string
}

// RunningOf reads the report from a running container of this zone.
func RunningOf(c executor.Container, zone string) Running {
	out := Running{
		NetInfo:      netInfo(c.Net),
		Routable:     c.Routable,
		Zone:         zone,
		DefinitionID: c.Tags[TagDefinitionID],
	}
	if c.RunInfo != nil {
		out.MetricTags = c.RunInfo.LogConfig.Tags
		for _, route := range c.RunInfo.InternalRoutes {
			out.InternalRoutes = append(out.InternalRoutes, route.Hostname)
		}
	}
	return out
}

// Matches says whether the BBS's record holds exactly this report, so that telling it again would change nothing.
func (r Running) Matches(record *workloadv1.ActualLRP) bool {
	// A cell that is not being emptied (any more) wants its instance back as an ordinary one.
	return record.GetPresence() != workloadv1.Presence_PRESENCE_EVACUATING && r.same(record)
}

// MatchesEvacuating says the same for the record of an instance that serves until its replacement does.
func (r Running) MatchesEvacuating(record *workloadv1.ActualLRP) bool {
	return record.GetPresence() == workloadv1.Presence_PRESENCE_EVACUATING && r.same(record)
}

func (r Running) same(record *workloadv1.ActualLRP) bool {
	return record.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING &&
		record.GetRoutable() == r.Routable &&
		record.GetAvailabilityZone() == r.Zone &&
		slices.Equal(record.GetInternalRoutes(), r.InternalRoutes) &&
		maps.Equal(record.GetMetricTags(), r.MetricTags) &&
		sameNetInfo(record.GetNetInfo(), r.NetInfo)
}

func sameNetInfo(a, b *workloadv1.ActualLRPNetInfo) bool {
	return a.GetAddress() == b.GetAddress() &&
		a.GetInstanceAddress() == b.GetInstanceAddress() &&
		a.GetInstanceIpv6Address() == b.GetInstanceIpv6Address() &&
		a.GetPreferredAddress() == b.GetPreferredAddress() &&
		slices.EqualFunc(a.GetPorts(), b.GetPorts(), func(x, y *workloadv1.PortMapping) bool {
			return x.GetContainerPort() == y.GetContainerPort() && x.GetHostPort() == y.GetHostPort() &&
				x.GetContainerTlsProxyPort() == y.GetContainerTlsProxyPort() && x.GetHostTlsProxyPort() == y.GetHostTlsProxyPort()
		})
}

func netInfo(net executor.NetInfo) *workloadv1.ActualLRPNetInfo {
	out := &workloadv1.ActualLRPNetInfo{
		Address:          net.ExternalIP,
		InstanceAddress:  net.InternalIP,
		PreferredAddress: workloadv1.PreferredAddress_PREFERRED_ADDRESS_HOST,
	}
	if net.PreferInternal {
		out.PreferredAddress = workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE
	}
	for _, port := range net.Ports {
		out.Ports = append(out.Ports, &workloadv1.PortMapping{
			ContainerPort: port.ContainerPort, HostPort: port.HostPort,
			ContainerTlsProxyPort: port.ContainerTLSPort, HostTlsProxyPort: port.HostTLSPort,
		})
	}
	return out
}

// State of a container as the cell's API words it.
func State(c executor.Container) repv1.ContainerState {
	switch c.State {
	case executor.StateReserved:
		return repv1.ContainerState_CONTAINER_STATE_RESERVED
	case executor.StateInitializing:
		return repv1.ContainerState_CONTAINER_STATE_INITIALIZING
	case executor.StateCreated:
		return repv1.ContainerState_CONTAINER_STATE_CREATED
	case executor.StateRunning:
		return repv1.ContainerState_CONTAINER_STATE_RUNNING
	case executor.StateCompleted:
		if c.Result.Failed {
			return repv1.ContainerState_CONTAINER_STATE_CRASHED
		}
		return repv1.ContainerState_CONTAINER_STATE_SHUTDOWN
	default:
		return repv1.ContainerState_CONTAINER_STATE_UNSPECIFIED
	}
}

// CrashReason words why an instance ended. An action that ends well is a crash of an LRP all the same, and the executor
// has no failure to tell of then.
func CrashReason(c executor.Container) string {
	if c.Result.FailureReason != "" || c.Result.Failed {
		return c.Result.FailureReason
	}
	return source(c) + ": Exited with status 0"
}

// source names the process whose end ended the action, as the executor words it: the run action's own source, or else that
// of the container.
func source(c executor.Container) string {
	if c.RunInfo == nil {
		return logs.DefaultSource
	}
	own := ""
	if c.RunInfo.Action != nil {
		own = lastSource(*c.RunInfo.Action)
	}
	return cmp.Or(own, c.RunInfo.LogConfig.SourceName, logs.DefaultSource)
}

// lastSource is the source of the last run action of a tree, because of actions in a row the last one ends the whole.
func lastSource(a executor.Action) string {
	if a.Run != nil {
		return a.Run.LogSource
	}
	_, children := a.Children()
	for _, child := range slices.Backward(children) {
		if own := lastSource(child); own != "" {
			return own
		}
	}
	return ""
}

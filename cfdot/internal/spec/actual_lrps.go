package spec

import (
	workloadv1 "diego.internal/proto/workload/v1"
)

// ActualLRP is one record of an instance, flat.
type ActualLRP struct {
	ProcessGUID      string            `json:"process_guid"`
	Index            int32             `json:"index"`
	Domain           string            `json:"domain"`
	InstanceGUID     string            `json:"instance_guid"`
	CellID           string            `json:"cell_id"`
	Address          string            `json:"address"`
	Ports            []PortMapping     `json:"ports"`
	InstanceAddress  string            `json:"instance_address"`
	InstanceIPv6     string            `json:"instance_ipv6_address,omitempty"`
	PreferredAddress string            `json:"preferred_address"`
	CrashCount       int32             `json:"crash_count"`
	CrashReason      string            `json:"crash_reason,omitempty"`
	State            string            `json:"state"`
	PlacementError   string            `json:"placement_error,omitempty"`
	Since            int64             `json:"since"`
	ModificationTag  *ModificationTag  `json:"modification_tag"`
	Presence         string            `json:"presence"`
	InternalRoutes   []InternalRoute   `json:"actual_lrp_internal_routes,omitempty"`
	MetricTags       map[string]string `json:"metric_tags,omitempty"`
	Routable         bool              `json:"routable"`
	AvailabilityZone string            `json:"availability_zone"`
	DefinitionID     string            `json:"definition_id,omitempty"`
}

// InternalRoute is one name of internal routing.
type InternalRoute struct {
	Hostname string `json:"hostname"`
}

// PortMapping is one mapped port.
type PortMapping struct {
	ContainerPort         uint32 `json:"container_port"`
	HostPort              uint32 `json:"host_port"`
	ContainerTLSProxyPort uint32 `json:"container_tls_proxy_port,omitempty"`
	HostTLSProxyPort      uint32 `json:"host_tls_proxy_port,omitempty"`
}

// ActualLRPOf shows a record.
func ActualLRPOf(l *workloadv1.ActualLRP) ActualLRP {
	net := l.GetNetInfo()
	out := ActualLRP{
		ProcessGUID: l.GetKey().GetProcessGuid(), Index: l.GetKey().GetIndex(), Domain: l.GetKey().GetDomain(),
		InstanceGUID: l.GetInstanceKey().GetInstanceGuid(), CellID: l.GetInstanceKey().GetCellId(),
		Address: net.GetAddress(), InstanceAddress: net.GetInstanceAddress(), InstanceIPv6: net.GetInstanceIpv6Address(),
		PreferredAddress: preferred(net.GetPreferredAddress()), Ports: []PortMapping{},
		CrashCount: l.GetCrashCount(), CrashReason: l.GetCrashReason(), State: ActualState(l.GetState()), PlacementError: l.GetPlacementError(),
		Since: nanoseconds(l.GetSince()), ModificationTag: tagOf(l.GetModificationTag()), Presence: Presence(l.GetPresence()),
		MetricTags: l.GetMetricTags(), Routable: l.GetRoutable(), AvailabilityZone: l.GetAvailabilityZone(), DefinitionID: l.GetDefinitionId(),
	}
	for _, port := range net.GetPorts() {
		out.Ports = append(out.Ports, PortMapping{
			ContainerPort: port.GetContainerPort(), HostPort: port.GetHostPort(),
			ContainerTLSProxyPort: port.GetContainerTlsProxyPort(), HostTLSProxyPort: port.GetHostTlsProxyPort(),
		})
	}
	for _, name := range l.GetInternalRoutes() {
		out.InternalRoutes = append(out.InternalRoutes, InternalRoute{Hostname: name})
	}
	return out
}

// ActualState is the state as operators know it: UNCLAIMED, CLAIMED, RUNNING, CRASHED.
func ActualState(s workloadv1.ActualLRPState) string { return short(s.String(), "ACTUAL_LRP_STATE_") }

// Presence is ORDINARY, EVACUATING or SUSPECT.
func Presence(p workloadv1.Presence) string { return short(p.String(), "PRESENCE_") }

func preferred(p workloadv1.PreferredAddress) string {
	if name := short(p.String(), "PREFERRED_ADDRESS_"); name != "" {
		return name
	}
	return "UNKNOWN"
}

package watch

import (
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/route-emitter/internal/routetable"
)

// routed is what the two messages that describe a desired LRP to route emitters have in common.
type routed interface {
	GetProcessGuid() string
	GetDomain() string
	GetLogGuid() string
	GetInstances() int32
	GetRoutes() map[string][]byte
	GetMetricTags() map[string]*workloadv1.MetricTagValue
	GetModificationTag() *workloadv1.ModificationTag
}

var (
	_ routed = (*workloadv1.SchedulingInfo)(nil)
	_ routed = (*workloadv1.RoutingInfo)(nil)
)

// desired converts a desired LRP. The error names routes that cannot be used; the rest is there in any case.
func desired(in routed) (routetable.Desired, error) {
	routes, err := routetable.ParseRoutes(in.GetRoutes())
	out := routetable.Desired{
		ProcessGUID: in.GetProcessGuid(), Domain: in.GetDomain(), LogGUID: in.GetLogGuid(), Instances: int(in.GetInstances()),
		Routes: routes, Tag: modificationTag(in.GetModificationTag()),
	}
	if len(in.GetMetricTags()) > 0 {
		out.MetricTags = make(map[string]routetable.TagValue, len(in.GetMetricTags()))
	}
	for name, v := range in.GetMetricTags() {
		switch v.GetDynamic() {
		case workloadv1.DynamicTag_DYNAMIC_TAG_INDEX:
			out.MetricTags[name] = routetable.TagValue{Dynamic: routetable.TagIndex}
		case workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID:
			out.MetricTags[name] = routetable.TagValue{Dynamic: routetable.TagInstanceGUID}
		case workloadv1.DynamicTag_DYNAMIC_TAG_UNSPECIFIED:
			out.MetricTags[name] = routetable.TagValue{Static: v.GetStatic()}
		}
	}
	return out, err //nolint:wrapcheck // the caller names the process
}

// containerNetworkingPort is where the proxy of an instance takes TLS from other containers. Its certificate has the internal
// host names and not the name that routers ask for, and the row names a port that another row has already.
const containerNetworkingPort = 61443

// endpoint converts a record of an instance. ok is false unless the instance runs, is routable, and belongs to the cell
// (any, if cellID is empty).
func endpoint(in *workloadv1.ActualLRP, cellID string) (out routetable.Endpoint, ok bool) {
	if in.GetState() != workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING || !in.GetRoutable() || in.GetNetInfo() == nil {
		return out, false
	}
	if cellID != "" && in.GetInstanceKey().GetCellId() != cellID {
		return out, false
	}
	out = routetable.Endpoint{
		ProcessGUID: in.GetKey().GetProcessGuid(), Index: int(in.GetKey().GetIndex()),
		InstanceGUID: in.GetInstanceKey().GetInstanceGuid(), CellID: in.GetInstanceKey().GetCellId(),
		Evacuating:  in.GetPresence() == workloadv1.Presence_PRESENCE_EVACUATING,
		HostAddress: in.GetNetInfo().GetAddress(), ContainerAddress: in.GetNetInfo().GetInstanceAddress(),
		Preferred: preference(in.GetNetInfo().GetPreferredAddress()), Zone: in.GetAvailabilityZone(),
		Since: in.GetSince().AsTime(), Tag: modificationTag(in.GetModificationTag()),
	}
	for _, p := range in.GetNetInfo().GetPorts() {
		if p.GetContainerTlsProxyPort() == containerNetworkingPort {
			continue
		}
		out.Ports = append(out.Ports, routetable.Port{
			Container: p.GetContainerPort(), Host: p.GetHostPort(), ContainerTLS: p.GetContainerTlsProxyPort(), HostTLS: p.GetHostTlsProxyPort(),
		})
	}
	return out, true
}

func preference(p workloadv1.PreferredAddress) routetable.Preference {
	switch p {
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE:
		return routetable.PreferInstance
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_HOST:
		return routetable.PreferHost
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_UNSPECIFIED:
	}
	return routetable.PreferUnknown
}

func modificationTag(in *workloadv1.ModificationTag) routetable.ModificationTag {
	return routetable.ModificationTag{Epoch: in.GetEpoch(), Index: in.GetIndex()}
}

// domainNames lists fresh domains.
func domainNames(in []*bbsv1.Domain) []string {
	out := make([]string, len(in))
	for i, d := range in {
		out[i] = d.GetDomain()
	}
	return out
}

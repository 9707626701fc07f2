package wire

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Actual converts a record for readers. Whether a stop is requested is not for them.
func Actual(a *lrp.Actual) *workloadv1.ActualLRP {
	m := &workloadv1.ActualLRP{
		Key:             ActualKey(a),
		NetInfo:         NetInfo(a.NetInfo),
		State:           ActualState(a.State),
		Presence:        Presence(a.Presence),
		CrashCount:      a.CrashCount,
		CrashReason:     a.CrashReason,
		PlacementError:  a.PlacementError,
		Since:           Timestamp(a.Since),
		InternalRoutes:  a.InternalRoutes,
		Routable:        a.Routable,
		DefinitionId:    a.DefinitionID,
		ModificationTag: Tag(a.Tag),
		Revision:        a.Revision,
	}
	m.AvailabilityZone = a.Zone
	if !a.IsZero() {
		m.InstanceKey = InstanceKey(a.InstanceKey)
	}
	if len(a.MetricTags) > 0 {
		m.MetricTags = make(map[string]string, len(a.MetricTags))
		for _, tag := range a.MetricTags {
			m.MetricTags[tag.Name] = tag.Value
		}
	}
	return m
}

// ActualFrom is the inverse of Actual.
func ActualFrom(m *workloadv1.ActualLRP) *lrp.Actual {
	return &lrp.Actual{
		Key:            lrp.Key{ProcessGUID: m.GetKey().GetProcessGuid(), Index: m.GetKey().GetIndex()},
		InstanceKey:    InstanceKeyFrom(m.GetInstanceKey()),
		Domain:         m.GetKey().GetDomain(),
		Zone:           m.GetAvailabilityZone(),
		DefinitionID:   m.GetDefinitionId(),
		NetInfo:        NetInfoFrom(m.GetNetInfo()),
		InternalRoutes: m.GetInternalRoutes(),
		MetricTags:     TagValuesFrom(m.GetMetricTags()),
		CrashReason:    m.GetCrashReason(),
		PlacementError: m.GetPlacementError(),
		Tag:            TagFrom(m.GetModificationTag()),
		Since:          Nanoseconds(m.GetSince()),
		Revision:       m.GetRevision(),
		CrashCount:     m.GetCrashCount(),
		Presence:       PresenceFrom(m.GetPresence()),
		State:          ActualStateFrom(m.GetState()),
		Routable:       m.GetRoutable(),
	}
}

// ActualKey converts the key of a record with its domain.
func ActualKey(a *lrp.Actual) *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: a.ProcessGUID, Index: a.Index, Domain: a.Domain}
}

// KeyFrom converts a key; the domain is not part of ours.
func KeyFrom(k *workloadv1.ActualLRPKey) lrp.Key {
	return lrp.Key{ProcessGUID: k.GetProcessGuid(), Index: k.GetIndex()}
}

// InstanceKey converts the name of a container life.
func InstanceKey(k lrp.InstanceKey) *workloadv1.ActualLRPInstanceKey {
	return &workloadv1.ActualLRPInstanceKey{InstanceGuid: k.InstanceGUID, CellId: k.CellID}
}

// InstanceKeyFrom is the inverse of InstanceKey; absent is empty.
func InstanceKeyFrom(k *workloadv1.ActualLRPInstanceKey) lrp.InstanceKey {
	return lrp.InstanceKey{InstanceGUID: k.GetInstanceGuid(), CellID: k.GetCellId()}
}

// TagValuesFrom returns reported tags in order of name.
func TagValuesFrom(tags map[string]string) []lrp.TagValue {
	if len(tags) == 0 {
		return nil
	}
	values := make([]lrp.TagValue, 0, len(tags))
	for name, value := range tags {
		values = append(values, lrp.TagValue{Name: name, Value: value})
	}
	slices.SortFunc(values, func(a, b lrp.TagValue) int { return strings.Compare(a.Name, b.Name) })
	return values
}

// NetInfo converts an address; nil stays nil.
func NetInfo(n *lrp.NetInfo) *workloadv1.ActualLRPNetInfo {
	if n == nil {
		return nil
	}
	m := &workloadv1.ActualLRPNetInfo{
		Address: n.Address, InstanceAddress: n.InstanceAddress, InstanceIpv6Address: n.InstanceIPv6Address,
		PreferredAddress: preferredToProto(n.Preferred),
	}
	for _, p := range n.Ports {
		m.Ports = append(m.Ports, &workloadv1.PortMapping{
			ContainerPort: uint32(p.ContainerPort), HostPort: uint32(p.HostPort),
			ContainerTlsProxyPort: uint32(p.ContainerTLSProxyPort), HostTlsProxyPort: uint32(p.HostTLSProxyPort),
		})
	}
	return m
}

// NetInfoFrom is the inverse of NetInfo. Ports have been validated to be at most 65535.
func NetInfoFrom(m *workloadv1.ActualLRPNetInfo) *lrp.NetInfo {
	if m == nil {
		return nil
	}
	n := &lrp.NetInfo{
		Address: m.GetAddress(), InstanceAddress: m.GetInstanceAddress(), InstanceIPv6Address: m.GetInstanceIpv6Address(),
		Preferred: preferredFromProto(m.GetPreferredAddress()),
	}
	for _, p := range m.GetPorts() {
		n.Ports = append(n.Ports, lrp.PortMapping{
			ContainerPort: port(p.GetContainerPort()), HostPort: port(p.GetHostPort()),
			ContainerTLSProxyPort: port(p.GetContainerTlsProxyPort()), HostTLSProxyPort: port(p.GetHostTlsProxyPort()),
		})
	}
	return n
}

func port(p uint32) uint16 { return uint16(min(p, 65535)) }

func preferredToProto(p lrp.PreferredAddress) workloadv1.PreferredAddress {
	switch p {
	case lrp.PreferInstance:
		return workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE
	case lrp.PreferHost:
		return workloadv1.PreferredAddress_PREFERRED_ADDRESS_HOST
	case lrp.PreferUnknown:
	}
	return workloadv1.PreferredAddress_PREFERRED_ADDRESS_UNSPECIFIED
}

func preferredFromProto(p workloadv1.PreferredAddress) lrp.PreferredAddress {
	switch p {
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE:
		return lrp.PreferInstance
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_HOST:
		return lrp.PreferHost
	case workloadv1.PreferredAddress_PREFERRED_ADDRESS_UNSPECIFIED:
	}
	return lrp.PreferUnknown
}

// ActualState converts a state. The numbers are the same on both sides.
func ActualState(s lrp.State) workloadv1.ActualLRPState {
	switch s {
	case lrp.Unclaimed:
		return workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED
	case lrp.Claimed:
		return workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	case lrp.Running:
		return workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	case lrp.Crashed:
		return workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED
	}
	return workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNSPECIFIED
}

// ActualStateFrom is the inverse of ActualState; unspecified is 0, which is no state.
func ActualStateFrom(s workloadv1.ActualLRPState) lrp.State {
	switch s {
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED:
		return lrp.Unclaimed
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED:
		return lrp.Claimed
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING:
		return lrp.Running
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED:
		return lrp.Crashed
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNSPECIFIED:
	}
	return 0
}

// Presence converts a presence.
func Presence(p lrp.Presence) workloadv1.Presence {
	switch p {
	case lrp.Ordinary:
		return workloadv1.Presence_PRESENCE_ORDINARY
	case lrp.Evacuating:
		return workloadv1.Presence_PRESENCE_EVACUATING
	case lrp.Suspect:
		return workloadv1.Presence_PRESENCE_SUSPECT
	}
	return workloadv1.Presence_PRESENCE_UNSPECIFIED
}

// PresenceFrom is the inverse of Presence; unspecified is ordinary.
func PresenceFrom(p workloadv1.Presence) lrp.Presence {
	switch p {
	case workloadv1.Presence_PRESENCE_EVACUATING:
		return lrp.Evacuating
	case workloadv1.Presence_PRESENCE_SUSPECT:
		return lrp.Suspect
	case workloadv1.Presence_PRESENCE_UNSPECIFIED, workloadv1.Presence_PRESENCE_ORDINARY:
	}
	return lrp.Ordinary
}

// The numbers of the fields of workload.v1.ActualLRP and what it holds, for AppendActual.
const (
	actualKey, actualInstanceKey, actualNetInfo, actualState, actualPresence = 1, 2, 3, 4, 5
	actualCrashCount, actualCrashReason, actualPlacementError, actualSince   = 6, 7, 8, 9
	actualInternalRoutes, actualMetricTags, actualRoutable, actualZone       = 10, 11, 12, 13
	actualDefinitionID, actualTag, actualRevision                            = 14, 15, 16
)

// AppendActual appends the encoding of Actual(a), the same in every field, without making the message: every claim and every start
// encodes a record, for the log, for watchers and for lists.
func AppendActual(b []byte, a *lrp.Actual) []byte {
	out := message(b).key(actualKey, a)
	if !a.IsZero() {
		out = out.instanceKey(actualInstanceKey, a.InstanceKey)
	}
	out = out.netInfo(a.NetInfo).
		num(actualState, uint64(ActualState(a.State))).    //nolint:gosec // an enum
		num(actualPresence, uint64(Presence(a.Presence))). //nolint:gosec // an enum
		num(actualCrashCount, uint64(a.CrashCount)).       //nolint:gosec // never negative
		str(actualCrashReason, a.CrashReason).
		str(actualPlacementError, a.PlacementError).
		timestamp(actualSince, a.Since).
		reportedTexts(a)
	if a.Routable {
		out = out.num(actualRoutable, 1)
	}
	return out.str(actualZone, a.Zone).str(actualDefinitionID, a.DefinitionID).tag(actualTag, a.Tag).num(actualRevision, a.Revision)
}

func (m message) key(field protowire.Number, a *lrp.Actual) message {
	m, start := m.open(field)
	return m.str(1, a.ProcessGUID).num(2, uint64(a.Index)).str(3, a.Domain).close(start) //nolint:gosec // validated to be at least 0
}

func (m message) instanceKey(field protowire.Number, k lrp.InstanceKey) message {
	m, start := m.open(field)
	return m.str(1, k.InstanceGUID).str(2, k.CellID).close(start)
}

// netInfo appends the field of an ActualLRP, unless it is nil.
func (m message) netInfo(n *lrp.NetInfo) message {
	if n == nil {
		return m
	}
	m, start := m.open(actualNetInfo)
	m = m.str(1, n.Address)
	for _, p := range n.Ports {
		var portStart int
		m, portStart = m.open(2)
		m = m.num(1, uint64(p.ContainerPort)).num(2, uint64(p.HostPort)).
			num(3, uint64(p.ContainerTLSProxyPort)).num(4, uint64(p.HostTLSProxyPort)).close(portStart)
	}
	return m.str(3, n.InstanceAddress).str(4, n.InstanceIPv6Address).
		num(5, uint64(preferredToProto(n.Preferred))). //nolint:gosec // an enum
		close(start)
}

// reportedTexts appends the routes and tags of an ActualLRP.
func (m message) reportedTexts(a *lrp.Actual) message {
	for _, route := range a.InternalRoutes {
		m = m.text(actualInternalRoutes, route)
	}
	for i := range a.MetricTags {
		var start int
		m, start = m.open(actualMetricTags)
		m = m.str(1, a.MetricTags[i].Name).str(2, a.MetricTags[i].Value).close(start)
	}
	return m
}

// timestamp appends a time in nanoseconds since the Unix epoch, unless it is 0.
func (m message) timestamp(field protowire.Number, ns int64) message {
	if ns == 0 {
		return m
	}
	seconds, nanos := ns/1e9, ns%1e9
	if nanos < 0 {
		seconds, nanos = seconds-1, nanos+1e9
	}
	m, start := m.open(field)
	return m.num(1, uint64(seconds)).num(2, uint64(nanos)).close(start) //nolint:gosec // two's complement is the encoding
}

// AppendTimestamp appends a field with a time in nanoseconds since the Unix epoch, unless it is 0.
func AppendTimestamp(b []byte, field protowire.Number, ns int64) []byte {
	return message(b).timestamp(field, ns)
}

// message is an encoded message that fields are appended to. Empty strings and zeros are left out,
// as proto3 does.
type message []byte

func (m message) str(field protowire.Number, s string) message {
	if s == "" {
		return m
	}
	return m.text(field, s)
}

// text appends a text that is there even if it is empty: of a list, or a member of a oneof.
func (m message) text(field protowire.Number, s string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m message) bytes(field protowire.Number, b []byte) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), b)
}

func (m message) num(field protowire.Number, v uint64) message {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

// Reported reports whether a cell has reported anything of an instance that AppendReported would append.
func Reported(a *lrp.Actual) bool {
	return a.NetInfo != nil || len(a.InternalRoutes) > 0 || len(a.MetricTags) > 0
}

// AppendReported appends what the cell reported of an instance, as workload.v1.ActualLRP with only those fields. DecodeReported is
// its inverse.
func AppendReported(b []byte, a *lrp.Actual) []byte {
	return message(b).netInfo(a.NetInfo).reportedTexts(a)
}

// DecodeReported sets in a what AppendReported took from it.
func DecodeReported(a *lrp.Actual, reported []byte) error {
	if reported == nil {
		return nil
	}
	var m workloadv1.ActualLRP
	if err := proto.Unmarshal(reported, &m); err != nil {
		return fmt.Errorf("decoding what the cell reported: %w", err)
	}
	a.NetInfo = NetInfoFrom(m.GetNetInfo())
	a.InternalRoutes = m.GetInternalRoutes()
	a.MetricTags = TagValuesFrom(m.GetMetricTags())
	return nil
}

// DecodeActual is the inverse of AppendActual.
func DecodeActual(encoded []byte) (*lrp.Actual, error) {
	var m workloadv1.ActualLRP
	if err := proto.Unmarshal(encoded, &m); err != nil {
		return nil, fmt.Errorf("decoding an actual lrp: %w", err)
	}
	return ActualFrom(&m), nil
}

// EncodeCrash returns the encoding of bbs.v1.ActualLRPCrashed for the instance that crashed.
func EncodeCrash(before *lrp.Actual, crash *lrp.CrashRecord) []byte {
	return message{}.key(1, before).instanceKey(2, before.InstanceKey).
		num(3, uint64(crash.Count)). //nolint:gosec // never negative
		str(4, crash.Reason).
		timestamp(5, crash.Since)
}

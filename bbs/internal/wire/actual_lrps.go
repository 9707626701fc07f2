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

// The numbers of the fields of workload.v1.ActualLRP and what it holds, for EncodeActual.
const (
	actualKey, actualInstanceKey, actualNetInfo, actualState, actualPresence = 1, 2, 3, 4, 5
	actualCrashCount, actualCrashReason, actualPlacementError, actualSince   = 6, 7, 8, 9
	actualInternalRoutes, actualMetricTags, actualRoutable, actualZone       = 10, 11, 12, 13
	actualDefinitionID, actualTag, actualRevision                            = 14, 15, 16
)

// EncodeActual returns the encoding of Actual(a), the same bytes in every field but made in one
// allocation: every start encodes a record, for the log, for watchers and for lists.
func EncodeActual(a *lrp.Actual) []byte {
	key := message{}.str(1, a.ProcessGUID).num(2, uint64(a.Index)).str(3, a.Domain) //nolint:gosec // validated to be at least 0
	tag := message{}.str(1, a.Tag.Epoch).num(2, uint64(a.Tag.Index))
	out := make(message, 0, 192+len(a.ProcessGUID)+len(a.Domain)+len(a.CrashReason)+len(a.PlacementError)+len(a.Zone)+64*len(a.MetricTags))
	out = out.bytes(actualKey, key)
	if !a.IsZero() {
		out = out.bytes(actualInstanceKey, message{}.str(1, a.InstanceGUID).str(2, a.CellID))
	}
	if a.NetInfo != nil {
		out = out.bytes(actualNetInfo, encodeNetInfo(a.NetInfo))
	}
	out = out.num(actualState, uint64(ActualState(a.State))). //nolint:gosec // an enum
									num(actualPresence, uint64(Presence(a.Presence))). //nolint:gosec // an enum
									num(actualCrashCount, uint64(a.CrashCount)).       //nolint:gosec // never negative
									str(actualCrashReason, a.CrashReason).
									str(actualPlacementError, a.PlacementError)
	if a.Since != 0 {
		out = out.bytes(actualSince, encodeTimestamp(a.Since))
	}
	for _, route := range a.InternalRoutes {
		out = out.bytes(actualInternalRoutes, []byte(route))
	}
	for _, value := range a.MetricTags {
		out = out.bytes(actualMetricTags, message{}.str(1, value.Name).str(2, value.Value))
	}
	if a.Routable {
		out = out.num(actualRoutable, 1)
	}
	return out.str(actualZone, a.Zone).str(actualDefinitionID, a.DefinitionID).
		bytes(actualTag, tag).num(actualRevision, a.Revision)
}

func encodeNetInfo(n *lrp.NetInfo) message {
	out := message{}.str(1, n.Address)
	for _, p := range n.Ports {
		out = out.bytes(2, message{}.num(1, uint64(p.ContainerPort)).num(2, uint64(p.HostPort)).
			num(3, uint64(p.ContainerTLSProxyPort)).num(4, uint64(p.HostTLSProxyPort)))
	}
	return out.str(3, n.InstanceAddress).str(4, n.InstanceIPv6Address).
		num(5, uint64(preferredToProto(n.Preferred))) //nolint:gosec // an enum
}

func encodeTimestamp(ns int64) message {
	seconds, nanos := ns/1e9, ns%1e9
	if nanos < 0 {
		seconds, nanos = seconds-1, nanos+1e9
	}
	return message{}.num(1, uint64(seconds)).num(2, uint64(nanos)) //nolint:gosec // two's complement is the encoding
}

// message is an encoded message that fields are appended to. Empty strings and zeros are left out,
// as proto3 does.
type message []byte

func (m message) str(field protowire.Number, s string) message {
	if s == "" {
		return m
	}
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

// EncodeReported returns what the cell reported of an instance, as workload.v1.ActualLRP with only
// those fields, or nil if there is nothing. DecodeReported is its inverse.
func EncodeReported(a *lrp.Actual) []byte {
	if a.NetInfo == nil && len(a.InternalRoutes) == 0 && len(a.MetricTags) == 0 {
		return nil
	}
	out := message{}
	if a.NetInfo != nil {
		out = out.bytes(actualNetInfo, encodeNetInfo(a.NetInfo))
	}
	for _, route := range a.InternalRoutes {
		out = out.bytes(actualInternalRoutes, []byte(route))
	}
	for _, value := range a.MetricTags {
		out = out.bytes(actualMetricTags, message{}.str(1, value.Name).str(2, value.Value))
	}
	return out
}

// DecodeReported sets in a what EncodeReported took from it.
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

// DecodeActual is the inverse of EncodeActual.
func DecodeActual(encoded []byte) (*lrp.Actual, error) {
	var m workloadv1.ActualLRP
	if err := proto.Unmarshal(encoded, &m); err != nil {
		return nil, fmt.Errorf("decoding an actual lrp: %w", err)
	}
	return ActualFrom(&m), nil
}

// EncodeCrash returns the encoding of bbs.v1.ActualLRPCrashed for the instance that crashed.
func EncodeCrash(before *lrp.Actual, crash *lrp.CrashRecord) []byte {
	out := message{}.
		bytes(1, message{}.str(1, before.ProcessGUID).num(2, uint64(before.Index)).str(3, before.Domain)). //nolint:gosec // never negative
		bytes(2, message{}.str(1, before.InstanceGUID).str(2, before.CellID)).
		num(3, uint64(crash.Count)). //nolint:gosec // never negative
		str(4, crash.Reason)
	if crash.Since != 0 {
		out = out.bytes(5, encodeTimestamp(crash.Since))
	}
	return out
}

package wire

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"diego.internal/bbs/internal/lrp"
	workloadv1 "diego.internal/proto/workload/v1"
)

// SecretRouter is the one route whose value is a secret: it holds the private key of diego-ssh.
const SecretRouter = "diego-ssh"

// Desired converts the header of a desired LRP, without definition. Secret routes are left out
// unless withSecrets.
func Desired(d *lrp.Desired, withSecrets bool) *workloadv1.DesiredLRP {
	return &workloadv1.DesiredLRP{
		ProcessGuid:          d.ProcessGUID,
		Domain:               d.Domain,
		Instances:            d.Instances,
		Routes:               routes(d.Routes, withSecrets),
		Annotation:           d.Annotation,
		MetricTags:           MetricTags(d.MetricTags),
		UpdateStrategy:       updateStrategy(d.UpdateStrategy),
		CrashRestartPolicy:   CrashPolicy(d.CrashPolicy),
		ActiveDefinitionId:   d.ActiveDefinitionID,
		HealthyDefinitionId:  d.HealthyDefinitionID,
		PreviousDefinitionId: d.PreviousDefinitionID,
		ModificationTag:      Tag(d.Tag),
		CreatedAt:            Timestamp(d.CreatedAt),
		UpdatedAt:            Timestamp(d.UpdatedAt),
		Revision:             d.Revision,
	}
}

// DesiredFrom converts a header as a client or the log gives it: resources, placement and log guid
// come from the definition if there is one. Routes are not derived; see lrp.ParseRoutes.
func DesiredFrom(m *workloadv1.DesiredLRP) *lrp.Desired {
	container := m.GetDefinition().GetContainer()
	return &lrp.Desired{
		ProcessGUID:          m.GetProcessGuid(),
		Domain:               m.GetDomain(),
		LogGUID:              container.GetLog().GetGuid(),
		Annotation:           m.GetAnnotation(),
		Routes:               RoutesFrom(m.GetRoutes()),
		MetricTags:           MetricTagsFrom(m.GetMetricTags()),
		Resources:            ResourcesFrom(container.GetResources()),
		Placement:            PlacementOf(container),
		CrashPolicy:          CrashPolicyFrom(m.GetCrashRestartPolicy()),
		ActiveDefinitionID:   m.GetActiveDefinitionId(),
		HealthyDefinitionID:  m.GetHealthyDefinitionId(),
		PreviousDefinitionID: m.GetPreviousDefinitionId(),
		Tag:                  TagFrom(m.GetModificationTag()),
		CreatedAt:            Nanoseconds(m.GetCreatedAt()),
		UpdatedAt:            Nanoseconds(m.GetUpdatedAt()),
		Revision:             m.GetRevision(),
		Instances:            m.GetInstances(),
		UpdateStrategy:       updateStrategyFrom(m.GetUpdateStrategy()),
	}
}

// SchedulingInfo converts the scheduling part, without secret routes.
func SchedulingInfo(d *lrp.Desired) *workloadv1.SchedulingInfo {
	return &workloadv1.SchedulingInfo{
		ProcessGuid:        d.ProcessGUID,
		Domain:             d.Domain,
		LogGuid:            d.LogGUID,
		Annotation:         d.Annotation,
		Instances:          d.Instances,
		Resources:          Resources(d.Resources),
		Placement:          Placement(d.Placement),
		Routes:             routes(d.Routes, false),
		MetricTags:         MetricTags(d.MetricTags),
		UpdateStrategy:     updateStrategy(d.UpdateStrategy),
		CrashRestartPolicy: CrashPolicy(d.CrashPolicy),
		ActiveDefinitionId: d.ActiveDefinitionID,
		ModificationTag:    Tag(d.Tag),
		Revision:           d.Revision,
	}
}

// RoutingInfo converts the routing part, without secret routes.
func RoutingInfo(d *lrp.Desired) *workloadv1.RoutingInfo {
	return &workloadv1.RoutingInfo{
		ProcessGuid:     d.ProcessGUID,
		Domain:          d.Domain,
		LogGuid:         d.LogGUID,
		Instances:       d.Instances,
		Routes:          routes(d.Routes, false),
		MetricTags:      MetricTags(d.MetricTags),
		ModificationTag: Tag(d.Tag),
		Revision:        d.Revision,
	}
}

func routes(rs []lrp.Route, withSecrets bool) map[string][]byte {
	if len(rs) == 0 {
		return nil
	}
	m := make(map[string][]byte, len(rs))
	for _, r := range rs {
		if withSecrets || r.Router != SecretRouter {
			m[r.Router] = r.Value
		}
	}
	return m
}

// RoutesFrom returns routes in order of router.
func RoutesFrom(m map[string][]byte) []lrp.Route {
	if len(m) == 0 {
		return nil
	}
	rs := make([]lrp.Route, 0, len(m))
	for router, value := range m {
		rs = append(rs, lrp.Route{Router: router, Value: value})
	}
	slices.SortFunc(rs, func(a, b lrp.Route) int { return strings.Compare(a.Router, b.Router) })
	return rs
}

// MetricTags converts the tags of a desired LRP.
func MetricTags(tags []lrp.MetricTag) map[string]*workloadv1.MetricTagValue {
	if len(tags) == 0 {
		return nil
	}
	m := make(map[string]*workloadv1.MetricTagValue, len(tags))
	for _, tag := range tags {
		m[tag.Name] = metricTagValue(tag)
	}
	return m
}

func metricTagValue(tag lrp.MetricTag) *workloadv1.MetricTagValue {
	dynamic := func(d workloadv1.DynamicTag) *workloadv1.MetricTagValue {
		return &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: d}}
	}
	switch tag.Dynamic {
	case lrp.DynamicIndex:
		return dynamic(workloadv1.DynamicTag_DYNAMIC_TAG_INDEX)
	case lrp.DynamicInstanceGUID:
		return dynamic(workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID)
	case lrp.NotDynamic:
	}
	return &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Static{Static: tag.Static}}
}

// MetricTagsFrom returns tags in order of name.
func MetricTagsFrom(m map[string]*workloadv1.MetricTagValue) []lrp.MetricTag {
	if len(m) == 0 {
		return nil
	}
	tags := make([]lrp.MetricTag, 0, len(m))
	for name, value := range m {
		tag := lrp.MetricTag{Name: name, Static: value.GetStatic()}
		switch value.GetDynamic() {
		case workloadv1.DynamicTag_DYNAMIC_TAG_INDEX:
			tag.Dynamic = lrp.DynamicIndex
		case workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID:
			tag.Dynamic = lrp.DynamicInstanceGUID
		case workloadv1.DynamicTag_DYNAMIC_TAG_UNSPECIFIED:
		}
		tags = append(tags, tag)
	}
	slices.SortFunc(tags, func(a, b lrp.MetricTag) int { return strings.Compare(a.Name, b.Name) })
	return tags
}

func updateStrategy(s lrp.UpdateStrategy) workloadv1.UpdateStrategy {
	switch s {
	case lrp.Recreate:
		return workloadv1.UpdateStrategy_UPDATE_STRATEGY_RECREATE
	case lrp.Rolling:
	}
	return workloadv1.UpdateStrategy_UPDATE_STRATEGY_ROLLING
}

func updateStrategyFrom(s workloadv1.UpdateStrategy) lrp.UpdateStrategy {
	switch s {
	case workloadv1.UpdateStrategy_UPDATE_STRATEGY_RECREATE:
		return lrp.Recreate
	case workloadv1.UpdateStrategy_UPDATE_STRATEGY_UNSPECIFIED, workloadv1.UpdateStrategy_UPDATE_STRATEGY_ROLLING:
	}
	return lrp.Rolling
}

// AppendSchedulingInfo appends the encoding of SchedulingInfo(d), the same in every field, without
// making the message: lists of all of them are long, and most of their cost would be that.
func AppendSchedulingInfo(b []byte, d *lrp.Desired) []byte {
	out := message(b).str(1, d.ProcessGUID).str(2, d.Domain).str(3, d.LogGUID).str(4, d.Annotation).
		num(5, uint64(d.Instances)) //nolint:gosec // never negative
	out, end := out.open(6)
	out = out.num(1, uint64(d.Resources.MemoryMB)).num(2, uint64(d.Resources.DiskMB)).num(3, uint64(d.Resources.MaxPids)).close(end) //nolint:gosec // never negative
	out, end = out.open(7)
	out = out.placement(d).close(end)
	out = out.routes(8, d.Routes).metricTags(9, d.MetricTags).
		num(10, uint64(updateStrategy(d.UpdateStrategy))) //nolint:gosec // an enum
	if d.CrashPolicy != nil {
		out, end = out.open(11)
		out = out.optional(1, d.CrashPolicy.ImmediateRestarts).optional(2, d.CrashPolicy.MaxSecondsBetweenRestarts).
			optional(3, d.CrashPolicy.MaxRestartAttempts).close(end)
	}
	return out.str(12, d.ActiveDefinitionID).tag(13, d.Tag).num(14, d.Revision)
}

// AppendRoutingInfo is AppendSchedulingInfo for RoutingInfo(d).
func AppendRoutingInfo(b []byte, d *lrp.Desired) []byte {
	return message(b).str(1, d.ProcessGUID).str(2, d.Domain).str(3, d.LogGUID).
		num(4, uint64(d.Instances)). //nolint:gosec // never negative
		routes(5, d.Routes).metricTags(6, d.MetricTags).tag(7, d.Tag).num(8, d.Revision)
}

// open begins a message in a field, whose length close fills in. Such messages are short, so one byte
// is left for the length, and close makes room if that is not enough.
func (m message) open(field protowire.Number) (message, int) {
	m = append(protowire.AppendTag(m, field, protowire.BytesType), 0)
	return m, len(m)
}

func (m message) close(start int) message {
	size := len(m) - start
	if size < 0x80 {
		m[start-1] = byte(size) //nolint:gosec // checked in the line before
		return m
	}
	var length [10]byte
	encoded := protowire.AppendVarint(length[:0], uint64(size))
	m = append(m, encoded[1:]...)
	copy(m[start+len(encoded)-1:], m[start:start+size])
	copy(m[start-1:], encoded)
	return m
}

func (m message) tag(field protowire.Number, t lrp.ModificationTag) message {
	m, end := m.open(field)
	return m.str(1, t.Epoch).num(2, uint64(t.Index)).close(end)
}

func (m message) placement(d *lrp.Desired) message {
	m = m.str(1, d.Placement.RootFS)
	for _, driver := range d.Placement.VolumeDrivers {
		m = m.text(2, driver)
	}
	for _, tag := range d.Placement.PlacementTags {
		m = m.text(3, tag)
	}
	if d.Placement.Constraint != nil {
		var end int
		m, end = m.open(4)
		for _, tag := range d.Placement.Constraint.Require {
			m = m.text(1, tag)
		}
		m = m.close(end)
	}
	return m
}

func (m message) routes(field protowire.Number, routes []lrp.Route) message {
	for _, route := range routes {
		if route.Router == SecretRouter {
			continue
		}
		var end int
		m, end = m.open(field)
		m = m.text(1, route.Router).bytes(2, route.Value).close(end)
	}
	return m
}

func (m message) metricTags(field protowire.Number, tags []lrp.MetricTag) message {
	for _, tag := range tags {
		entry, end := m.open(field)
		entry = entry.text(1, tag.Name)
		value, valueEnd := entry.open(2)
		if tag.Dynamic == lrp.NotDynamic {
			value = value.text(1, tag.Static)
		} else {
			value = value.num(2, uint64(metricTagValue(tag).GetDynamic())) //nolint:gosec // an enum
		}
		m = value.close(valueEnd).close(end)
	}
	return m
}

// optional appends a number that is there even if it is 0, unless it is nil.
func (m message) optional(field protowire.Number, v *uint32) message {
	if v == nil {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), uint64(*v))
}

package wire

import (
	"slices"
	"strings"

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

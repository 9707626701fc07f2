package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/wire"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

const (
	maxActionDepth = 32
	maxActionNodes = 1000
	// maxMountedFiles bounds the content of all volume-mounted files of a container, in bytes.
	maxMountedFiles = 1 << 20
)

// violations gathers every bad field of a request. What the rules in the .proto files can say is
// checked before a handler runs.
type violations []fault.Violation

func (v *violations) add(field, format string, args ...any) {
	*v = append(*v, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// err returns all of it as one error, or nil.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	return fault.InvalidRequest(v...)
}

// desiredLRP checks an LRP that is to be created.
func (v *violations) desiredLRP(field string, m *workloadv1.DesiredLRP) {
	v.text(field, m)
	v.routes(field+".routes", m.GetRoutes())
	v.crashPolicy(field+".crash_restart_policy", m.GetCrashRestartPolicy())
	v.definition(field+".definition", m.GetDefinition())
}

func (v *violations) definition(field string, m *workloadv1.LRPDefinition) {
	v.container(field+".container", m.GetContainer(), m.GetSetup(), m.GetAction(), m.GetMonitor())
	v.action(field+".setup", m.GetSetup())
	v.action(field+".action", m.GetAction())
	v.action(field+".monitor", m.GetMonitor())
	for i, sidecar := range m.GetSidecars() {
		v.action(fmt.Sprintf("%s.sidecars[%d].action", field, i), sidecar.GetAction())
	}
}

func (v *violations) taskDefinition(field string, m *workloadv1.TaskDefinition) {
	v.text(field, m)
	v.container(field+".container", m.GetContainer(), m.GetAction())
	v.action(field+".action", m.GetAction())
}

func (v *violations) container(field string, c *workloadv1.ContainerSpec, actions ...*workloadv1.Action) {
	for i, rule := range c.GetEgressRules() {
		for j, destination := range rule.GetDestinations() {
			for item := range strings.SplitSeq(destination, ",") {
				if err := checkDestination(item); err != nil {
					v.add(fmt.Sprintf("%s.egress_rules[%d].destinations[%d]", field, i, j), "%v", err)
				}
			}
		}
	}
	total := 0
	for _, file := range c.GetVolumeMountedFiles() {
		total += len(file.GetContent())
	}
	for _, action := range actions {
		total += mountedBytes(action, 0)
	}
	if total > maxMountedFiles {
		v.add(field+".volume_mounted_files", "have %d bytes of content, at most %d are allowed", total, maxMountedFiles)
	}
	v.tags(field+".placement_tags", c.GetPlacementTags())
	v.tags(field+".constraint.require", c.GetConstraint().GetRequire())
	for i, mount := range c.GetVolumeMounts() {
		at := fmt.Sprintf("%s.volume_mounts[%d]", field, i)
		v.jsonText(at+".shared.mount_config", mount.GetShared().GetMountConfig())
		v.jsonText(at+".dedicated.mount_config", mount.GetDedicated().GetMountConfig())
		v.jsonText(at+".dedicated.device_config", mount.GetDedicated().GetDeviceConfig())
	}
}

func (v *violations) tags(field string, tags []string) {
	for i, tag := range tags {
		if strings.TrimSpace(tag) == "" {
			v.add(fmt.Sprintf("%s[%d]", field, i), "must not be blank")
		}
	}
}

func (v *violations) jsonText(field, text string) {
	if text != "" && !json.Valid([]byte(text)) {
		v.add(field, "is not valid JSON")
	}
}

// checkDestination accepts an address, a network, or two addresses of one family joined by a hyphen.
func checkDestination(item string) error {
	item = strings.TrimSpace(item)
	if first, last, isRange := strings.Cut(item, "-"); isRange {
		from, err := netip.ParseAddr(strings.TrimSpace(first))
		if err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
		to, err := netip.ParseAddr(strings.TrimSpace(last))
		switch {
		case err != nil:
			return fmt.Errorf("%q: %w", item, err)
		case from.Is4() != to.Is4():
			return fmt.Errorf("%q: the ends are of two families", item)
		case to.Less(from):
			return fmt.Errorf("%q: the start is after the end", item)
		}
		return nil
	}
	if strings.Contains(item, "/") {
		if _, err := netip.ParsePrefix(item); err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
		return nil
	}
	if _, err := netip.ParseAddr(item); err != nil {
		return fmt.Errorf("%q: %w", item, err)
	}
	return nil
}

// action checks the size of a tree of actions. What is in the nodes is for the rules of the messages.
func (v *violations) action(field string, a *workloadv1.Action) {
	depth, nodes := measure(a, 1)
	if depth > maxActionDepth {
		v.add(field, "is nested more than %d levels deep", maxActionDepth)
	}
	if nodes > maxActionNodes {
		v.add(field, "has more than %d nodes", maxActionNodes)
	}
}

// measure returns the depth and the nodes of a tree. It stops looking once either is too large.
func measure(a *workloadv1.Action, level int) (depth, nodes int) {
	if a == nil {
		return level - 1, 0
	}
	depth, nodes = level, 1
	if level > maxActionDepth {
		return depth, nodes
	}
	for _, child := range children(a) {
		d, n := measure(child, level+1)
		depth, nodes = max(depth, d), nodes+n
		if nodes > maxActionNodes {
			break
		}
	}
	return depth, nodes
}

func children(a *workloadv1.Action) []*workloadv1.Action {
	one := func(child *workloadv1.Action) []*workloadv1.Action {
		if child == nil {
			return nil
		}
		return []*workloadv1.Action{child}
	}
	switch kind := a.GetAction().(type) {
	case *workloadv1.Action_Timeout:
		return one(kind.Timeout.GetAction())
	case *workloadv1.Action_EmitProgress:
		return one(kind.EmitProgress.GetAction())
	case *workloadv1.Action_Try:
		return one(kind.Try.GetAction())
	case *workloadv1.Action_NetCheck:
		return one(kind.NetCheck.GetFallbackAction())
	case *workloadv1.Action_Parallel:
		return kind.Parallel.GetActions()
	case *workloadv1.Action_Serial:
		return kind.Serial.GetActions()
	case *workloadv1.Action_Codependent:
		return kind.Codependent.GetActions()
	}
	return nil
}

// mountedBytes sums the files that run actions bring along.
func mountedBytes(a *workloadv1.Action, level int) int {
	if a == nil || level > maxActionDepth {
		return 0
	}
	total := 0
	for _, file := range a.GetRun().GetVolumeMountedFiles() {
		total += len(file.GetContent())
	}
	for _, child := range children(a) {
		total += mountedBytes(child, level+1)
	}
	return total
}

// routes checks each route, so that all that is wrong is named, and then all together.
func (v *violations) routes(field string, routes map[string][]byte) {
	if _, _, err := lrp.ParseRoutes(routes); err == nil {
		return
	}
	total := 0
	bad := false
	for _, router := range slices.Sorted(maps.Keys(routes)) {
		total += len(routes[router])
		if _, _, err := lrp.ParseRoutes(map[string][]byte{router: routes[router]}); err != nil && len(routes[router]) <= lrp.MaxRoutesBytes {
			v.add(fmt.Sprintf("%s[%q]", field, router), "%v", err)
			bad = true
		}
	}
	if total > lrp.MaxRoutesBytes && !bad {
		v.add(field, "have %d bytes of values, at most %d are allowed", total, lrp.MaxRoutesBytes)
	}
}

func (v *violations) crashPolicy(field string, policy *workloadv1.CrashRestartPolicy) {
	if policy == nil {
		return
	}
	if name, problem := wire.CrashPolicyFrom(policy).Valid(); problem != "" {
		v.add(field+"."+name, "%s", problem)
	}
}

// text refuses zero bytes in all texts of a message but the contents of files: they mean nothing
// anywhere, the database does not store them, and a container cannot be given them.
func (v *violations) text(field string, m proto.Message) {
	// Encodings hardly ever hold a zero byte, and looking for one is much cheaper than the walk.
	buffer := mem.DefaultBufferPool().Get(proto.Size(m))
	defer mem.DefaultBufferPool().Put(buffer)
	encoded, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], m)
	if err == nil && bytes.IndexByte(encoded, 0) < 0 {
		return
	}
	v.textIn(field, m.ProtoReflect(), 0)
}

func (v *violations) textIn(field string, m protoreflect.Message, level int) {
	// Deeper trees of actions are refused anyway.
	if level > 4*maxActionDepth || m.Descriptor().FullName() == "workload.v1.File" {
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		at := field + "." + string(fd.Name())
		switch {
		case fd.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, item protoreflect.Value) bool {
				v.textValue(at, fd.MapKey(), key.Value(), level)
				v.textValue(fmt.Sprintf("%s[%q]", at, key.String()), fd.MapValue(), item, level)
				return true
			})
		case fd.IsList():
			for i := range value.List().Len() {
				v.textValue(fmt.Sprintf("%s[%d]", at, i), fd, value.List().Get(i), level)
			}
		default:
			v.textValue(at, fd, value, level)
		}
		return true
	})
}

func (v *violations) textValue(field string, fd protoreflect.FieldDescriptor, value protoreflect.Value, level int) {
	switch fd.Kind() { //nolint:exhaustive // only texts, and what may hold them, matter
	case protoreflect.StringKind:
		v.plain(field, value.String())
	case protoreflect.MessageKind:
		v.textIn(field, value.Message(), level+1)
	}
}

// plain refuses a zero byte in one text.
func (v *violations) plain(field, text string) {
	if strings.IndexByte(text, 0) >= 0 {
		v.add(field, "must not contain a zero byte")
	}
}

// instance checks the keys of a report of a cell.
func (v *violations) instance(key *workloadv1.ActualLRPKey, by *workloadv1.ActualLRPInstanceKey) {
	v.plain("key.process_guid", key.GetProcessGuid())
	v.plain("key.domain", key.GetDomain())
	v.plain("instance_key.instance_guid", by.GetInstanceGuid())
	v.plain("instance_key.cell_id", by.GetCellId())
}

// clean takes zero bytes out of what a container or a cell said: it may say anything.
func clean(text string) string {
	if strings.IndexByte(text, 0) < 0 {
		return text
	}
	return strings.ReplaceAll(text, "\x00", "")
}

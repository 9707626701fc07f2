package story

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	workloadv1 "diego.internal/proto/workload/v1"
)

const (
	unclaimed = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED
	claimed   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	running   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	crashed   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED

	ordinary   = workloadv1.Presence_PRESENCE_ORDINARY
	evacuating = workloadv1.Presence_PRESENCE_EVACUATING
	suspect    = workloadv1.Presence_PRESENCE_SUSPECT
)

func subject(key *workloadv1.ActualLRPKey) string {
	return fmt.Sprintf("%s/%d", key.GetProcessGuid(), key.GetIndex())
}

// state in one sentence.
func state(l *workloadv1.ActualLRP) string {
	cell := l.GetInstanceKey().GetCellId()
	switch {
	case l.GetPresence() == suspect:
		return "suspect: its cell is lost"
	case l.GetPresence() == evacuating:
		return "evacuating"
	case l.GetState() == unclaimed && l.GetPlacementError() != "":
		return "has no place"
	case l.GetState() == unclaimed && l.GetCrashCount() > 0:
		return fmt.Sprintf("waits for a cell, after %d crashes", l.GetCrashCount())
	case l.GetState() == unclaimed:
		return "waits for a cell"
	case l.GetState() == claimed:
		return "claimed by " + cell
	case l.GetState() == running:
		return "runs on " + cell
	case l.GetState() == crashed:
		return "is down after a crash"
	default:
		return strings.ToLower(strings.TrimPrefix(l.GetState().String(), "ACTUAL_LRP_STATE_"))
	}
}

func actualLine(l *workloadv1.ActualLRP, what string) Line {
	return Line{
		Subject: subject(l.GetKey()), What: what, CellID: l.GetInstanceKey().GetCellId(),
		Bad: l.GetPresence() == suspect || l.GetState() == crashed || l.GetPlacementError() != "",
	}
}

func actualCreated(l *workloadv1.ActualLRP) Line {
	line := actualLine(l, state(l))
	line.Reason = l.GetPlacementError()
	return line
}

func actualRemoved(l *workloadv1.ActualLRP) Line {
	what := map[workloadv1.Presence]string{ordinary: "record", evacuating: "evacuating record", suspect: "suspect record"}[l.GetPresence()]
	line := actualLine(l, cmp.Or(what, "record")+" removed")
	line.Bad = false
	return line
}

func actualChanged(before, after *workloadv1.ActualLRP) Line {
	line := actualLine(after, state(after))
	line.CellID = cmp.Or(line.CellID, before.GetInstanceKey().GetCellId())
	switch {
	case before.GetPresence() == suspect && after.GetPresence() == ordinary:
		line.What = "its cell is back: " + line.What
	case before.GetPresence() != after.GetPresence(), before.GetState() != after.GetState():
	case before.GetPlacementError() != after.GetPlacementError():
		line.Reason = after.GetPlacementError()
	case before.GetRoutable() != after.GetRoutable():
		line.What, line.Bad = "routable", !after.GetRoutable()
		if !after.GetRoutable() {
			line.What = "not routable any more: readiness checks fail"
		}
	case !proto.Equal(before.GetInstanceKey(), after.GetInstanceKey()):
		line.What = "another instance " + line.What
	default:
		line.What = "changed: " + strings.Join(actualParts(before, after), ", ")
	}
	if before.GetState() != after.GetState() {
		switch after.GetState() { //nolint:exhaustive // the others have no reason
		case unclaimed:
			line.Reason = after.GetPlacementError()
		case crashed:
			line.Reason = after.GetCrashReason()
		}
	}
	return line
}

// actualParts names the members that changed while the instance stayed what it was.
func actualParts(before, after *workloadv1.ActualLRP) []string {
	var parts []string
	for _, part := range []struct {
		name    string
		changed bool
	}{
		{"addresses", !proto.Equal(before.GetNetInfo(), after.GetNetInfo())},
		{"internal routes", !slices.Equal(before.GetInternalRoutes(), after.GetInternalRoutes())},
		{"metric tags", !maps.Equal(before.GetMetricTags(), after.GetMetricTags())},
		{"zone", before.GetAvailabilityZone() != after.GetAvailabilityZone()},
		{"crash count", before.GetCrashCount() != after.GetCrashCount()},
	} {
		if part.changed {
			parts = append(parts, part.name)
		}
	}
	if len(parts) == 0 {
		return []string{"details"}
	}
	return parts
}

func desiredChanged(before, after *workloadv1.SchedulingInfo) Line {
	var parts []string
	if b, a := before.GetInstances(), after.GetInstances(); b != a {
		parts = append(parts, fmt.Sprintf("instances %d -> %d", b, a))
	}
	if before.GetActiveDefinitionId() != after.GetActiveDefinitionId() {
		parts = append(parts, "definition -> "+after.GetActiveDefinitionId())
	}
	for _, part := range []struct {
		name    string
		changed bool
	}{
		{"routes", !maps.EqualFunc(before.GetRoutes(), after.GetRoutes(), bytes.Equal)},
		{"annotation", before.GetAnnotation() != after.GetAnnotation()},
		{"resources", !proto.Equal(before.GetResources(), after.GetResources())},
		{"placement", !proto.Equal(before.GetPlacement(), after.GetPlacement())},
		{"crash policy", !proto.Equal(before.GetCrashRestartPolicy(), after.GetCrashRestartPolicy())},
		{"metric tags", !maps.EqualFunc(before.GetMetricTags(), after.GetMetricTags(), func(x, y *workloadv1.MetricTagValue) bool { return proto.Equal(x, y) })},
	} {
		if part.changed {
			parts = append(parts, part.name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"details"}
	}
	return Line{Subject: after.GetProcessGuid(), What: "changed: " + strings.Join(parts, ", ")}
}

func taskChanged(before, after *workloadv1.Task) Line {
	line := Line{Subject: after.GetTaskGuid(), CellID: cmp.Or(after.GetCellId(), before.GetCellId())}
	switch {
	case before.GetState() == after.GetState() && after.GetRejectionCount() > before.GetRejectionCount(),
		before.GetState() == workloadv1.TaskState_TASK_STATE_RUNNING && after.GetState() == workloadv1.TaskState_TASK_STATE_PENDING:
		line.What, line.Reason, line.Bad = "task has no place", after.GetRejectionReason(), true
	case before.GetState() == after.GetState():
		line.What = "task changed"
	case after.GetState() == workloadv1.TaskState_TASK_STATE_RUNNING:
		line.What = "task runs on " + after.GetCellId()
	case after.GetState() == workloadv1.TaskState_TASK_STATE_COMPLETED && after.GetFailed():
		line.What, line.Reason, line.Bad = "task failed", after.GetFailureReason(), true
	case after.GetState() == workloadv1.TaskState_TASK_STATE_COMPLETED:
		line.What = "task succeeded"
	case after.GetState() == workloadv1.TaskState_TASK_STATE_RESOLVING:
		line.What = "task is being picked up by its owner"
	default:
		line.What = "task is " + strings.ToLower(strings.TrimPrefix(after.GetState().String(), "TASK_STATE_"))
	}
	return line
}

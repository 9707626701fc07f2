package spec

import (
	bbsv1 "diego.internal/proto/bbs/v1"
)

// Event is one line of an event stream.
type Event struct {
	Type string `json:"type"`
	Data any    `json:"data"`
	// Revision of the change; with it a stream can be taken up again.
	Revision uint64 `json:"revision,omitempty"`
	At       int64  `json:"at,omitempty"`
	TraceID  string `json:"trace_id,omitempty"`
	// Record is the record of the event as it is after it, or was last.
	Record any `json:"-"`
}

// changed is the data of a change of a record.
type changed[T any] struct {
	Before T `json:"before"`
	After  T `json:"after"`
}

// changedInstance is a change of a record with the keys beside it, by which a stream is filtered.
type changedInstance struct {
	ProcessGUID  string `json:"process_guid"`
	Index        int32  `json:"index"`
	Domain       string `json:"domain"`
	InstanceGUID string `json:"instance_guid"`
	CellID       string `json:"cell_id"`
	changed[ActualLRP]
}

func changedInstanceOf(before, after ActualLRP) changedInstance {
	out := changedInstance{
		ProcessGUID: after.ProcessGUID, Index: after.Index, Domain: after.Domain, InstanceGUID: after.InstanceGUID, CellID: after.CellID,
		changed: changed[ActualLRP]{Before: before, After: after},
	}
	if after.InstanceGUID == "" { // it was taken from its cell by this change
		out.InstanceGUID, out.CellID = before.InstanceGUID, before.CellID
	}
	return out
}

// EventOf shows an event. It returns false for one of a kind that it does not know.
func EventOf(e *bbsv1.Event) (Event, bool) {
	kind, data := content(e)
	return Event{Type: kind, Data: data, TraceID: e.GetTraceId(), Record: record(data)}, kind != ""
}

// record finds the one record in the data of an event.
func record(data any) any {
	switch d := data.(type) {
	case changed[SchedulingInfo]:
		return d.After
	case changedInstance:
		return d.After
	case changed[Task]:
		return d.After
	case map[string]any:
		for _, name := range []string{"desired_lrp", "actual_lrp", "task"} {
			if r, ok := d[name]; ok {
				return r
			}
		}
	}
	return data
}

func content(e *bbsv1.Event) (kind string, data any) {
	switch event := e.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		return "desired_lrp_created", map[string]any{"desired_lrp": SchedulingInfoOf(event.DesiredLrpCreated.GetDesiredLrp())}
	case *bbsv1.Event_DesiredLrpChanged:
		c := event.DesiredLrpChanged
		return "desired_lrp_changed", changed[SchedulingInfo]{SchedulingInfoOf(c.GetBefore()), SchedulingInfoOf(c.GetAfter())}
	case *bbsv1.Event_DesiredLrpRemoved:
		return "desired_lrp_removed", map[string]any{"desired_lrp": SchedulingInfoOf(event.DesiredLrpRemoved.GetDesiredLrp())}
	case *bbsv1.Event_ActualLrpInstanceCreated:
		return "actual_lrp_instance_created", map[string]any{"actual_lrp": ActualLRPOf(event.ActualLrpInstanceCreated.GetActualLrp())}
	case *bbsv1.Event_ActualLrpInstanceChanged:
		c := event.ActualLrpInstanceChanged
		return "actual_lrp_instance_changed", changedInstanceOf(ActualLRPOf(c.GetBefore()), ActualLRPOf(c.GetAfter()))
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		return "actual_lrp_instance_removed", map[string]any{"actual_lrp": ActualLRPOf(event.ActualLrpInstanceRemoved.GetActualLrp())}
	case *bbsv1.Event_ActualLrpCrashed:
		return "actual_lrp_crashed", crashOf(event.ActualLrpCrashed)
	case *bbsv1.Event_TaskCreated:
		return "task_created", map[string]any{"task": TaskOf(event.TaskCreated.GetTask())}
	case *bbsv1.Event_TaskChanged:
		return "task_changed", changed[Task]{TaskOf(event.TaskChanged.GetBefore()), TaskOf(event.TaskChanged.GetAfter())}
	case *bbsv1.Event_TaskRemoved:
		return "task_removed", map[string]any{"task": TaskOf(event.TaskRemoved.GetTask())}
	case *bbsv1.Event_DomainChanged:
		d := event.DomainChanged
		return "domain_changed", map[string]any{"domain": d.GetDomain().GetDomain(), "fresh": d.GetFresh()}
	default:
		return "", nil
	}
}

// crash is the data of a crash.
type crash struct {
	ProcessGUID  string `json:"process_guid"`
	Index        int32  `json:"index"`
	Domain       string `json:"domain"`
	InstanceGUID string `json:"instance_guid"`
	CellID       string `json:"cell_id"`
	CrashCount   int32  `json:"crash_count"`
	CrashReason  string `json:"crash_reason"`
	Since        int64  `json:"since"`
}

func crashOf(c *bbsv1.ActualLRPCrashed) crash {
	return crash{
		ProcessGUID: c.GetKey().GetProcessGuid(), Index: c.GetKey().GetIndex(), Domain: c.GetKey().GetDomain(),
		InstanceGUID: c.GetInstanceKey().GetInstanceGuid(), CellID: c.GetInstanceKey().GetCellId(),
		CrashCount: c.GetCrashCount(), CrashReason: c.GetCrashReason(), Since: nanoseconds(c.GetSince()),
	}
}

package spec

import (
	"reflect"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// TaskDefinition in the flat form.
type TaskDefinition struct {
	Container
	Action                *Action `json:"action,omitempty"`
	ResultFile            string  `json:"result_file,omitempty"`
	CompletionCallbackURL string  `json:"completion_callback_url,omitempty"`
	Annotation            string  `json:"annotation,omitempty"`
}

// Task as it is shown. The members of its definition stand beside the others.
type Task struct {
	TaskGUID         string `json:"task_guid"`
	Domain           string `json:"domain"`
	CreatedAt        int64  `json:"created_at"`
	UpdatedAt        int64  `json:"updated_at"`
	FirstCompletedAt int64  `json:"first_completed_at,omitempty"`
	State            string `json:"state"`
	CellID           string `json:"cell_id"`
	InstanceGUID     string `json:"instance_guid,omitempty"`
	Result           string `json:"result"`
	Failed           bool   `json:"failed"`
	FailureReason    string `json:"failure_reason"`
	RejectionCount   int32  `json:"rejection_count,omitempty"`
	RejectionReason  string `json:"rejection_reason,omitempty"`
	*TaskDefinition
}

// taskRequest is what create-task takes: the definition in a member of its own, or beside the others.
type taskRequest struct {
	TaskGUID        string          `json:"task_guid"`
	Domain          string          `json:"domain"`
	Definition      *TaskDefinition `json:"task_definition,omitempty"`
	OtherDefinition *TaskDefinition `json:"definition,omitempty"`
	TaskDefinition
}

// ParseTask reads what create-task takes.
func ParseTask(text []byte) (*bbsv1.DesireTaskRequest, error) {
	var in taskRequest
	if err := decode(text, &in); err != nil {
		return nil, err
	}
	var p problems
	definition := in.definition(&p)
	container, err := definition.message()
	p.take("", err)
	out := &bbsv1.DesireTaskRequest{
		TaskGuid: in.TaskGUID, Domain: in.Domain,
		TaskDefinition: &workloadv1.TaskDefinition{
			Container: container, Action: definition.Action.message(&p, "action"), ResultFile: definition.ResultFile,
			CompletionCallbackUrl: definition.CompletionCallbackURL, Annotation: definition.Annotation,
			MetricTags: metricTags(&p, definition.MetricTags, definition.MetricsGUID),
		},
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// definition is where the request has it. Members beside a definition of its own would be ignored, so they are refused.
func (r *taskRequest) definition(p *problems) *TaskDefinition {
	var found []*TaskDefinition
	for _, d := range []*TaskDefinition{r.Definition, r.OtherDefinition, &r.TaskDefinition} {
		if d != nil && !reflect.ValueOf(*d).IsZero() {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return &TaskDefinition{}
	case 1:
	default:
		p.add("task_definition", "must be given once: as task_definition, as definition, or by members beside the others")
	}
	return found[0]
}

// TaskOf shows a task.
func TaskOf(t *workloadv1.Task) Task {
	out := Task{
		TaskGUID: t.GetTaskGuid(), Domain: t.GetDomain(), CreatedAt: nanoseconds(t.GetCreatedAt()), UpdatedAt: nanoseconds(t.GetUpdatedAt()),
		FirstCompletedAt: nanoseconds(t.GetFirstCompletedAt()), State: TaskState(t.GetState()), CellID: t.GetCellId(), InstanceGUID: t.GetInstanceGuid(),
		Result: t.GetResult(), Failed: t.GetFailed(), FailureReason: t.GetFailureReason(), RejectionCount: t.GetRejectionCount(), RejectionReason: t.GetRejectionReason(),
	}
	if d := t.GetDefinition(); d != nil {
		out.TaskDefinition = &TaskDefinition{
			Container: containerOf(d.GetContainer(), d.GetMetricTags()), Action: actionOf(d.GetAction()), ResultFile: d.GetResultFile(),
			CompletionCallbackURL: d.GetCompletionCallbackUrl(), Annotation: d.GetAnnotation(),
		}
	}
	return out
}

// TaskState is the state as operators know it: Pending, Running, Completed, Resolving.
func TaskState(s workloadv1.TaskState) string {
	switch s {
	case workloadv1.TaskState_TASK_STATE_PENDING:
		return "Pending"
	case workloadv1.TaskState_TASK_STATE_RUNNING:
		return "Running"
	case workloadv1.TaskState_TASK_STATE_COMPLETED:
		return "Completed"
	case workloadv1.TaskState_TASK_STATE_RESOLVING:
		return "Resolving"
	case workloadv1.TaskState_TASK_STATE_UNSPECIFIED:
		return "Invalid"
	default:
		return "Invalid"
	}
}

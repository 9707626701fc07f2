package faults

import (
	"context"
	"fmt"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

const (
	unclaimed = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED
	claimed   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED
	running   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING

	taskPending   = workloadv1.TaskState_TASK_STATE_PENDING
	taskRunning   = workloadv1.TaskState_TASK_STATE_RUNNING
	taskCompleted = workloadv1.TaskState_TASK_STATE_COMPLETED
	taskResolving = workloadv1.TaskState_TASK_STATE_RESOLVING

	// mostCrashes keeps the crashes of an instance below the number from which on it would wait.
	mostCrashes = 7
	// mostRejections keeps a task from failing by itself.
	mostRejections = 2
)

// operation is one write that the rules allow in the present state, and what it makes of that.
type operation struct {
	name string
	// call makes the request. It returns what only the answer tells, if anything: the guid of a run.
	call func(context.Context) (run string, err error)
	// after is the state once it is done; it is given a copy.
	after state
}

// choices are all operations that the rules allow now.
func (w *worker) choices() []func(state) operation {
	s := w.want
	all := w.taskChoices()
	if !s.desired {
		left := false
		for index := range int32(maxInstances) {
			if s.rows[index] != (instance{}) {
				left = true
				all = append(all, w.at(index, w.removeActual))
			}
		}
		if !left {
			all = append(all, w.desire)
		}
		return all
	}
	all = append(all, w.update)
	if w.random.IntN(20) == 0 {
		all = append(all, w.remove)
	}
	for index := range s.instances {
		row := s.rows[index]
		all = append(all, w.at(index, w.start))
		if row.state == unclaimed {
			all = append(all, w.at(index, w.claim))
		}
		if row.held() && row.crashes < mostCrashes {
			all = append(all, w.at(index, w.crash))
		}
	}
	return all
}

func (w *worker) at(index int32, of func(state, int32) operation) func(state) operation {
	return func(s state) operation { return of(s, index) }
}

func static(s string) *workloadv1.MetricTagValue {
	return &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Static{Static: s}}
}

func (w *worker) container() *workloadv1.ContainerSpec {
	return &workloadv1.ContainerSpec{
		RootFs: "preloaded:busybox", Env: []*workloadv1.EnvironmentVariable{{Name: "SECRET", Value: w.name("secret")}},
	}
}

func action() *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "/bin/true", User: "vcap"}}}
}

func (w *worker) desire(s state) operation {
	instances, annotation := 1+w.random.Int32N(maxInstances), w.name("note")
	restarts, attempts := uint32(9), uint32(0)
	request := &bbsv1.DesireLRPRequest{DesiredLrp: &workloadv1.DesiredLRP{
		ProcessGuid: w.guid, Domain: w.domain, Instances: instances, Annotation: annotation,
		MetricTags:         map[string]*workloadv1.MetricTagValue{"source_id": static(w.guid)},
		Routes:             map[string][]byte{"cf-router": []byte(`[{"hostnames":["a"],"port":8080}]`)},
		CrashRestartPolicy: &workloadv1.CrashRestartPolicy{NumberOfImmediateRestarts: &restarts, MaxRestartAttempts: &attempts},
		Definition:         &workloadv1.LRPDefinition{Container: w.container(), Action: action()},
	}}
	s.desired, s.instances, s.annotation, s.version = true, instances, annotation, 0
	for index := range instances {
		s.rows[index] = instance{state: unclaimed}
	}
	return operation{name: "desire", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.desired.DesireLRP(ctx, request)
		return "", err
	}}
}

// update changes the annotation and, where nothing has to be stopped for it, the instances.
func (w *worker) update(s state) operation {
	s.annotation, s.version = w.name("note"), s.version+1
	request := &workloadv1.DesiredLRPUpdate{Annotation: &s.annotation}
	if instances := 1 + w.random.Int32N(maxInstances); w.canScale(s, instances) {
		request.Instances = &instances
		for index := range int32(maxInstances) {
			switch {
			case index >= instances:
				s.rows[index] = instance{}
			case index >= s.instances:
				s.rows[index] = instance{state: unclaimed}
			}
		}
		s.instances = instances
	}
	return operation{name: "update", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.desired.UpdateDesiredLRP(ctx, &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: w.guid, Update: request})
		return "", err
	}}
}

func (w *worker) canScale(s state, instances int32) bool {
	for index := instances; index < maxInstances; index++ {
		if s.rows[index].held() {
			return false
		}
	}
	return true
}

func (w *worker) remove(s state) operation {
	s.desired, s.instances, s.annotation, s.version = false, 0, "", 0
	for index := range s.rows {
		if !s.rows[index].held() { // else its cell is to remove it
			s.rows[index] = instance{}
		}
	}
	return operation{name: "remove", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.desired.RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: w.guid})
		return "", err
	}}
}

func (w *worker) key(index int32) *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: w.guid, Index: index, Domain: w.domain}
}

func (w *worker) instanceKey(guid string) *workloadv1.ActualLRPInstanceKey {
	return &workloadv1.ActualLRPInstanceKey{InstanceGuid: guid, CellId: w.cellID}
}

func (w *worker) removeActual(s state, index int32) operation {
	guid := s.rows[index].guid
	s.rows[index] = instance{}
	return operation{name: "remove-actual", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.lrps.RemoveActualLRP(ctx, &bbsv1.RemoveActualLRPRequest{ProcessGuid: w.guid, Index: index, InstanceKey: w.instanceKey(guid)})
		return "", err
	}}
}

func (w *worker) claim(s state, index int32) operation {
	row := &s.rows[index]
	row.state, row.guid, row.version = claimed, w.name("instance"), row.version+1
	by := w.instanceKey(row.guid)
	return operation{name: "claim", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.lrps.ClaimActualLRP(ctx, &bbsv1.ClaimActualLRPRequest{ProcessGuid: w.guid, Index: index, InstanceKey: by})
		return "", err
	}}
}

// start reports that an instance runs, or runs behind another port.
func (w *worker) start(s state, index int32) operation {
	row := &s.rows[index]
	if row.guid == "" {
		row.guid = w.name("instance")
	}
	w.ports++
	row.state, row.version, row.port = running, row.version+1, 1024+w.ports%60000
	request := &bbsv1.StartActualLRPRequest{
		Key: w.key(index), InstanceKey: w.instanceKey(row.guid), MetricTags: map[string]string{"source_id": w.guid},
		NetInfo: &workloadv1.ActualLRPNetInfo{Address: "10.0.0.1", Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: row.port}}},
	}
	return operation{name: "start", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.lrps.StartActualLRP(ctx, request)
		return "", err
	}}
}

func (w *worker) crash(s state, index int32) operation {
	row := &s.rows[index]
	request := &bbsv1.CrashActualLRPRequest{Key: w.key(index), InstanceKey: w.instanceKey(row.guid), CrashReason: w.name("reason")}
	*row = instance{state: unclaimed, crashes: row.crashes + 1, reason: request.GetCrashReason(), version: row.version + 1}
	return operation{name: "crash", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.lrps.CrashActualLRP(ctx, request)
		return "", err
	}}
}

func (w *worker) taskGUID() string { return fmt.Sprintf("%s-task-%d", w.guid, w.tasks) }

// taskChoices are the operations on the worker's task.
func (w *worker) taskChoices() []func(state) operation {
	switch w.want.task.state { //nolint:exhaustive // the default is that there is none
	case taskPending:
		return []func(state) operation{w.startTask, w.startTask, w.cancelTask}
	case taskRunning:
		all := []func(state) operation{w.completeTask, w.completeTask, w.cancelTask}
		if w.want.task.rejections < mostRejections {
			all = append(all, w.rejectTask, w.rejectTask)
		}
		return all
	case taskCompleted:
		return []func(state) operation{w.resolveTask}
	case taskResolving:
		return []func(state) operation{w.deleteTask}
	default:
		return []func(state) operation{w.desireTask}
	}
}

func (w *worker) desireTask(s state) operation {
	s.task = taskState{state: taskPending}
	w.tasks++ // a guid is never used again, so whoever has the old task is found out
	request := &bbsv1.DesireTaskRequest{
		TaskGuid: w.taskGUID(), Domain: w.domain,
		TaskDefinition: &workloadv1.TaskDefinition{Container: w.container(), Action: action()},
	}
	return operation{name: "desire-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.tasks.DesireTask(ctx, request)
		return "", err
	}}
}

func (w *worker) startTask(s state) operation {
	s.task.state, s.task.run = taskRunning, ""
	guid := w.taskGUID()
	return operation{name: "start-task", after: s, call: func(ctx context.Context) (string, error) {
		resp, err := w.cell.tasks.StartTask(ctx, &bbsv1.StartTaskRequest{TaskGuid: guid, CellId: w.cellID})
		if resp.GetShouldStart() {
			w.permissions[guid+" "+resp.GetTask().GetInstanceGuid()]++
		}
		return resp.GetTask().GetInstanceGuid(), err
	}}
}

func (w *worker) rejectTask(s state) operation {
	request := &bbsv1.RejectTaskRequest{
		TaskGuid: w.taskGUID(), CellId: w.cellID, InstanceGuid: s.task.run, RejectionReason: w.name("reason"),
	}
	s.task = taskState{state: taskPending, rejections: s.task.rejections + 1, rejection: request.GetRejectionReason()}
	return operation{name: "reject-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.tasks.RejectTask(ctx, request)
		return "", err
	}}
}

func (w *worker) completeTask(s state) operation {
	request := &bbsv1.CompleteTaskRequest{TaskGuid: w.taskGUID(), CellId: w.cellID, InstanceGuid: s.task.run, Result: w.name("result")}
	s.task.state, s.task.run, s.task.result = taskCompleted, "", request.GetResult()
	return operation{name: "complete-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.cell.tasks.CompleteTask(ctx, request)
		return "", err
	}}
}

func (w *worker) cancelTask(s state) operation {
	guid := w.taskGUID()
	s.task.state, s.task.run, s.task.failed, s.task.reason = taskCompleted, "", true, "task was cancelled"
	return operation{name: "cancel-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.tasks.CancelTask(ctx, &bbsv1.CancelTaskRequest{TaskGuid: guid})
		return "", err
	}}
}

func (w *worker) resolveTask(s state) operation {
	guid := w.taskGUID()
	s.task.state = taskResolving
	return operation{name: "resolve-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.tasks.ResolvingTask(ctx, &bbsv1.ResolvingTaskRequest{TaskGuid: guid})
		return "", err
	}}
}

func (w *worker) deleteTask(s state) operation {
	guid := w.taskGUID()
	s.task = taskState{}
	return operation{name: "delete-task", after: s, call: func(ctx context.Context) (string, error) {
		_, err := w.operator.tasks.DeleteTask(ctx, &bbsv1.DeleteTaskRequest{TaskGuid: guid})
		return "", err
	}}
}

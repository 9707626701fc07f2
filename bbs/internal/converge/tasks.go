package converge

import (
	"diego.internal/bbs/internal/task"
)

// TaskAction says what is to become of a task. The zero value is nothing.
type TaskAction uint8

// The actions on tasks.
const (
	TaskNothing TaskAction = iota
	// TaskExpirePending fails a task that waited for a cell too long.
	TaskExpirePending
	// TaskLose fails a task whose cell is lost.
	TaskLose
	// TaskDemote takes a task away from one who resolves it for too long.
	TaskDemote
	// TaskExpireCompleted deletes a task whose outcome nobody took.
	TaskExpireCompleted
	// TaskForgetCell gives up telling the cell of a cancelled task, because it is lost.
	TaskForgetCell
)

func (a TaskAction) String() string {
	names := [...]string{"nothing", "expire-pending", "lose", "demote", "expire-completed", "forget-cell"}
	if int(a) < len(names) {
		return names[a]
	}
	return "unknown"
}

// ConvergeTask does to a task whatever is to be done now. after is t itself if that is nothing, and
// nil if the task is to be deleted; the actions taken are returned in order.
func (v *View) ConvergeTask(t *task.Task) (after *task.Task, taken []TaskAction) {
	after = t
	for after != nil {
		action := v.decideTask(after)
		if action == TaskNothing {
			break
		}
		after = v.actTask(action, after)
		taken = append(taken, action)
	}
	return after, taken
}

func (v *View) decideTask(t *task.Task) TaskAction {
	now := v.Now.UnixNano()
	if t.CancelStands() && v.Cells[t.CellID] == Lost {
		return TaskForgetCell
	}
	switch t.State {
	case task.Pending:
		if now-t.CreatedAt > v.Config.ExpirePendingTask.Nanoseconds() {
			return TaskExpirePending
		}
	case task.Running:
		if v.Cells[t.CellID] == Lost {
			return TaskLose
		}
	case task.Resolving:
		if now-t.UpdatedAt > v.Config.KickTask.Nanoseconds() {
			return TaskDemote
		}
	case task.Completed:
		if now-t.FirstCompletedAt > v.Config.ExpireCompletedTask.Nanoseconds() {
			return TaskExpireCompleted
		}
	}
	return TaskNothing
}

// actTask performs an action that decideTask has just chosen, so no transition is refused.
func (v *View) actTask(action TaskAction, t *task.Task) *task.Task {
	var after *task.Task
	var err error
	switch action {
	case TaskExpirePending:
		after, err = task.Fail(t, task.ReasonNotStarted, v.Now)
	case TaskLose:
		after, err = task.Fail(t, task.ReasonCellDisappeared, v.Now)
	case TaskDemote:
		after, err = task.Demote(t)
	case TaskForgetCell:
		after = task.CancelTold(t, task.Run{CellID: t.CellID, InstanceGUID: t.InstanceGUID})
	case TaskExpireCompleted, TaskNothing:
	}
	if err != nil {
		return t
	}
	return after
}

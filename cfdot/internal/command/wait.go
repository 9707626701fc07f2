package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

var errTaskGone = fault.New(codes.NotFound, "ResourceNotFound", "there is no such task, or no longer")

// usualWait is how long to wait unless the user says otherwise.
const usualWait = 2 * time.Minute

// wait ends when something has come about. It follows events and polls nothing.
func (a *app) wait() []*cobra.Command {
	parent := &cobra.Command{
		Use: "wait", Short: "Wait until instances run, or a task has ended", Args: exactly("lrp or task"),
		Example: "  cfdot wait lrp my-app --timeout 5m\n  cfdot wait lrp my-app --running 3\n  cfdot wait task my-task",
	}
	parent.RunE = func(_ *cobra.Command, args []string) error { return usage("wait for lrp or task, not %q", args[0]) }
	parent.AddCommand(a.waitLRP(), a.waitTask())
	return []*cobra.Command{parent}
}

// waitFlags of wait lrp.
type waitFlags struct {
	running  int
	all      bool // as many as are desired, whatever that becomes
	routable bool
	gone     bool
}

func (a *app) waitLRP() *cobra.Command {
	var w waitFlags
	var timeout time.Duration
	command := &cobra.Command{
		Use: "lrp PROCESS_GUID", Short: "Wait until so many instances run, by default as many as are desired", Args: exactly("PROCESS_GUID"),
		Long:    "Wait until so many indices have an instance that runs; exit 7 if the time is over before. What is waited for is said on a terminal.",
		Example: "  cfdot wait lrp my-app --running 3 --timeout 2m\n  cfdot update-desired-lrp my-app '{\"instances\": 5}' && cfdot wait lrp my-app --routable\n  cfdot delete-desired-lrp my-app && cfdot wait lrp my-app --gone",
	}
	command.Flags().IntVar(&w.running, "running", 0, "how many; default as many as are desired")
	command.Flags().BoolVar(&w.routable, "routable", false, "count only those that take requests")
	command.Flags().BoolVar(&w.gone, "gone", false, "wait until it has no instance left")
	waitTimeout(command, &timeout)
	command.RunE = func(c *cobra.Command, args []string) error {
		w.all = !c.Flags().Changed("running") && !w.gone
		if w.running < 0 {
			return usage("--running must not be negative, is %d", w.running)
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			seen := &lrpSeen{want: w, records: map[string]*workloadv1.ActualLRP{}}
			err := a.waitFor(ctx, conn, timeout, args[0], seen, []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP})
			if err != nil || !a.flags.format.ForPeople() {
				return err
			}
			_, state, _ := seen.done()
			_, err = fmt.Fprintf(a.Stdout, "%s: %s\n", args[0], state)
			return err
		})(c, args)
	}
	return command
}

// waitTimeout is a flag of the command's own in place of that for requests, which a wait does not need in seconds.
func waitTimeout(command *cobra.Command, timeout *time.Duration) {
	command.Flags().DurationVar(timeout, "timeout", usualWait, "how long to wait; 0 is for ever")
}

// waitedFor learns from a watch and says when it is enough.
type waitedFor interface {
	reset()
	chunk(*bbsv1.WatchResponse_SnapshotChunk)
	event(*bbsv1.Event)
	// done says whether it is enough, or that it can never be, and how things are.
	done() (enough bool, state string, err error)
}

// waitFor follows one process or task until it is enough or the time is over.
func (a *app) waitFor(ctx context.Context, conn grpc.ClientConnInterface, timeout time.Duration, guid string, w waitedFor, kinds []bbsv1.WatchKind) error {
	if timeout < 0 {
		return usage("--timeout must not be negative, is %v", timeout)
	}
	limited := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	f := &feed{app: a, request: &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}, Kinds: kinds, ProcessGuids: []string{guid}}}
	state, synced := "nothing is known of it", false
	look := func() error {
		enough, now, err := w.done()
		if now != state && !enough && a.flags.format.ForPeople() {
			a.complain(fmt.Errorf("%s: %s", guid, now))
		}
		state = now
		if enough {
			return errEnough
		}
		return err
	}
	f.reset = func(uint64, bbsv1.WatchResponse_Reason) error {
		w.reset()
		synced = false
		return nil
	}
	f.chunk = func(chunk *bbsv1.WatchResponse_SnapshotChunk) error {
		w.chunk(chunk)
		return nil
	}
	f.synced = func() error {
		synced = true
		return look()
	}
	f.event = func(event *bbsv1.Event, _ change) error {
		w.event(event)
		if !synced {
			return nil
		}
		return look()
	}
	err := f.run(limited, bbsv1.NewWatchClient(conn))
	if ctx.Err() == nil && limited.Err() != nil {
		return late("%s: %s after %v", guid, state, timeout)
	}
	return err
}

// lrpSeen is what is known of a process that is waited for.
type lrpSeen struct {
	want    waitFlags
	desired *workloadv1.SchedulingInfo
	records map[string]*workloadv1.ActualLRP
}

func (l *lrpSeen) reset() { l.desired, l.records = nil, map[string]*workloadv1.ActualLRP{} }

func recordKey(r *workloadv1.ActualLRP) string {
	return fmt.Sprintf("%d/%s/%s", r.GetKey().GetIndex(), r.GetPresence(), r.GetInstanceKey().GetInstanceGuid())
}

func (l *lrpSeen) chunk(chunk *bbsv1.WatchResponse_SnapshotChunk) {
	for _, info := range chunk.GetDesiredLrps() {
		l.desired = info
	}
	for _, record := range chunk.GetActualLrps() {
		l.records[recordKey(record)] = record
	}
}

func (l *lrpSeen) event(event *bbsv1.Event) {
	switch e := event.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		l.desired = e.DesiredLrpCreated.GetDesiredLrp()
	case *bbsv1.Event_DesiredLrpChanged:
		l.desired = e.DesiredLrpChanged.GetAfter()
	case *bbsv1.Event_DesiredLrpRemoved:
		l.desired = nil
	case *bbsv1.Event_ActualLrpInstanceCreated:
		l.records[recordKey(e.ActualLrpInstanceCreated.GetActualLrp())] = e.ActualLrpInstanceCreated.GetActualLrp()
	case *bbsv1.Event_ActualLrpInstanceChanged:
		delete(l.records, recordKey(e.ActualLrpInstanceChanged.GetBefore()))
		l.records[recordKey(e.ActualLrpInstanceChanged.GetAfter())] = e.ActualLrpInstanceChanged.GetAfter()
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		delete(l.records, recordKey(e.ActualLrpInstanceRemoved.GetActualLrp()))
	}
}

func (l *lrpSeen) done() (enough bool, state string, err error) {
	if l.want.gone {
		return len(l.records) == 0, output.Count(len(l.records), "record is left", "records are left"), nil
	}
	running := map[int32]bool{}
	problem := ""
	for _, r := range l.records {
		if r.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING && (r.GetRoutable() || !l.want.routable) {
			running[r.GetKey().GetIndex()] = true
		}
		switch {
		case r.GetPlacementError() != "":
			problem = fmt.Sprintf("; instance %d has no place: %s", r.GetKey().GetIndex(), r.GetPlacementError())
		case r.GetState() == workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED && problem == "":
			problem = fmt.Sprintf("; instance %d crashed: %s", r.GetKey().GetIndex(), r.GetCrashReason())
		}
	}
	wanted := l.want.running
	if l.want.all {
		if l.desired == nil {
			return false, "it is not desired", nil
		}
		wanted = int(l.desired.GetInstances())
	}
	return len(running) >= wanted, fmt.Sprintf("%d of %d running%s", len(running), wanted, problem), nil
}

func (a *app) waitTask() *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use: "task TASK_GUID", Short: "Wait until a task has ended, and show it", Args: exactly("TASK_GUID"),
		Long:    "Wait until a task has ended; exit 0 if it succeeded, 5 if it failed, 6 if it was deleted, 7 if the time is over before.",
		Example: "  cfdot wait task my-task --timeout 10m\n  cfdot create-task @task.json && cfdot wait task my-task -o json | jq -r .result\n  cfdot cancel-task my-task; cfdot wait task my-task; cfdot delete-task my-task",
	}
	waitTimeout(command, &timeout)
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		seen := &taskSeen{}
		if err := a.waitFor(ctx, conn, timeout, args[0], seen, []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_TASK}); err != nil {
			return err
		}
		task := spec.TaskOf(seen.task)
		if err := printOne(printer(a, a.taskColumns()...), task); err != nil {
			return err
		}
		if task.Failed {
			return conclusion{exit: ExitOther, name: "TaskFailed", text: fmt.Sprintf("task %s failed: %s", args[0], task.FailureReason)}
		}
		return nil
	})
	return command
}

// taskSeen is what is known of a task that is waited for.
type taskSeen struct {
	task    *workloadv1.Task
	deleted bool
}

func (t *taskSeen) reset() { t.task = nil }

func (t *taskSeen) chunk(chunk *bbsv1.WatchResponse_SnapshotChunk) {
	for _, task := range chunk.GetTasks() {
		t.task = task
	}
}

func (t *taskSeen) event(event *bbsv1.Event) {
	switch e := event.GetEvent().(type) {
	case *bbsv1.Event_TaskCreated:
		t.task, t.deleted = e.TaskCreated.GetTask(), false
	case *bbsv1.Event_TaskChanged:
		t.task = e.TaskChanged.GetAfter()
	case *bbsv1.Event_TaskRemoved:
		t.deleted = true
	}
}

func (t *taskSeen) done() (enough bool, state string, err error) {
	switch {
	case t.deleted:
		return false, "it was deleted", errTaskGone
	case t.task == nil:
		return false, "there is no such task", errTaskGone
	case t.task.GetState() == workloadv1.TaskState_TASK_STATE_COMPLETED, t.task.GetState() == workloadv1.TaskState_TASK_STATE_RESOLVING:
		return true, "it has ended", nil
	default:
		return false, "it is " + spec.TaskState(t.task.GetState()), nil
	}
}

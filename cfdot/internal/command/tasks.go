package command

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/selection"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func (a *app) taskCommands() []*cobra.Command {
	return []*cobra.Command{a.tasks(), a.task(), a.createTask(), a.cancelTask(), a.deleteTask()}
}

func (a *app) taskColumns() []output.Column[spec.Task] {
	return []output.Column[spec.Task]{
		{Name: "TASK", Cell: func(t spec.Task) string { return t.TaskGUID }},
		{Name: "DOMAIN", Cell: func(t spec.Task) string { return t.Domain }},
		{Name: "STATE", Cell: func(t spec.Task) string { return t.State }, Mood: taskMood},
		{Name: "CELL", Cell: func(t spec.Task) string { return t.CellID }},
		{Name: "RESULT", Cell: outcomeCell, Mood: outcomeMood},
		{Name: "OUTPUT", Cell: func(t spec.Task) string { return t.Result }},
		{Name: "AGE", Right: true, Cell: func(t spec.Task) string { return output.Age(t.CreatedAt, a.now) }},
	}
}

func outcomeCell(t spec.Task) string {
	switch {
	case t.State != "Completed" && t.State != "Resolving":
		return t.RejectionReason
	case t.Failed:
		return "failed: " + t.FailureReason
	default:
		return "ok"
	}
}

func taskMood(state string) output.Mood {
	switch state {
	case "Running":
		return output.Good
	case "Pending":
		return output.Warning
	default:
		return output.Plain
	}
}

func outcomeMood(result string) output.Mood {
	switch result {
	case "ok":
		return output.Good
	case "":
		return output.Plain
	default:
		return output.Bad
	}
}

// taskFlags choose tasks.
type taskFlags struct {
	domain, cell string
	limit        int
	watch        bool
	wanted       selection.Tasks
}

func (f *taskFlags) register(command *cobra.Command) {
	set := command.Flags()
	set.StringVarP(&f.domain, "domain", "d", "", "only this domain")
	set.StringVarP(&f.cell, "cell-id", "c", "", "only on this cell")
	set.StringSliceVar(&f.wanted.States, "state", nil, "only in these states: Pending, Running, Completed, Resolving")
	set.BoolVar(&f.wanted.Failed, "failed", false, "only those that ended badly")
	set.DurationVar(&f.wanted.OlderThan, "older-than", 0, "only those that were wanted longer ago")
	set.IntVar(&f.limit, "limit", 0, "only so many; 0 is all")
	set.BoolVarP(&f.watch, "watch", "w", false, "go on with each change")
}

// request checks the flags and says what to ask the BBS for.
func (f *taskFlags) request() (*bbsv1.ListTasksRequest, error) {
	request := &bbsv1.ListTasksRequest{Domain: f.domain, CellId: f.cell}
	for i, name := range f.wanted.States {
		state, ok := workloadv1.TaskState_value["TASK_STATE_"+strings.ToUpper(name)]
		if !ok || state == 0 {
			return nil, usage("state must be Pending, Running, Completed or Resolving, not %q", name)
		}
		f.wanted.States[i] = spec.TaskState(workloadv1.TaskState(state))
		request.States = append(request.States, workloadv1.TaskState(state))
	}
	return request, errors.Join(notNegative("limit", f.limit), notNegative("older-than", f.wanted.OlderThan))
}

func (a *app) tasks() *cobra.Command {
	var f taskFlags
	command := &cobra.Command{Use: "tasks", Short: "List tasks", Args: exactly()}
	f.register(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		request, err := f.request()
		if err != nil {
			return err
		}
		request.IncludeDefinition = !a.flags.format.ForPeople()
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			if f.watch {
				return a.watchTasks(ctx, conn, &f)
			}
			return printAll(printer(a, a.taskColumns()...), func(show func(spec.Task) error) error {
				show = atMost(f.limit, show)
				return untilEnough(a.eachTask(ctx, conn, request, func(t spec.Task) error {
					if !f.wanted.Match(&t, a.now) {
						return nil
					}
					return show(t)
				}))
			})
		})(c, args)
	}
	return command
}

func (a *app) eachTask(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.ListTasksRequest, take func(spec.Task) error) error {
	open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListTasksResponse], error) {
		return bbsv1.NewTasksClient(conn).ListTasks(ctx, request)
	}
	return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListTasksResponse) error {
		for _, task := range chunk.GetTasks() {
			if err := take(spec.TaskOf(task)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) watchTasks(ctx context.Context, conn grpc.ClientConnInterface, f *taskFlags) error {
	request := &bbsv1.WatchRequest{Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_TASK}, Domain: f.domain, CellId: f.cell}
	return watchList(ctx, a, conn, request, watching[spec.Task]{
		columns: a.taskColumns(),
		match:   func(t spec.Task) bool { return f.wanted.Match(&t, a.now) },
		pick: func(chunk *bbsv1.WatchResponse_SnapshotChunk) []spec.Task {
			return allOf(chunk.GetTasks(), spec.TaskOf)
		},
		moved: func(event *bbsv1.Event) (before, after *spec.Task) {
			switch e := event.GetEvent().(type) {
			case *bbsv1.Event_TaskCreated:
				return nil, shown(e.TaskCreated.GetTask(), spec.TaskOf)
			case *bbsv1.Event_TaskChanged:
				return shown(e.TaskChanged.GetBefore(), spec.TaskOf), shown(e.TaskChanged.GetAfter(), spec.TaskOf)
			case *bbsv1.Event_TaskRemoved:
				return shown(e.TaskRemoved.GetTask(), spec.TaskOf), nil
			default:
				return nil, nil
			}
		},
	})
}

func (a *app) task() *cobra.Command {
	var secrets bool
	command := &cobra.Command{Use: "task TASK_GUID", Short: "Show one task", Args: exactly("TASK_GUID")}
	command.Flags().BoolVar(&secrets, "show-secrets", false, "show environment and credentials in clear; the server logs it")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		answer, err := bbsv1.NewTasksClient(conn).GetTask(ctx, &bbsv1.GetTaskRequest{TaskGuid: args[0], IncludeDefinition: true, IncludeSecrets: secrets})
		if err != nil {
			return err
		}
		return printOne(printer(a, a.taskColumns()...), spec.TaskOf(answer.GetTask()))
	})
	return command
}

func (a *app) createTask() *cobra.Command {
	return &cobra.Command{
		Use: "create-task SPEC|@FILE|@-", Short: "Want a task done once", Args: exactly("SPEC"),
		RunE: func(c *cobra.Command, args []string) error {
			request, err := parse(a, args[0], spec.ParseTask)
			if err != nil {
				return err
			}
			return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
				_, err := bbsv1.NewTasksClient(conn).DesireTask(ctx, request)
				return err
			})(c, args)
		},
	}
}

func (a *app) cancelTask() *cobra.Command {
	return a.taskEnd("cancel-task TASK_GUID", "Stop a task; it is completed as failed", "cancel", func(ctx context.Context, tasks bbsv1.TasksClient, guid string) error {
		_, err := tasks.CancelTask(ctx, &bbsv1.CancelTaskRequest{TaskGuid: guid})
		return err
	})
}

func (a *app) deleteTask() *cobra.Command {
	return a.taskEnd("delete-task TASK_GUID", "Delete a completed task", "delete", func(ctx context.Context, tasks bbsv1.TasksClient, guid string) error {
		_, err := tasks.DeleteTask(ctx, &bbsv1.DeleteTaskRequest{TaskGuid: guid, Resolve: true})
		return err
	})
}

// taskEnd makes a command that ends a task in one way.
func (a *app) taskEnd(use, short, verb string, end func(context.Context, bbsv1.TasksClient, string) error) *cobra.Command {
	var s safety
	command := &cobra.Command{Use: use, Short: short, Args: exactly("TASK_GUID")}
	s.register(command)
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		tasks, is := bbsv1.NewTasksClient(conn), ""
		if s.reads(a) {
			answer, err := tasks.GetTask(ctx, &bbsv1.GetTaskRequest{TaskGuid: args[0]})
			if err != nil {
				return err
			}
			is = ", which is " + spec.TaskState(answer.GetTask().GetState())
		}
		if proceed, err := s.allow(a, "%s task %s%s", verb, args[0], is); !proceed {
			return err
		}
		return end(ctx, tasks, args[0])
	})
	return command
}

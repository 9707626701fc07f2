package command

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
)

func (a *app) taskCommands() []*cobra.Command {
	return []*cobra.Command{a.tasks(), a.task(), a.createTask(), a.cancelTask(), a.deleteTask()}
}

func (a *app) taskColumns() []output.Column[spec.Task] {
	return []output.Column[spec.Task]{
		{Name: "TASK", Cell: func(t spec.Task) string { return t.TaskGUID }},
		{Name: "DOMAIN", Cell: func(t spec.Task) string { return t.Domain }},
		{Name: "STATE", Cell: func(t spec.Task) string { return t.State }},
		{Name: "CELL", Cell: func(t spec.Task) string { return t.CellID }},
		{Name: "RESULT", Cell: outcomeCell},
		{Name: "OUTPUT", Cell: func(t spec.Task) string { return t.Result }},
		{Name: "AGE", Cell: func(t spec.Task) string { return output.Age(t.CreatedAt, a.now) }},
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

func (a *app) tasks() *cobra.Command {
	var domain, cell string
	command := &cobra.Command{Use: "tasks", Short: "List tasks", Args: exactly()}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().StringVarP(&cell, "cell-id", "c", "", "only on this cell")
	command.RunE = a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		return printAll(printer(a, a.taskColumns()...), func(show func(spec.Task) error) error {
			request := &bbsv1.ListTasksRequest{Domain: domain, CellId: cell, IncludeDefinition: a.flags.format == output.JSON}
			open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListTasksResponse], error) {
				return bbsv1.NewTasksClient(conn).ListTasks(ctx, request)
			}
			return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListTasksResponse) error {
				for _, task := range chunk.GetTasks() {
					if err := show(spec.TaskOf(task)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	})
	return command
}

func (a *app) task() *cobra.Command {
	var secrets bool
	command := &cobra.Command{Use: "task TASK_GUID", Short: "Show one task", Args: exactly("TASK_GUID")}
	command.Flags().BoolVar(&secrets, "show-secrets", false, "show environment and credentials in clear; the server logs it")
	command.RunE = a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
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
			return a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
				_, err := bbsv1.NewTasksClient(conn).DesireTask(ctx, request)
				return err
			})(c, args)
		},
	}
}

func (a *app) cancelTask() *cobra.Command {
	return &cobra.Command{
		Use: "cancel-task TASK_GUID", Short: "Stop a task; it is completed as failed", Args: exactly("TASK_GUID"),
		RunE: a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
			_, err := bbsv1.NewTasksClient(conn).CancelTask(ctx, &bbsv1.CancelTaskRequest{TaskGuid: args[0]})
			return err
		}),
	}
}

func (a *app) deleteTask() *cobra.Command {
	return &cobra.Command{
		Use: "delete-task TASK_GUID", Short: "Delete a completed task", Args: exactly("TASK_GUID"),
		RunE: a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
			_, err := bbsv1.NewTasksClient(conn).DeleteTask(ctx, &bbsv1.DeleteTaskRequest{TaskGuid: args[0], Resolve: true})
			return err
		}),
	}
}

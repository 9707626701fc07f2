package command

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/contexts"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

const (
	// completionTime is how long a shell waits for names; then it gets those that have come, or none.
	completionTime = time.Second
	// mostCompletions are more than anybody reads.
	mostCompletions = 200
)

// names hands over what a word may be completed to; take returns an error when it has enough.
type names func(ctx context.Context, conn grpc.ClientConnInterface, take func(name, about string) error) error

// addCompletions says for each command what its arguments may be completed to.
func (a *app) addCompletions(root *cobra.Command) {
	processes, tasks, cells := a.completer(a.processNames), a.completer(a.taskNames), a.completer(a.cellNames)
	byArgument := map[string]cobra.CompletionFunc{"PROCESS_GUID": processes, "[PROCESS_GUID]": processes, "TASK_GUID": tasks, "CELL_ID": cells, "DOMAIN": a.completer(a.domainNames)}
	byFlag := map[string]cobra.CompletionFunc{
		"cell-id": cells, "process-guid": processes, "domain": a.completer(a.domainNames), "context": a.contextNames,
		"output":   cobra.FixedCompletions([]string{"table", "wide", "json", "jsonl", "yaml", "name", "custom="}, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp),
		"presence": cobra.FixedCompletions([]string{"ORDINARY", "EVACUATING", "SUSPECT"}, cobra.ShellCompDirectiveNoFileComp),
		"sort":     cobra.FixedCompletions(slices.Sorted(maps.Keys(orders)), cobra.ShellCompDirectiveNoFileComp),
	}
	var visit func(*cobra.Command)
	visit = func(command *cobra.Command) {
		if words := strings.Fields(command.Use); len(words) > 1 && byArgument[words[1]] != nil {
			command.ValidArgsFunction = firstArgument(byArgument[words[1]])
		}
		for flag, complete := range byFlag {
			if command.LocalFlags().Lookup(flag) != nil {
				_ = command.RegisterFlagCompletionFunc(flag, complete) // the flag is there, and of nobody else
			}
		}
		for _, child := range command.Commands() {
			visit(child)
		}
	}
	visit(root)
	states := cobra.FixedCompletions([]string{"UNCLAIMED", "CLAIMED", "RUNNING", "CRASHED"}, cobra.ShellCompDirectiveNoFileComp)
	taskStates := cobra.FixedCompletions([]string{"Pending", "Running", "Completed", "Resolving"}, cobra.ShellCompDirectiveNoFileComp)
	for name, complete := range map[string]cobra.CompletionFunc{"actual-lrps": states, "tasks": taskStates} {
		if command, _, err := root.Find([]string{name}); err == nil {
			_ = command.RegisterFlagCompletionFunc("state", complete)
		}
	}
}

// firstArgument completes no other.
func firstArgument(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(command, args, word)
	}
}

// completer asks the BBS for names that begin with the word. Whatever goes wrong, a shell gets no more than fewer names.
func (a *app) completer(list names) cobra.CompletionFunc {
	return func(command *cobra.Command, _ []string, word string) (out []cobra.Completion, directive cobra.ShellCompDirective) {
		directive = cobra.ShellCompDirectiveNoFileComp
		parent := command.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTime)
		defer cancel()
		if err := a.flags.complete(a); err != nil {
			return nil, directive
		}
		a.flags.limit = completionTime
		conn, err := a.flags.dialBBS()
		if err != nil {
			return nil, directive
		}
		defer func() { _ = conn.Close() }()
		_ = list(ctx, conn, func(name, about string) error { // what has come is better than nothing
			if !strings.HasPrefix(name, word) {
				return nil
			}
			out = append(out, cobra.CompletionWithDesc(name, about))
			if len(out) == mostCompletions {
				return errEnough
			}
			return nil
		})
		return out, directive
	}
}

func (a *app) processNames(ctx context.Context, conn grpc.ClientConnInterface, take func(name, about string) error) error {
	return a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{}, func(info *workloadv1.SchedulingInfo) error {
		return take(info.GetProcessGuid(), appName(staticTags(spec.SchedulingInfoOf(info).MetricTags)))
	})
}

func (a *app) taskNames(ctx context.Context, conn grpc.ClientConnInterface, take func(name, about string) error) error {
	return a.eachTask(ctx, conn, &bbsv1.ListTasksRequest{}, func(t spec.Task) error { return take(t.TaskGUID, t.State) })
}

func (a *app) cellNames(ctx context.Context, conn grpc.ClientConnInterface, take func(name, about string) error) error {
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return err
	}
	for _, cell := range cells {
		if err := take(cell.GetPresence().GetCellId(), cell.GetPresence().GetZone()); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) domainNames(ctx context.Context, conn grpc.ClientConnInterface, take func(name, about string) error) error {
	answer, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	if err != nil {
		return err
	}
	for _, domain := range answer.GetDomains() {
		if err := take(domain.GetDomain(), "fresh"); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) contextNames(_ *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	file, err := contexts.Load(contexts.Path(a.Getenv))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return file.Names(), cobra.ShellCompDirectiveNoFileComp
}

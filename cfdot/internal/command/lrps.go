package command

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func (a *app) lrps() []*cobra.Command {
	return []*cobra.Command{
		a.desiredLRPs(), a.desiredLRP(), a.schedulingInfos(), a.createDesiredLRP(), a.updateDesiredLRP(), a.deleteDesiredLRP(),
		a.actualLRPs(), a.retireActualLRP(),
	}
}

// desiredColumns shows how many instances run, of which running tells by process guid.
func (a *app) desiredColumns(running map[string]int) []output.Column[spec.DesiredLRP] {
	return []output.Column[spec.DesiredLRP]{
		{Name: "PROCESS", Cell: func(l spec.DesiredLRP) string { return l.ProcessGUID }},
		{Name: "DOMAIN", Cell: func(l spec.DesiredLRP) string { return l.Domain }},
		{Name: "RUN/DESIRED", Cell: func(l spec.DesiredLRP) string { return fmt.Sprintf("%d/%d", running[l.ProcessGUID], l.Instances) }},
		{Name: "MEMORY", Cell: func(l spec.DesiredLRP) string { return output.Mebibytes(l.MemoryMB) }},
		{Name: "DISK", Cell: func(l spec.DesiredLRP) string { return output.Mebibytes(l.DiskMB) }},
		{Name: "ROUTES", Cell: func(l spec.DesiredLRP) string { return routesCell(l) }},
		{Name: "UPDATED", Cell: func(l spec.DesiredLRP) string { return output.Age(l.UpdatedAt, a.now) }},
	}
}

// countRunning counts the running instances of each process for a table. Lines of JSON have no use for it.
func (a *app) countRunning(ctx context.Context, conn *grpc.ClientConn, request *bbsv1.ListActualLRPsRequest) (map[string]int, error) {
	if a.flags.format == output.JSON {
		return nil, nil //nolint:nilnil // nobody looks
	}
	running := map[string]int{}
	request.States = []workloadv1.ActualLRPState{workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING}
	err := a.eachActual(ctx, conn, request, func(l spec.ActualLRP) error {
		// Of an instance that is being moved the two records count as one.
		if l.Presence == "ORDINARY" {
			running[l.ProcessGUID]++
		}
		return nil
	})
	return running, err
}

func (a *app) desiredLRPs() *cobra.Command {
	var domain string
	command := &cobra.Command{Use: "desired-lrps", Short: "List what is wanted", Args: exactly()}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.RunE = a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		running, err := a.countRunning(ctx, conn, &bbsv1.ListActualLRPsRequest{Domain: domain})
		if err != nil {
			return err
		}
		return printAll(printer(a, a.desiredColumns(running)...), func(show func(spec.DesiredLRP) error) error {
			request := &bbsv1.ListDesiredLRPsRequest{Filter: &bbsv1.DesiredLRPFilter{Domain: domain}, IncludeDefinition: true}
			open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListDesiredLRPsResponse], error) {
				return bbsv1.NewDesiredLRPsClient(conn).ListDesiredLRPs(ctx, request)
			}
			return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListDesiredLRPsResponse) error {
				for _, lrp := range chunk.GetDesiredLrps() {
					if err := show(spec.DesiredLRPOf(lrp)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	})
	return command
}

func (a *app) desiredLRP() *cobra.Command {
	var secrets bool
	command := &cobra.Command{Use: "desired-lrp PROCESS_GUID", Short: "Show one desired LRP", Args: exactly("PROCESS_GUID")}
	command.Flags().BoolVar(&secrets, "show-secrets", false, "show environment and credentials in clear; the server logs it")
	command.RunE = a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		answer, err := bbsv1.NewDesiredLRPsClient(conn).GetDesiredLRP(ctx, &bbsv1.GetDesiredLRPRequest{ProcessGuid: args[0], IncludeSecrets: secrets})
		if err != nil {
			return err
		}
		running, err := a.countRunning(ctx, conn, &bbsv1.ListActualLRPsRequest{ProcessGuids: args[:1]})
		if err != nil {
			return err
		}
		return printOne(printer(a, a.desiredColumns(running)...), spec.DesiredLRPOf(answer.GetDesiredLrp()))
	})
	return command
}

func (a *app) schedulingInfos() *cobra.Command {
	var domain string
	command := &cobra.Command{Use: "desired-lrp-scheduling-infos", Short: "List the part of what is wanted that schedulers need", Args: exactly()}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	columns := []output.Column[spec.SchedulingInfo]{
		{Name: "PROCESS", Cell: func(i spec.SchedulingInfo) string { return i.ProcessGUID }},
		{Name: "DOMAIN", Cell: func(i spec.SchedulingInfo) string { return i.Domain }},
		{Name: "INSTANCES", Cell: func(i spec.SchedulingInfo) string { return strconv.Itoa(int(i.Instances)) }},
		{Name: "MEMORY", Cell: func(i spec.SchedulingInfo) string { return output.Mebibytes(i.MemoryMB) }},
		{Name: "DISK", Cell: func(i spec.SchedulingInfo) string { return output.Mebibytes(i.DiskMB) }},
		{Name: "ROOTFS", Cell: func(i spec.SchedulingInfo) string { return i.RootFS }},
	}
	command.RunE = a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		return printAll(printer(a, columns...), func(show func(spec.SchedulingInfo) error) error {
			request := &bbsv1.ListSchedulingInfosRequest{Filter: &bbsv1.DesiredLRPFilter{Domain: domain}}
			open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListSchedulingInfosResponse], error) {
				return bbsv1.NewDesiredLRPsClient(conn).ListSchedulingInfos(ctx, request)
			}
			return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListSchedulingInfosResponse) error {
				for _, info := range chunk.GetSchedulingInfos() {
					if err := show(spec.SchedulingInfoOf(info)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	})
	return command
}

func (a *app) createDesiredLRP() *cobra.Command {
	command := &cobra.Command{Use: "create-desired-lrp SPEC|@FILE|@-", Short: "Want a new LRP", Args: exactly("SPEC")}
	command.RunE = func(c *cobra.Command, args []string) error {
		lrp, err := parse(a, args[0], spec.ParseDesiredLRP)
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
			_, err := bbsv1.NewDesiredLRPsClient(conn).DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: lrp})
			return err
		})(c, args)
	}
	return command
}

// parse reads a document; what is wrong with it is the user's mistake.
func parse[T any](a *app, arg string, read func([]byte) (T, error)) (T, error) {
	var zero T
	text, err := a.document(arg)
	if err != nil {
		return zero, err
	}
	out, err := read(text)
	if err != nil {
		return zero, usage("The document is not valid:\n%w", err)
	}
	return out, nil
}

func (a *app) updateDesiredLRP() *cobra.Command {
	command := &cobra.Command{
		Use: "update-desired-lrp PROCESS_GUID SPEC|@FILE|@-", Short: "Change instances, routes, annotation, tags or credentials of an LRP",
		Args: exactly("PROCESS_GUID", "SPEC"),
	}
	command.RunE = func(c *cobra.Command, args []string) error {
		update, err := parse(a, args[1], spec.ParseDesiredLRPUpdate)
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
			_, err := bbsv1.NewDesiredLRPsClient(conn).UpdateDesiredLRP(ctx, &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: args[0], Update: update})
			return err
		})(c, args)
	}
	return command
}

func (a *app) deleteDesiredLRP() *cobra.Command {
	return &cobra.Command{
		Use: "delete-desired-lrp PROCESS_GUID", Short: "Want an LRP no longer; its instances stop", Args: exactly("PROCESS_GUID"),
		RunE: a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
			_, err := bbsv1.NewDesiredLRPsClient(conn).RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: args[0]})
			return err
		}),
	}
}

func (a *app) actualColumns() []output.Column[spec.ActualLRP] {
	return []output.Column[spec.ActualLRP]{
		{Name: "PROCESS", Cell: func(l spec.ActualLRP) string { return l.ProcessGUID }},
		{Name: "INDEX", Cell: func(l spec.ActualLRP) string { return strconv.Itoa(int(l.Index)) }},
		{Name: "STATE", Cell: func(l spec.ActualLRP) string { return l.State }},
		{Name: "PRESENCE", Cell: func(l spec.ActualLRP) string { return presenceMark(l.Presence) }},
		{Name: "CELL", Cell: func(l spec.ActualLRP) string { return l.CellID }},
		{Name: "ZONE", Cell: func(l spec.ActualLRP) string { return l.AvailabilityZone }},
		{Name: "ADDRESS:PORT", Cell: addressCell},
		{Name: "ROUTABLE", Cell: func(l spec.ActualLRP) string { return yesNo(l.Routable) }},
		{Name: "CRASHES", Cell: func(l spec.ActualLRP) string { return strconv.Itoa(int(l.CrashCount)) }},
		{Name: "AGE", Cell: func(l spec.ActualLRP) string { return output.Age(l.Since, a.now) }},
		{Name: "REASON", Cell: func(l spec.ActualLRP) string {
			if l.PlacementError != "" {
				return l.PlacementError
			}
			return l.CrashReason
		}},
	}
}

// presenceMark makes the two records of one index look different and not like a mistake.
func presenceMark(presence string) string {
	switch presence {
	case "SUSPECT":
		return "~suspect"
	case "EVACUATING":
		return ">evacuating"
	default:
		return "ordinary"
	}
}

func addressCell(l spec.ActualLRP) string {
	if l.Address == "" {
		return ""
	}
	if len(l.Ports) == 0 {
		return l.Address
	}
	if l.PreferredAddress == "INSTANCE" {
		return fmt.Sprintf("%s:%d", l.InstanceAddress, l.Ports[0].ContainerPort)
	}
	return fmt.Sprintf("%s:%d", l.Address, l.Ports[0].HostPort)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func routesCell(l spec.DesiredLRP) string {
	hosts := hostnames(l.Routes["cf-router"])
	switch len(hosts) {
	case 0:
		return ""
	case 1:
		return hosts[0]
	default:
		return fmt.Sprintf("%s +%d", hosts[0], len(hosts)-1)
	}
}

func (a *app) actualLRPs() *cobra.Command {
	var domain, cell, process string
	var states, presences []string
	index := -1
	command := &cobra.Command{
		Use: "actual-lrps", Short: "List what runs", Args: exactly(),
		Example: "  cfdot actual-lrps -p my-app\n  cfdot actual-lrps --state CRASHED -o table\n  cfdot actual-lrps -c cell-1 | wc -l",
	}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().StringVarP(&cell, "cell-id", "c", "", "only on this cell")
	command.Flags().StringVarP(&process, "process-guid", "p", "", "only of this process")
	command.Flags().IntVarP(&index, "index", "i", -1, "only this index")
	command.Flags().StringSliceVar(&states, "state", nil, "only in these states: UNCLAIMED, CLAIMED, RUNNING, CRASHED")
	command.Flags().StringSliceVar(&presences, "presence", nil, "only records of these kinds: ORDINARY, EVACUATING, SUSPECT")
	command.RunE = func(c *cobra.Command, args []string) error {
		request := &bbsv1.ListActualLRPsRequest{Domain: domain, CellId: cell}
		if process != "" {
			request.ProcessGuids = []string{process}
		}
		if c.Flags().Changed("index") {
			number, err := indexOf(index)
			if err != nil {
				return err
			}
			request.Index = &number
		}
		for _, name := range states {
			state, ok := workloadv1.ActualLRPState_value["ACTUAL_LRP_STATE_"+name]
			if !ok || state == 0 {
				return usage("state must be UNCLAIMED, CLAIMED, RUNNING or CRASHED, not %q", name)
			}
			request.States = append(request.States, workloadv1.ActualLRPState(state))
		}
		for _, name := range presences {
			presence, ok := workloadv1.Presence_value["PRESENCE_"+name]
			if !ok || presence == 0 {
				return usage("presence must be ORDINARY, EVACUATING or SUSPECT, not %q", name)
			}
			request.Presences = append(request.Presences, workloadv1.Presence(presence))
		}
		return a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
			return printAll(printer(a, a.actualColumns()...), func(show func(spec.ActualLRP) error) error {
				return a.eachActual(ctx, conn, request, show)
			})
		})(c, args)
	}
	return command
}

func (a *app) eachActual(ctx context.Context, conn *grpc.ClientConn, request *bbsv1.ListActualLRPsRequest, take func(spec.ActualLRP) error) error {
	open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListActualLRPsResponse], error) {
		return bbsv1.NewActualLRPsClient(conn).ListActualLRPs(ctx, request)
	}
	return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListActualLRPsResponse) error {
		for _, lrp := range chunk.GetActualLrps() {
			if err := take(spec.ActualLRPOf(lrp)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) retireActualLRP() *cobra.Command {
	return &cobra.Command{
		Use: "retire-actual-lrp PROCESS_GUID INDEX", Short: "Stop one instance; another one starts in its place", Args: exactly("PROCESS_GUID", "INDEX"),
		RunE: func(c *cobra.Command, args []string) error {
			index, err := strconv.ParseInt(args[1], 10, 32)
			if err != nil || index < 0 {
				return usage("INDEX must be a number of at least 0, not %q", args[1])
			}
			return a.withBBS(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
				_, err := bbsv1.NewActualLRPsClient(conn).RetireActualLRP(ctx, &bbsv1.RetireActualLRPRequest{ProcessGuid: args[0], Index: int32(index)}) //nolint:gosec // parsed as 32 bits
				return err
			})(c, args)
		},
	}
}

// hostnames of the HTTP routes, each once; none if the value is not what the HTTP router reads.
func hostnames(value []byte) []string {
	var out []string
	for _, route := range httpRoutes(value) {
		for _, name := range route.Hostnames {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/selection"
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
		{Name: "RUN/DESIRED", Right: true, Mood: shareMood, Cell: func(l spec.DesiredLRP) string { return fmt.Sprintf("%d/%d", running[l.ProcessGUID], l.Instances) }},
		{Name: "MEMORY", Right: true, Cell: func(l spec.DesiredLRP) string { return output.Mebibytes(l.MemoryMB) }},
		{Name: "DISK", Right: true, Cell: func(l spec.DesiredLRP) string { return output.Mebibytes(l.DiskMB) }},
		{Name: "ROUTES", Cell: func(l spec.DesiredLRP) string { return routesCell(l) }},
		{Name: "UPDATED", Right: true, Cell: func(l spec.DesiredLRP) string { return output.Age(l.UpdatedAt, a.now) }},
		{Name: "NAME", Wide: true, Cell: func(l spec.DesiredLRP) string { return appName(staticTags(l.MetricTags)) }},
		{Name: "DEFINITION", Wide: true, Cell: func(l spec.DesiredLRP) string { return l.DefinitionID }},
	}
}

// countRunning counts the running instances of each process for a table. Lines of JSON have no use for it.
func (a *app) countRunning(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.ListActualLRPsRequest) (map[string]int, error) {
	if !a.flags.format.ForPeople() {
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

// shareMood of instances that run among those that are wanted.
func shareMood(cell string) output.Mood {
	running, wanted, _ := strings.Cut(cell, "/")
	switch running {
	case wanted:
		return output.Plain
	case "0":
		return output.Bad
	default:
		return output.Warning
	}
}

func (a *app) desiredLRPs() *cobra.Command {
	var domain, conditions string
	var limit int
	command := &cobra.Command{Use: "desired-lrps", Short: "List what is wanted", Args: exactly()}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().StringVar(&conditions, "selector", "", "only with these metric tags: NAME=VALUE or NAME!=VALUE, separated by commas")
	command.Flags().IntVar(&limit, "limit", 0, "only so many; 0 is all")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
		selector, err := selection.ParseSelector(conditions)
		if err != nil {
			return usage("--selector: %w", err)
		}
		if err := notNegative("limit", limit); err != nil {
			return err
		}
		running, err := a.countRunning(ctx, conn, &bbsv1.ListActualLRPsRequest{Domain: domain})
		if err != nil {
			return err
		}
		return printAll(printer(a, a.desiredColumns(running)...), func(show func(spec.DesiredLRP) error) error {
			show = atMost(limit, show)
			request := &bbsv1.ListDesiredLRPsRequest{Filter: &bbsv1.DesiredLRPFilter{Domain: domain}, IncludeDefinition: true}
			open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListDesiredLRPsResponse], error) {
				return bbsv1.NewDesiredLRPsClient(conn).ListDesiredLRPs(ctx, request)
			}
			return untilEnough(list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListDesiredLRPsResponse) error {
				for _, lrp := range chunk.GetDesiredLrps() {
					record := spec.DesiredLRPOf(lrp)
					if !selector.Match(func(name string) string { return record.MetricTags[name].Static }) {
						continue
					}
					if err := show(record); err != nil {
						return err
					}
				}
				return nil
			}))
		})
	})
	return command
}

func (a *app) desiredLRP() *cobra.Command {
	var secrets bool
	command := &cobra.Command{Use: "desired-lrp PROCESS_GUID", Short: "Show one desired LRP", Args: exactly("PROCESS_GUID")}
	command.Flags().BoolVar(&secrets, "show-secrets", false, "show environment and credentials in clear; the server logs it")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
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
	var watch bool
	command := &cobra.Command{Use: "desired-lrp-scheduling-infos", Short: "List the part of what is wanted that schedulers need", Args: exactly()}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on with each change")
	columns := []output.Column[spec.SchedulingInfo]{
		{Name: "PROCESS", Cell: func(i spec.SchedulingInfo) string { return i.ProcessGUID }},
		{Name: "DOMAIN", Cell: func(i spec.SchedulingInfo) string { return i.Domain }},
		{Name: "INSTANCES", Right: true, Cell: func(i spec.SchedulingInfo) string { return strconv.Itoa(int(i.Instances)) }},
		{Name: "MEMORY", Right: true, Cell: func(i spec.SchedulingInfo) string { return output.Mebibytes(i.MemoryMB) }},
		{Name: "DISK", Right: true, Cell: func(i spec.SchedulingInfo) string { return output.Mebibytes(i.DiskMB) }},
		{Name: "ROOTFS", Cell: func(i spec.SchedulingInfo) string { return i.RootFS }},
		{Name: "NAME", Wide: true, Cell: func(i spec.SchedulingInfo) string { return appName(staticTags(i.MetricTags)) }},
	}
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
		if watch {
			request := &bbsv1.WatchRequest{Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP}, Domain: domain}
			return watchList(ctx, a, conn, request, watchingInfos(columns))
		}
		return printAll(printer(a, columns...), func(show func(spec.SchedulingInfo) error) error {
			return a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{Domain: domain}, func(info *workloadv1.SchedulingInfo) error {
				return show(spec.SchedulingInfoOf(info))
			})
		})
	})
	return command
}

// eachInfo reads the scheduling infos that pass a filter.
func (a *app) eachInfo(ctx context.Context, conn grpc.ClientConnInterface, filter *bbsv1.DesiredLRPFilter, take func(*workloadv1.SchedulingInfo) error) error {
	request := &bbsv1.ListSchedulingInfosRequest{Filter: filter}
	open := func(ctx context.Context) (grpc.ServerStreamingClient[bbsv1.ListSchedulingInfosResponse], error) {
		return bbsv1.NewDesiredLRPsClient(conn).ListSchedulingInfos(ctx, request)
	}
	return list(ctx, a.flags.requestTime(), open, func(chunk *bbsv1.ListSchedulingInfosResponse) error {
		for _, info := range chunk.GetSchedulingInfos() {
			if err := take(info); err != nil {
				return err
			}
		}
		return nil
	})
}

func watchingInfos(columns []output.Column[spec.SchedulingInfo]) watching[spec.SchedulingInfo] {
	return watching[spec.SchedulingInfo]{
		columns: columns,
		match:   func(spec.SchedulingInfo) bool { return true },
		pick: func(chunk *bbsv1.WatchResponse_SnapshotChunk) []spec.SchedulingInfo {
			return allOf(chunk.GetDesiredLrps(), spec.SchedulingInfoOf)
		},
		moved: func(event *bbsv1.Event) (before, after *spec.SchedulingInfo) {
			switch e := event.GetEvent().(type) {
			case *bbsv1.Event_DesiredLrpCreated:
				return nil, shown(e.DesiredLrpCreated.GetDesiredLrp(), spec.SchedulingInfoOf)
			case *bbsv1.Event_DesiredLrpChanged:
				return shown(e.DesiredLrpChanged.GetBefore(), spec.SchedulingInfoOf), shown(e.DesiredLrpChanged.GetAfter(), spec.SchedulingInfoOf)
			case *bbsv1.Event_DesiredLrpRemoved:
				return shown(e.DesiredLrpRemoved.GetDesiredLrp(), spec.SchedulingInfoOf), nil
			default:
				return nil, nil
			}
		},
	}
}

// actualColumns shows instances; with names also which application they are.
func (a *app) actualColumns(names bool) []output.Column[spec.ActualLRP] {
	columns := []output.Column[spec.ActualLRP]{
		{Name: "PROCESS", ID: true, Cell: func(l spec.ActualLRP) string { return l.ProcessGUID }},
		{Name: "INDEX", ID: true, Right: true, Cell: func(l spec.ActualLRP) string { return strconv.Itoa(int(l.Index)) }},
		{Name: "STATE", Cell: func(l spec.ActualLRP) string { return l.State }, Mood: stateMood},
		{Name: "PRESENCE", Cell: func(l spec.ActualLRP) string { return presenceMark(l.Presence) }, Mood: presenceMood},
		{Name: "CELL", Cell: func(l spec.ActualLRP) string { return l.CellID }},
		{Name: "ZONE", Cell: func(l spec.ActualLRP) string { return l.AvailabilityZone }},
		{Name: "ADDRESS:PORT", Cell: addressCell},
		{Name: "ROUTABLE", Cell: func(l spec.ActualLRP) string { return yesNo(l.Routable) }},
		{Name: "CRASHES", Right: true, Cell: func(l spec.ActualLRP) string { return strconv.Itoa(int(l.CrashCount)) }},
		{Name: "AGE", Right: true, Cell: func(l spec.ActualLRP) string { return output.Age(l.Since, a.now) }},
		{Name: "INSTANCE", Wide: true, Cell: func(l spec.ActualLRP) string { return l.InstanceGUID }},
		{Name: "DEFINITION", Wide: true, Cell: func(l spec.ActualLRP) string { return l.DefinitionID }},
		{Name: "REASON", Cell: func(l spec.ActualLRP) string { return cmp.Or(l.PlacementError, l.CrashReason) }},
	}
	if names {
		columns = slices.Insert(columns, 1, output.Column[spec.ActualLRP]{Name: "NAME", Cell: func(l spec.ActualLRP) string { return appName(l.MetricTags) }})
	}
	return columns
}

// appName is how people call an application, from the tags that its owner gave it: organization/space/application.
func appName(tags map[string]string) string {
	var parts []string
	for _, tag := range []string{"organization_name", "space_name", "app_name"} {
		if tags[tag] != "" {
			parts = append(parts, tags[tag])
		}
	}
	return strings.Join(parts, "/")
}

// staticTags are those that do not depend on the instance.
func staticTags(tags map[string]spec.MetricTag) map[string]string {
	out := make(map[string]string, len(tags))
	for name, tag := range tags {
		out[name] = tag.Static
	}
	return out
}

func stateMood(state string) output.Mood {
	switch state {
	case "RUNNING":
		return output.Good
	case "UNCLAIMED":
		return output.Warning
	case "CRASHED":
		return output.Bad
	default:
		return output.Plain
	}
}

func presenceMood(presence string) output.Mood {
	switch presence {
	case "~suspect":
		return output.Bad
	case ">evacuating":
		return output.Warning
	default:
		return output.Plain
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

func (a *app) eachActual(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.ListActualLRPsRequest, take func(spec.ActualLRP) error) error {
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

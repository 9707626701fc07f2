package command

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// finding is a record and why it was found.
type finding struct {
	Kind string `json:"kind"` // process, instance, task or cell
	GUID string `json:"guid"`
	// Index of an instance.
	Index        *int32 `json:"index,omitempty"`
	InstanceGUID string `json:"instance_guid,omitempty"`
	By           string `json:"matched"`
	Name         string `json:"name,omitempty"`
	State        string `json:"state,omitempty"`
	CellID       string `json:"cell_id,omitempty"`
	Address      string `json:"address,omitempty"`
}

var errNothingFound = fault.New(codes.NotFound, "ResourceNotFound", "nothing is called that")

func (a *app) find() []*cobra.Command {
	command := &cobra.Command{
		Use: "find NAME|GUID|INSTANCE_GUID|HOST[:PORT]", Short: "Which application, instance, task or cell is that?", Args: exactly("NAME"),
		Long: `Find processes by name of application, space or organization, by guid or its beginning (at least 8 characters), or by host name of a
route; instances by instance guid or by address and port, on the cell or in the container; tasks by guid; cells by id or address.`,
		Example: "  cfdot find 10.0.16.7:61012\n  cfdot find shop\n  cfdot find shop.example.com -o name | xargs -n 1 cfdot describe lrp",
	}
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		s := search{text: args[0], host: args[0]}
		if host, port, err := net.SplitHostPort(args[0]); err == nil {
			s.host, s.port = host, port
		}
		count := 0
		return printAll(printer(a, findingColumns()...), func(show func(finding) error) error {
			take := func(f finding) error {
				count++
				return show(f)
			}
			for _, look := range []func(context.Context, grpc.ClientConnInterface, search, func(finding) error) error{a.findCells, a.findProcesses, a.findInstances, a.findTasks} {
				if err := look(ctx, conn, s, take); err != nil {
					return err
				}
			}
			if count == 0 {
				return errNothingFound.With("%q", args[0])
			}
			return nil
		})
	})
	return []*cobra.Command{command}
}

func findingColumns() []output.Column[finding] {
	return []output.Column[finding]{
		{Name: "KIND", Cell: func(f finding) string { return f.Kind }},
		{Name: "GUID", ID: true, Cell: func(f finding) string { return f.GUID }},
		{Name: "INDEX", Right: true, Cell: func(f finding) string {
			if f.Index == nil {
				return ""
			}
			return strconv.Itoa(int(*f.Index))
		}},
		{Name: "NAME", Cell: func(f finding) string { return f.Name }},
		{Name: "STATE", Cell: func(f finding) string { return f.State }, Mood: stateMood},
		{Name: "CELL", Cell: func(f finding) string { return f.CellID }},
		{Name: "ADDRESS", Cell: func(f finding) string { return f.Address }},
		{Name: "MATCHED", Cell: func(f finding) string { return f.By }},
	}
}

// search is what the user typed, and its parts if it is an address.
type search struct{ text, host, port string }

// shortest beginning of a guid that is taken for one.
const shortest = 8

// guid says whether a guid is meant: all of it, or its beginning.
func (s search) guid(guid string) string {
	switch {
	case guid == "":
		return ""
	case guid == s.text:
		return "guid"
	case len(s.text) >= shortest && strings.HasPrefix(guid, s.text):
		return "beginning of the guid"
	default:
		return ""
	}
}

// address says whether an address is meant; without a port every port will do.
func (s search) address(host string, port uint32) bool {
	return host != "" && host == s.host && (s.port == "" || s.port == strconv.FormatUint(uint64(port), 10))
}

func (a *app) findCells(ctx context.Context, conn grpc.ClientConnInterface, s search, take func(finding) error) error {
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return err
	}
	for _, c := range cells {
		p := c.GetPresence()
		var by string
		host, _, _ := net.SplitHostPort(p.GetRepAddress())
		switch {
		case p.GetCellId() == s.text:
			by = "cell id"
		case p.GetRepAddress() == s.text, s.port == "" && host == s.host:
			by = "address of the cell"
		default:
			continue
		}
		if err := take(finding{Kind: "cell", GUID: p.GetCellId(), By: by, CellID: p.GetCellId(), Address: p.GetRepAddress()}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) findProcesses(ctx context.Context, conn grpc.ClientConnInterface, s search, take func(finding) error) error {
	return a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{}, func(info *workloadv1.SchedulingInfo) error {
		by := s.guid(info.GetProcessGuid())
		tags := map[string]string{}
		for name, tag := range info.GetMetricTags() {
			tags[name] = tag.GetStatic()
		}
		for _, name := range []string{"app_name", "app_id", "source_id", "process_id", "space_name", "organization_name"} {
			if by == "" && tags[name] == s.text {
				by = "tag " + name
			}
		}
		if by == "" && slices.Contains(hostnames(info.GetRoutes()["cf-router"]), s.text) {
			by = "host name of a route"
		}
		if by == "" && info.GetLogGuid() == s.text {
			by = "log guid"
		}
		if by == "" {
			return nil
		}
		return take(finding{Kind: "process", GUID: info.GetProcessGuid(), By: by, Name: appName(tags), State: output.Count(int(info.GetInstances()), "instance", "instances")})
	})
}

func (a *app) findInstances(ctx context.Context, conn grpc.ClientConnInterface, s search, take func(finding) error) error {
	return a.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{}, func(l spec.ActualLRP) error {
		by, address := "", addressCell(l)
		if match := s.guid(l.InstanceGUID); match != "" {
			by = "instance " + match
		}
		for _, port := range l.Ports {
			switch {
			case by != "" || s.port == "":
			case s.address(l.Address, port.HostPort), s.address(l.Address, port.HostTLSProxyPort):
				by, address = "address on the cell", fmt.Sprintf("%s:%d", l.Address, port.HostPort)
			case s.address(l.InstanceAddress, port.ContainerPort), s.address(l.InstanceAddress, port.ContainerTLSProxyPort):
				by, address = "address of the container", fmt.Sprintf("%s:%d", l.InstanceAddress, port.ContainerPort)
			}
		}
		if by == "" && s.port == "" && l.InstanceAddress != "" && l.InstanceAddress == s.host {
			by = "address of the container"
		}
		if by == "" {
			return nil
		}
		return take(finding{
			Kind: "instance", GUID: l.ProcessGUID, Index: &l.Index, InstanceGUID: l.InstanceGUID, By: by, Name: appName(l.MetricTags), State: l.State, CellID: l.CellID, Address: address,
		})
	})
}

func (a *app) findTasks(ctx context.Context, conn grpc.ClientConnInterface, s search, take func(finding) error) error {
	return a.eachTask(ctx, conn, &bbsv1.ListTasksRequest{}, func(t spec.Task) error {
		by := s.guid(t.TaskGUID)
		if by == "" && t.InstanceGUID == s.text {
			by = "instance guid"
		}
		if by == "" {
			return nil
		}
		return take(finding{Kind: "task", GUID: t.TaskGUID, InstanceGUID: t.InstanceGUID, By: by, State: t.State, CellID: t.CellID})
	})
}

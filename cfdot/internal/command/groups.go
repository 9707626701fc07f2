package command

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// group is the records of one index in the form of old scripts: the one that counts, and the one that is being moved.
type group struct {
	Instance   *spec.ActualLRP `json:"instance,omitempty"`
	Evacuating *spec.ActualLRP `json:"evacuating,omitempty"`
}

// groups are the deprecated forms of actual-lrps.
func (a *app) groups() []*cobra.Command { return []*cobra.Command{a.allGroups(), a.groupsForGUID()} }

// longGroups is all that tells of the deprecation: a warning at each run would only train people to ignore warnings.
const longGroups = `List what runs, the records of an index together. Deprecated: use actual-lrps, whose lines have the presence of each record.`

func (a *app) allGroups() *cobra.Command {
	var domain, cell string
	command := &cobra.Command{
		Use: "actual-lrp-groups", Short: "List what runs, grouped by index", Args: exactly(), Hidden: true, Long: longGroups,
		Example: "  cfdot actual-lrp-groups -d cf-apps\n  cfdot actual-lrp-groups -c cell-1\n  cfdot actual-lrp-groups | jq 'select(.evacuating)'",
	}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().StringVarP(&cell, "cell-id", "c", "", "only on this cell")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
		return a.printGroups(ctx, conn, &bbsv1.ListActualLRPsRequest{Domain: domain, CellId: cell})
	})
	return command
}

func (a *app) groupsForGUID() *cobra.Command {
	index := -1
	command := &cobra.Command{
		Use: "actual-lrp-groups-for-guid PROCESS_GUID", Short: "List the instances of a process, grouped by index", Args: exactly("PROCESS_GUID"), Hidden: true, Long: longGroups,
		Example: "  cfdot actual-lrp-groups-for-guid my-app\n  cfdot actual-lrp-groups-for-guid my-app -i 0\n  cfdot actual-lrp-groups-for-guid my-app | jq .instance.state",
	}
	command.Flags().IntVarP(&index, "index", "i", -1, "only this index")
	command.RunE = func(c *cobra.Command, args []string) error {
		request := &bbsv1.ListActualLRPsRequest{ProcessGuids: args}
		if c.Flags().Changed("index") {
			number, err := indexOf(index)
			if err != nil {
				return err
			}
			request.Index = &number
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			return a.printGroups(ctx, conn, request)
		})(c, args)
	}
	return command
}

// indexOf checks an index that a flag gave.
func indexOf(index int) (int32, error) {
	if index < 0 || index > 1<<31-1 {
		return 0, usage("index must be at least 0, is %d", index)
	}
	return int32(index), nil
}

// printGroups prints a group when the record of another index begins: the BBS lists in the order of the keys.
func (a *app) printGroups(ctx context.Context, conn grpc.ClientConnInterface, request *bbsv1.ListActualLRPsRequest) error {
	of := func(cell func(spec.ActualLRP) string) func(group) string {
		return func(g group) string { return cell(*cmp.Or(g.Instance, g.Evacuating)) }
	}
	var columns []output.Column[group]
	for _, column := range a.actualColumns(false) {
		if column.Name != "PRESENCE" {
			columns = append(columns, output.Column[group]{Name: column.Name, Right: column.Right, Wide: column.Wide, ID: column.ID, Mood: column.Mood, Cell: of(column.Cell)})
		}
	}
	columns = append(columns, output.Column[group]{Name: "EVACUATING FROM", Cell: func(g group) string {
		if g.Evacuating == nil {
			return ""
		}
		return g.Evacuating.CellID
	}})
	return printAll(printer(a, columns...), func(show func(group) error) error {
		var current group
		err := a.eachActual(ctx, conn, request, func(l spec.ActualLRP) error {
			before := cmp.Or(current.Instance, current.Evacuating)
			if before != nil && (before.ProcessGUID != l.ProcessGUID || before.Index != l.Index) {
				if err := show(current); err != nil {
					return err
				}
				current = group{}
			}
			current.add(l)
			return nil
		})
		if current != (group{}) {
			err = errors.Join(err, show(current))
		}
		return err
	})
}

// add takes a record into the group. Of an ordinary and a suspect one, the ordinary counts when it runs or has crashed, and
// else the suspect, which may still serve.
func (g *group) add(l spec.ActualLRP) {
	switch {
	case l.Presence == "EVACUATING":
		g.Evacuating = &l
	case g.Instance == nil:
		g.Instance = &l
	default:
		ordinary, suspect := &l, g.Instance
		if l.Presence == "SUSPECT" {
			ordinary, suspect = suspect, ordinary
		}
		g.Instance = suspect
		if ordinary.State == "RUNNING" || ordinary.State == "CRASHED" {
			g.Instance = ordinary
		}
	}
}

package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// mostPlanned is how many instances the auctioneer plans at a time.
const mostPlanned = 10_000

var errNotDesired = fault.New(codes.NotFound, "ResourceNotFound", "Desired LRP not found")

func (a *app) placements() []*cobra.Command { return []*cobra.Command{a.placement(), a.plan()} }

// dialAuctioneer connects to the active auctioneer.
func (f *flags) dialAuctioneer() (*grpc.ClientConn, error) {
	return f.dial("auctioneerLocation", f.auctioneer, mtls.Peer{Role: mtls.RoleAuctioneer}, "auctioneer.v1")
}

// refusal is why an item has no place.
type refusal struct {
	ProcessGUID    string           `json:"process_guid,omitempty"`
	Index          *int32           `json:"index,omitempty"`
	TaskGUID       string           `json:"task_guid,omitempty"`
	PlacementError string           `json:"placement_error"`
	CellsByReason  map[string]int32 `json:"cells_by_reason"`
	Cells          []verdict        `json:"cells,omitempty"`
}

// verdict of one cell.
type verdict struct {
	CellID        string             `json:"cell_id"`
	Zone          string             `json:"zone"`
	Reason        string             `json:"reason"`
	ZoneInstances int32              `json:"zone_instances"`
	Score         float64            `json:"score"`
	ScoreParts    map[string]float64 `json:"score_parts"`
}

func (a *app) placement() *cobra.Command {
	var task string
	var cells bool
	command := &cobra.Command{
		Use: "placement PROCESS_GUID INDEX", Aliases: []string{"explain-placement"}, Short: "Why an instance or a task has no place",
		Long: `Tell the last refusal of an instance, or of a task, by the auctioneer: its placement error and how many cells were ruled out
for which reason. --cells adds the verdict on each cell as it is now, with the parts of its score: of the zones with a cell that
takes it those with the fewest instances of the process come first, and there the smallest score wins.`,
		Example: "  cfdot placement my-app 3\n  cfdot placement my-app 3 --cells\n  cfdot placement --task my-task --cells -o json | jq -c '.cells[] | {cell_id, reason}'",
		Args: func(c *cobra.Command, args []string) error {
			if task != "" {
				return exactly()(c, args)
			}
			return exactly("PROCESS_GUID", "INDEX")(c, args)
		},
	}
	command.Flags().StringVar(&task, "task", "", "of this task, in place of an instance")
	command.Flags().BoolVar(&cells, "cells", false, "add the verdict of each cell")
	command.RunE = func(c *cobra.Command, args []string) error {
		request := &auctioneerv1.ExplainPlacementRequest{Cells: cells, Work: &auctioneerv1.ExplainPlacementRequest_TaskGuid{TaskGuid: task}}
		about := refusal{TaskGUID: task}
		if task == "" {
			number, err := indexArgument(args[1])
			if err != nil {
				return err
			}
			about = refusal{ProcessGUID: args[0], Index: &number}
			request.Work = &auctioneerv1.ExplainPlacementRequest_Lrp{Lrp: &auctioneerv1.ExplainPlacementRequest_LRPInstance{ProcessGuid: args[0], Index: number}}
		}
		return a.withAuctioneer(c.Context(), func(ctx context.Context, auctioneer auctioneerv1.ExplanationsClient) error {
			answer, err := auctioneer.ExplainPlacement(ctx, request)
			if err != nil {
				return err
			}
			about.PlacementError, about.CellsByReason = answer.GetPlacementError(), answer.GetCellsByReason()
			for _, v := range answer.GetVerdicts() {
				about.Cells = append(about.Cells, verdict{
					CellID: v.GetCellId(), Zone: v.GetZone(), Reason: v.GetReason(), ZoneInstances: v.GetZoneInstances(),
					Score: v.GetScore(), ScoreParts: v.GetScoreParts(),
				})
			}
			return a.showRefusal(about, cells)
		})
	}
	return command
}

func (a *app) withAuctioneer(ctx context.Context, run func(context.Context, auctioneerv1.ExplanationsClient) error) error {
	conn, err := a.flags.dialAuctioneer()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	return of(serverAuctioneer, run(ctx, auctioneerv1.NewExplanationsClient(conn)))
}

// showRefusal prints a document, or for people the error, the reasons and the cells as tables.
func (a *app) showRefusal(r refusal, cells bool) error {
	if !a.flags.format.ForPeople() {
		if r.CellsByReason == nil {
			r.CellsByReason = map[string]int32{}
		}
		return printOne(printer[refusal](a), r)
	}
	name := r.TaskGUID
	if name == "" {
		name = fmt.Sprintf("%s/%d", r.ProcessGUID, *r.Index)
	}
	if _, err := fmt.Fprintf(a.Stdout, "%s: %s\n", name, r.PlacementError); err != nil {
		return err
	}
	if err := printAll(printer(a, reasonColumns()...), each(reasonRows(r.CellsByReason))); err != nil || !cells {
		return err
	}
	if _, err := fmt.Fprintln(a.Stdout); err != nil {
		return err
	}
	// Those that would take it come first, the winner before all.
	slices.SortStableFunc(r.Cells, func(x, y verdict) int {
		return cmp.Or(order(x.Reason != "")-order(y.Reason != ""), cmp.Compare(x.ZoneInstances, y.ZoneInstances),
			cmp.Compare(x.Score, y.Score), strings.Compare(x.CellID, y.CellID))
	})
	return printAll(printer(a, verdictColumns()...), each(r.Cells))
}

func order(later bool) int {
	if later {
		return 1
	}
	return 0
}

// each shows all records of a slice.
func each[T any](records []T) func(func(T) error) error {
	return func(show func(T) error) error {
		for _, record := range records {
			if err := show(record); err != nil {
				return err
			}
		}
		return nil
	}
}

// count of something with a name.
type count struct {
	name  string
	count int32
}

// reasonRows are the largest first, then by name.
func reasonRows(counts map[string]int32) []count {
	rows := make([]count, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		rows = append(rows, count{name: name, count: counts[name]})
	}
	slices.SortStableFunc(rows, func(x, y count) int { return cmp.Compare(y.count, x.count) })
	return rows
}

func reasonColumns() []output.Column[count] {
	return []output.Column[count]{
		{Name: "REASON", Cell: func(c count) string { return c.name }},
		{Name: "CELLS", Cell: func(c count) string { return strconv.Itoa(int(c.count)) }},
	}
}

func verdictColumns() []output.Column[verdict] {
	part := func(name string) func(verdict) string {
		return func(v verdict) string { return score(v, v.ScoreParts[name]) }
	}
	return []output.Column[verdict]{
		{Name: "CELL", Cell: func(v verdict) string { return v.CellID }},
		{Name: "ZONE", Cell: func(v verdict) string { return v.Zone }},
		{Name: "VERDICT", Cell: func(v verdict) string { return cmp.Or(v.Reason, "ok") }},
		{Name: "IN ZONE", Cell: func(v verdict) string { return strconv.Itoa(int(v.ZoneInstances)) }},
		{Name: "SCORE", Cell: func(v verdict) string { return score(v, v.Score) }},
		{Name: "UTILISATION", Cell: part("utilisation")},
		{Name: "STARTING", Cell: part("starting")},
		{Name: "SIBLINGS", Cell: part("siblings")},
		{Name: "BIN PACK", Cell: part("bin_pack")},
		{Name: "TASKS", Cell: part("tasks")},
	}
}

// score is a part of a score; a cell that was ruled out before it was scored has none.
func score(v verdict, part float64) string {
	if v.Reason != "" && v.Score == 0 {
		return ""
	}
	if part == math.Trunc(part) {
		return strconv.FormatFloat(part, 'f', 0, 64)
	}
	return strconv.FormatFloat(part, 'f', 3, 64)
}

// planned says where instances would go.
type planned struct {
	ProcessGUID    string           `json:"process_guid"`
	Instances      int32            `json:"instances"`
	ByCell         map[string]int32 `json:"instances_by_cell"`
	ByZone         map[string]int32 `json:"instances_by_zone"`
	Unplaced       int32            `json:"unplaced"`
	PlacementError string           `json:"placement_error,omitempty"`
}

func (a *app) plan() *cobra.Command {
	command := &cobra.Command{
		Use: "plan PROCESS_GUID COUNT", Short: "Where more instances of an LRP would go, with no effect",
		Long: `Have the auctioneer decide where COUNT more instances of a desired LRP would go now, beside those that it has. Nothing is
reserved and nothing is started.`,
		Args: exactly("PROCESS_GUID", "COUNT"),
	}
	command.RunE = func(c *cobra.Command, args []string) error {
		number, err := strconv.Atoi(args[1])
		if err != nil || number < 1 || number > mostPlanned {
			return usage("COUNT must be a number from 1 to %d, not %q", mostPlanned, args[1])
		}
		var info *workloadv1.SchedulingInfo
		err = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			info, err = a.schedulingInfo(ctx, conn, args[0])
			return err
		})(c, args)
		if err != nil {
			return err
		}
		resources := info.GetResources()
		if resources == nil {
			resources = &workloadv1.Resources{}
		}
		return a.withAuctioneer(c.Context(), func(ctx context.Context, auctioneer auctioneerv1.ExplanationsClient) error {
			answer, err := auctioneer.PlanPlacement(ctx, &auctioneerv1.PlanPlacementRequest{
				ProcessGuid: args[0], Resources: resources, Placement: info.GetPlacement(), Instances: int32(number), //nolint:gosec // at most mostPlanned
			})
			if err != nil {
				return err
			}
			return a.showPlan(planned{
				ProcessGUID: args[0], Instances: int32(number), ByCell: answer.GetInstancesByCell(), ByZone: answer.GetInstancesByZone(), //nolint:gosec // at most mostPlanned
				Unplaced: answer.GetUnplaced(), PlacementError: answer.GetPlacementError(),
			})
		})
	}
	return command
}

// schedulingInfo reads the part of a desired LRP that schedulers need.
func (a *app) schedulingInfo(ctx context.Context, conn grpc.ClientConnInterface, guid string) (*workloadv1.SchedulingInfo, error) {
	found, err := a.wanted(ctx, conn, guid)
	if err == nil && found == nil {
		err = errNotDesired.With("no LRP %q is desired", guid)
	}
	return found, err
}

// wanted is schedulingInfo, with nil for one that is not desired.
func (a *app) wanted(ctx context.Context, conn grpc.ClientConnInterface, guid string) (*workloadv1.SchedulingInfo, error) {
	var found *workloadv1.SchedulingInfo
	err := a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{ProcessGuids: []string{guid}}, func(info *workloadv1.SchedulingInfo) error {
		found = info
		return nil
	})
	return found, err
}

// showPlan prints a document, or for people a table by cell, one by zone and what is left over.
func (a *app) showPlan(p planned) error {
	if !a.flags.format.ForPeople() {
		if p.ByCell == nil { // a member that lists is never null
			p.ByCell, p.ByZone = map[string]int32{}, map[string]int32{}
		}
		return printOne(printer[planned](a), p)
	}
	columns := func(name string) []output.Column[count] {
		return []output.Column[count]{
			{Name: name, Cell: func(c count) string { return c.name }},
			{Name: "INSTANCES", Cell: func(c count) string { return strconv.Itoa(int(c.count)) }},
		}
	}
	for _, table := range []struct {
		name   string
		counts map[string]int32
	}{{"CELL", p.ByCell}, {"ZONE", p.ByZone}} {
		if len(table.counts) == 0 {
			continue
		}
		if err := printAll(printer(a, columns(table.name)...), each(reasonRows(table.counts))); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(a.Stdout); err != nil {
			return err
		}
	}
	if p.Unplaced == 0 {
		_, err := fmt.Fprintf(a.Stdout, "all %d have a place\n", p.Instances)
		return err
	}
	_, err := fmt.Fprintf(a.Stdout, "%d of %d have no place: %s\n", p.Unplaced, p.Instances, p.PlacementError)
	return err
}

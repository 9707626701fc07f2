package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// taskPage is all that is known of one task.
type taskPage struct {
	Task spec.Task `json:"task"`
	pastPage
}

func (a *app) describeTask() *cobra.Command {
	return described(a, &cobra.Command{
		Use: "task TASK_GUID", Short: "A task: its state, outcome and what happened", Args: exactly("TASK_GUID"),
		Example: "  cfdot describe task my-task\n  cfdot describe task my-task --since 24h\n  cfdot describe task my-task -o json | jq .events",
	}, "TASK", a.taskPage, a.showTask)
}

func (a *app) taskPage(ctx context.Context, conn grpc.ClientConnInterface, guid string, since time.Duration) (taskPage, error) {
	answer, err := bbsv1.NewTasksClient(conn).GetTask(ctx, &bbsv1.GetTaskRequest{TaskGuid: guid, IncludeDefinition: true})
	if err != nil {
		return taskPage{}, err
	}
	out := taskPage{Task: spec.TaskOf(answer.GetTask())}
	out.readPast(ctx, a, conn, &bbsv1.WatchRequest{ProcessGuids: []string{guid}}, since)
	return out, nil
}

func (a *app) showTask(guid string, out *taskPage, since time.Duration) error {
	p := &page{app: a}
	p.facts(a.taskFacts(out.Task)...)
	out.show(p, since, guid)
	return p.err
}

func (a *app) taskFacts(t spec.Task) []fact {
	facts := []fact{
		{"Task", t.TaskGUID},
		{"Domain", t.Domain},
		{"State", t.State},
		{"Cell", t.CellID},
	}
	if t.State == "Completed" || t.State == "Resolving" {
		facts = append(facts, fact{"Outcome", outcomeCell(t)}, fact{"Output", t.Result})
	}
	if t.RejectionCount > 0 {
		facts = append(facts, fact{"Refused", fmt.Sprintf("%d times: %s", t.RejectionCount, t.RejectionReason)})
	}
	if d := t.TaskDefinition; d != nil {
		facts = append(facts, fact{"Name", appName(staticTags(d.MetricTags))}, fact{"Memory, disk", output.Mebibytes(d.MemoryMB) + ", " + output.Mebibytes(d.DiskMB)},
			fact{"Root filesystem", d.RootFS}, fact{"Callback", d.CompletionCallbackURL})
	}
	return append(facts, fact{"Wanted", ago(output.Age(t.CreatedAt, a.now))}, fact{"Completed", ago(output.Age(t.FirstCompletedAt, a.now))})
}

// cellPage is all that is known of one cell.
type cellPage struct {
	Presence  spec.CellPresence `json:"presence"`
	State     *spec.CellState   `json:"state,omitempty"`
	Instances []spec.ActualLRP  `json:"instances"`
	Tasks     []spec.Task       `json:"tasks"`
	pastPage
}

func (a *app) describeCell() *cobra.Command {
	return described(a, &cobra.Command{
		Use: "cell CELL_ID", Short: "A cell: what it has and holds, what the BBS believes it holds, and what happened there", Args: exactly("CELL_ID"),
		Example: "  cfdot describe cell cell-1\n  cfdot describe cell cell-1 --since 10m\n  cfdot describe cell cell-1 -o json | jq .state.AvailableResources",
	}, "CELL", a.cellPage, func(_ string, out *cellPage, since time.Duration) error { return a.showCell(out, since) })
}

func (a *app) cellPage(ctx context.Context, conn grpc.ClientConnInterface, id string, since time.Duration) (cellPage, error) {
	out := cellPage{Instances: []spec.ActualLRP{}, Tasks: []spec.Task{}}
	cell, err := oneCell(ctx, conn, id)
	if err != nil {
		return out, err
	}
	out.Presence = spec.CellPresenceOf(cell)
	if state, err := a.askCell(ctx, cell); err == nil {
		shown := spec.CellStateOf(state)
		out.State = &shown
	} else {
		out.Notes = append(out.Notes, message(err))
	}
	err = a.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{CellId: id}, func(l spec.ActualLRP) error {
		out.Instances = append(out.Instances, l)
		return nil
	})
	if err != nil {
		return out, err
	}
	err = a.eachTask(ctx, conn, &bbsv1.ListTasksRequest{CellId: id}, func(t spec.Task) error {
		out.Tasks = append(out.Tasks, t)
		return nil
	})
	if err != nil {
		return out, err
	}
	out.readPast(ctx, a, conn, &bbsv1.WatchRequest{CellId: id}, since)
	return out, nil
}

// mostRows of a list on a page.
const mostRows = 50

func (a *app) showCell(c *cellPage, since time.Duration) error {
	p := &page{app: a}
	p.facts(a.cellFacts(c)...)
	p.title("Instances, by the BBS")
	columns := slices.DeleteFunc(a.actualColumns(true), func(c output.Column[spec.ActualLRP]) bool { return c.Name == "CELL" || c.Name == "ZONE" })
	table(p, columns, c.Instances[:min(len(c.Instances), mostRows)])
	if n := len(c.Instances) - mostRows; n > 0 {
		p.note("%d more: cfdot actual-lrps -c %s", n, c.Presence.CellID)
	}
	if len(c.Tasks) > 0 {
		p.title("Tasks, by the BBS")
		table(p, a.taskColumns(), c.Tasks[:min(len(c.Tasks), mostRows)])
	}
	if differ := c.differences(); len(differ) > 0 {
		p.title("Where the cell and the BBS differ")
		for _, line := range differ {
			p.write("%s\n", output.Printable(line))
		}
	}
	c.show(p, since, "-c "+c.Presence.CellID)
	return p.err
}

func (a *app) cellFacts(c *cellPage) []fact {
	facts := []fact{
		{"Cell", c.Presence.CellID},
		{"Zone", c.Presence.Zone},
		{"Address", c.Presence.RepAddress},
		{"Version", c.Presence.Version},
		{"Present for", output.Age(c.Presence.Since, a.now)},
		{"Placement tags", strings.Join(c.Presence.PlacementTags, ", ")},
		{"Optional tags", strings.Join(c.Presence.OptionalPlacementTags, ", ")},
	}
	s := c.State
	if s == nil {
		return append(facts, fact{"State", "unreachable"})
	}
	state := "ready"
	switch {
	case s.Evacuating:
		state = "evacuating"
	case !s.Healthy:
		state = "unhealthy"
	}
	use := func(dimension func(spec.Resources) int32, show func(int32) string) string {
		total, free := dimension(s.TotalResources), dimension(s.AvailableResources)
		return fmt.Sprintf("%s of %s reserved (%s), %s free", show(total-free), show(total), output.Percent(total-free, total), show(free))
	}
	plain := func(n int32) string { return fmt.Sprint(n) }
	held := map[string]int{}
	for _, l := range s.LRPs {
		held[strings.ToLower(l.State)]++
	}
	var counts []string
	for _, name := range slices.Sorted(maps.Keys(held)) {
		counts = append(counts, fmt.Sprintf("%d %s", held[name], name))
	}
	return append(facts,
		fact{"State", joined(": ", state, s.Reason)},
		fact{"Restricted", strings.Join(s.Restrictions, "; ")},
		fact{"Memory", use(func(r spec.Resources) int32 { return r.MemoryMB }, output.Mebibytes)},
		fact{"Disk", use(func(r spec.Resources) int32 { return r.DiskMB }, output.Mebibytes)},
		fact{"Containers", use(func(r spec.Resources) int32 { return r.Containers }, plain)},
		fact{"Holds", joined(", ", cmp.Or(strings.Join(counts, ", "), "no instances"), output.Count(len(s.Tasks), "task", "tasks"), fmt.Sprintf("%d starting", s.StartingContainerCount))},
		fact{"Volume drivers", strings.Join(s.VolumeDrivers, ", ")},
	)
}

// differences between what the cell holds and what the BBS believes. What was asked a moment apart may differ for that moment.
func (c *cellPage) differences() []string {
	if c.State == nil {
		return nil
	}
	onCell, inBBS := map[string]string{}, map[string]string{}
	for _, l := range c.State.LRPs {
		onCell[l.InstanceGUID] = fmt.Sprintf("%s/%d (%s)", l.ProcessGUID, l.Index, l.State)
	}
	for _, l := range c.Instances {
		inBBS[l.InstanceGUID] = fmt.Sprintf("%s/%d (%s)", l.ProcessGUID, l.Index, l.State)
	}
	var out []string
	for guid, what := range onCell {
		if _, known := inBBS[guid]; !known {
			out = append(out, fmt.Sprintf("only on the cell: %s, instance %s", what, guid))
		}
	}
	for guid, what := range inBBS {
		if _, known := onCell[guid]; !known {
			out = append(out, fmt.Sprintf("only in the BBS:  %s, instance %s", what, guid))
		}
	}
	slices.Sort(out)
	return out
}

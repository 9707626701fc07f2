package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/servicekit/fault"
)

// cellsAtOnce is how many cells are asked at a time.
const cellsAtOnce = 50

var errCellNotFound = fault.New(codes.NotFound, "ResourceNotFound", "Cell not found")

func (a *app) cells() []*cobra.Command {
	return []*cobra.Command{a.listCells(), a.cell(), a.cellState(), a.cellStates(), a.evacuate(), a.evacuation()}
}

func presentCells(ctx context.Context, conn grpc.ClientConnInterface) ([]*bbsv1.Cell, error) {
	answer, err := bbsv1.NewCellsClient(conn).ListCells(ctx, &bbsv1.ListCellsRequest{})
	if err != nil {
		return nil, err
	}
	return answer.GetCells(), nil
}

func oneCell(ctx context.Context, conn grpc.ClientConnInterface, id string) (*bbsv1.Cell, error) {
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, cell := range cells {
		if cell.GetPresence().GetCellId() == id {
			return cell, nil
		}
	}
	return nil, errCellNotFound.With("no cell %q is present", id)
}

// cellRow is a cell with its state for the table; without one it is not reachable.
type cellRow struct {
	spec.CellPresence
	state *repv1.StateResponse
}

func (a *app) listCells() *cobra.Command {
	columns := []output.Column[cellRow]{
		{Name: "CELL", Cell: func(c cellRow) string { return c.CellID }},
		{Name: "ZONE", Cell: func(c cellRow) string { return c.Zone }},
		{Name: "STATE", Cell: cellStateCell},
		{Name: "CONTAINERS", Cell: func(c cellRow) string {
			if c.state == nil {
				return fmt.Sprintf("?/%d", c.Capacity.Containers)
			}
			total := c.state.GetTotalResources().GetContainers()
			return fmt.Sprintf("%d/%d", total-c.state.GetAvailableResources().GetContainers(), total)
		}},
		{Name: "MEMORY", Cell: func(c cellRow) string { return used(c.state, (*capacity).GetMemoryMb) }},
		{Name: "DISK", Cell: func(c cellRow) string { return used(c.state, (*capacity).GetDiskMb) }},
		{Name: "STARTING", Cell: func(c cellRow) string {
			if c.state == nil {
				return ""
			}
			return strconv.Itoa(int(c.state.GetStartingContainerCount()))
		}},
		{Name: "TAGS", Cell: func(c cellRow) string { return strings.Join(c.PlacementTags, ",") }},
		{Name: "AGE", Cell: func(c cellRow) string { return output.Age(c.Since, a.now) }},
	}
	return &cobra.Command{
		Use: "cells", Short: "List the cells that are present", Args: exactly(),
		RunE: a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			cells, err := presentCells(ctx, conn)
			if err != nil {
				return err
			}
			rows := make([]cellRow, len(cells))
			for i, cell := range cells {
				rows[i].CellPresence = spec.CellPresenceOf(cell)
			}
			if a.flags.format.ForPeople() {
				// Only people are shown what the cells say of themselves; a line is the presence alone.
				a.eachCell(ctx, cells, func(i int, state *repv1.StateResponse, _ error) { rows[i].state = state })
			}
			return printAll(printer(a, columns...), func(show func(cellRow) error) error {
				for _, row := range rows {
					if err := show(row); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
}

func cellStateCell(c cellRow) string {
	switch {
	case c.state == nil:
		return "unreachable"
	case c.state.GetEvacuating():
		return "evacuating"
	case !c.state.GetHealthy():
		return "unhealthy"
	default:
		return "ready"
	}
}

func (a *app) cell() *cobra.Command {
	return &cobra.Command{
		Use: "cell CELL_ID", Short: "Show what one cell publishes about itself", Args: exactly("CELL_ID"),
		RunE: a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			cell, err := oneCell(ctx, conn, args[0])
			if err != nil {
				return err
			}
			p := printer(a,
				output.Column[spec.CellPresence]{Name: "CELL", Cell: func(c spec.CellPresence) string { return c.CellID }},
				output.Column[spec.CellPresence]{Name: "ZONE", Cell: func(c spec.CellPresence) string { return c.Zone }},
				output.Column[spec.CellPresence]{Name: "ADDRESS", Cell: func(c spec.CellPresence) string { return c.RepAddress }},
				output.Column[spec.CellPresence]{Name: "MEMORY", Cell: func(c spec.CellPresence) string { return output.Mebibytes(c.Capacity.MemoryMB) }},
				output.Column[spec.CellPresence]{Name: "DISK", Cell: func(c spec.CellPresence) string { return output.Mebibytes(c.Capacity.DiskMB) }},
				output.Column[spec.CellPresence]{Name: "VERSION", Cell: func(c spec.CellPresence) string { return c.Version }},
			)
			return printOne(p, spec.CellPresenceOf(cell))
		}),
	}
}

func stateColumns() []output.Column[spec.CellState] {
	return []output.Column[spec.CellState]{
		{Name: "CELL", Cell: func(c spec.CellState) string { return c.CellID }},
		{Name: "ZONE", Cell: func(c spec.CellState) string { return c.Zone }},
		{Name: "LRPS", Cell: func(c spec.CellState) string { return strconv.Itoa(len(c.LRPs)) }},
		{Name: "TASKS", Cell: func(c spec.CellState) string { return strconv.Itoa(len(c.Tasks)) }},
		{Name: "STARTING", Cell: func(c spec.CellState) string { return strconv.Itoa(int(c.StartingContainerCount)) }},
		{Name: "FREE MEMORY", Cell: func(c spec.CellState) string { return output.Mebibytes(c.AvailableResources.MemoryMB) }},
		{Name: "FREE DISK", Cell: func(c spec.CellState) string { return output.Mebibytes(c.AvailableResources.DiskMB) }},
		{Name: "FREE CONTAINERS", Cell: func(c spec.CellState) string { return strconv.Itoa(int(c.AvailableResources.Containers)) }},
		{Name: "REASON", Cell: func(c spec.CellState) string { return c.Reason }},
	}
}

func (a *app) cellState() *cobra.Command {
	return &cobra.Command{
		Use: "cell-state CELL_ID", Short: "Ask one cell what it has and holds", Args: exactly("CELL_ID"),
		RunE: a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			cell, err := oneCell(ctx, conn, args[0])
			if err != nil {
				return err
			}
			state, err := a.askCell(ctx, cell)
			if err != nil {
				return err
			}
			return printOne(printer(a, stateColumns()...), spec.CellStateOf(state))
		}),
	}
}

func (a *app) cellStates() *cobra.Command {
	return &cobra.Command{
		Use: "cell-states", Short: "Ask every cell what it has and holds", Args: exactly(),
		RunE: a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			cells, err := presentCells(ctx, conn)
			if err != nil {
				return err
			}
			failed := false
			err = printAll(printer(a, stateColumns()...), func(show func(spec.CellState) error) error {
				asking, cancel := context.WithCancel(ctx)
				defer cancel()
				var problem error
				a.eachCell(asking, cells, func(_ int, state *repv1.StateResponse, err error) {
					switch {
					case problem != nil: // nobody reads any more
					case err != nil:
						failed = true
						a.complain(err)
					default:
						if problem = show(spec.CellStateOf(state)); problem != nil {
							cancel()
						}
					}
				})
				return problem
			})
			if err == nil && failed {
				return errPartial
			}
			return err
		}),
	}
}

// eachCell asks many cells at a time and hands over what each says, one after the other in any order.
func (a *app) eachCell(ctx context.Context, cells []*bbsv1.Cell, take func(i int, state *repv1.StateResponse, err error)) {
	var group errgroup.Group
	var mu sync.Mutex
	group.SetLimit(cellsAtOnce)
	for i, cell := range cells {
		group.Go(func() error {
			state, err := a.askCell(ctx, cell)
			mu.Lock()
			defer mu.Unlock()
			take(i, state, err)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
}

func (a *app) askCell(ctx context.Context, cell *bbsv1.Cell) (*repv1.StateResponse, error) {
	presence := cell.GetPresence()
	conn, err := a.flags.dialCell(presence.GetCellId(), presence.GetRepAddress())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, a.flags.cellTime())
	defer cancel()
	state, err := repv1.NewAuctionClient(conn).State(ctx, &repv1.StateRequest{})
	if err != nil {
		err = fmt.Errorf("Rep error: Failed to get cell state for cell %s: %w", presence.GetCellId(), err) //nolint:staticcheck // the text that tools know
		return nil, of(serverRep, err)
	}
	return state, nil
}

func (a *app) evacuate() *cobra.Command {
	var safe safety
	command := &cobra.Command{
		Use: "evacuate CELL_ID --yes", Short: "Empty a cell: its instances move, its tasks end, then its rep stops", Args: exactly("CELL_ID"),
		Long: "Empty a cell and show how far it is. A cell cannot be told to stop evacuating; breaking off the command does not stop it either.",
	}
	safe.register(command)
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		if err := safe.demand(a, "evacuating cell %s cannot be undone", args[0]); err != nil {
			return err
		}
		cell, err := oneCell(ctx, conn, args[0])
		if err != nil {
			return err
		}
		holds := ""
		if safe.reads(a) {
			state, err := a.askCell(ctx, cell)
			if err != nil {
				return err
			}
			holds = fmt.Sprintf(", with %s and %s", output.Count(len(state.GetLrps()), "instance", "instances"), output.Count(len(state.GetTasks()), "task", "tasks"))
		}
		if proceed, err := safe.allow(a, "evacuate cell %s%s, which cannot be undone", args[0], holds); !proceed {
			return err
		}
		return of(serverRep, a.followEvacuation(ctx, cell))
	})
	return command
}

// errEndedEarly is what a rep that stops or is killed leaves.
var errEndedEarly = fault.New(codes.Unavailable, "", "the rep ended before the evacuation did")

// progress is one line of an evacuation.
type progress struct {
	CellID   string `json:"cell_id"`
	LRPs     int32  `json:"remaining_lrps"`
	Tasks    int32  `json:"remaining_tasks"`
	Deadline int64  `json:"deadline"`
	Done     bool   `json:"done"`
	Stranded int32  `json:"stranded"`
}

func (a *app) followEvacuation(ctx context.Context, cell *bbsv1.Cell) error {
	presence := cell.GetPresence()
	conn, err := a.flags.dialCell(presence.GetCellId(), presence.GetRepAddress())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	lines := output.New[progress](output.Options{Format: output.JSON, Out: a.Stdout})
	done := false
	stream, err := repv1.NewOperationClient(conn).Evacuate(ctx, &repv1.EvacuateRequest{})
	err = follow(stream, err, func(p *repv1.EvacuateResponse) error {
		done = p.GetDone()
		if a.flags.format.ForPeople() {
			_, err := fmt.Fprintf(a.Stdout, "%s: %d instances and %d tasks left\n", presence.GetCellId(), p.GetRemainingLrps(), p.GetRemainingTasks())
			return err
		}
		return lines.Print(progress{
			CellID: presence.GetCellId(), LRPs: p.GetRemainingLrps(), Tasks: p.GetRemainingTasks(),
			Deadline: p.GetDeadline().AsTime().UnixNano(), Done: p.GetDone(), Stranded: p.GetStranded(),
		})
	})
	if err == nil && !done {
		return fmt.Errorf("evacuating cell %s: %w", presence.GetCellId(), errEndedEarly)
	}
	if err != nil {
		return fmt.Errorf("Rep error: Failed to evacuate cell %s: %w", presence.GetCellId(), err) //nolint:staticcheck // the words of the other rep errors
	}
	return nil
}

package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// leaving is how far the emptying of a cell is.
type leaving struct {
	CellID     string `json:"cell_id"`
	Evacuating bool   `json:"evacuating"`
	// Gone: its rep has ended, or it is not present any more.
	Gone bool `json:"gone"`
	// LRPs and Tasks are still there; of the LRPs so many were not told of yet, serve until their replacement does, or stop.
	LRPs      int   `json:"remaining_lrps"`
	Tasks     int   `json:"remaining_tasks"`
	Untold    int32 `json:"untold_lrps"`
	Replacing int32 `json:"replacing_lrps"`
	Stopping  int32 `json:"stopping_lrps"`
	Deadline  int64 `json:"deadline,omitempty"`
	// PerSecond is how fast it becomes empty since we look; Left is how long it takes at that.
	PerSecond float64 `json:"per_second,omitempty"`
	Left      float64 `json:"seconds_left,omitempty"`
	// Waiting are replacements that have no place, by placement error.
	Waiting map[string]int `json:"waiting_for_a_place"`
}

func (a *app) evacuation() *cobra.Command {
	var watch bool
	var interval time.Duration
	command := &cobra.Command{
		Use: "evacuation CELL_ID", Short: "How far a cell is with being emptied, and what holds it up", Args: exactly("CELL_ID"),
		Long: `Show what is left on a cell that is being emptied, how fast that becomes less and how long it takes at that, and why replacements have
no place. It starts nothing: that is for evacuate. With --watch a line for each change, from when it begins until the cell is empty.`,
		Example: "  cfdot evacuation cell-1\n  cfdot evacuation cell-1 --watch\n  cfdot evacuation cell-1 -o json | jq .waiting_for_a_place",
	}
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on until the cell is empty")
	command.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks, at least 500ms")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		if interval < 500*time.Millisecond {
			return usage("--interval must be at least 500ms, is %v", interval)
		}
		cell, err := oneCell(ctx, conn, args[0])
		if err != nil {
			return err
		}
		e := &evacuationWatch{app: a, conn: conn, cell: cell}
		return e.run(ctx, watch, interval)
	})
	return command
}

// evacuationWatch looks at one cell again and again.
type evacuationWatch struct {
	*app
	conn grpc.ClientConnInterface
	cell *bbsv1.Cell

	began  time.Time
	atMost int // left when we began
}

func (e *evacuationWatch) run(ctx context.Context, watch bool, interval time.Duration) error {
	var before leaving
	begun := false
	for looks := 0; ; looks++ {
		now, err := e.look(ctx)
		if err != nil {
			return err
		}
		if looks == 0 || !same(before, now) {
			if err := e.show(now); err != nil {
				return err
			}
		}
		before = now
		// One that does not evacuate yet is waited for; one that did and does not any more was emptied and has begun anew.
		if !watch || now.Gone || begun && !now.Evacuating {
			return nil
		}
		begun = begun || now.Evacuating
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

func same(x, y leaving) bool {
	return x.Evacuating == y.Evacuating && x.LRPs == y.LRPs && x.Tasks == y.Tasks && x.Untold == y.Untold && x.Stopping == y.Stopping && x.Gone == y.Gone && fmt.Sprint(x.Waiting) == fmt.Sprint(y.Waiting)
}

// look asks the cell, and the BBS about replacements.
func (e *evacuationWatch) look(ctx context.Context) (leaving, error) {
	l := leaving{CellID: e.cell.GetPresence().GetCellId(), Waiting: map[string]int{}}
	state, err := e.askCell(ctx, e.cell)
	if fault.Code(err) == codes.Unavailable || fault.Code(err) == codes.DeadlineExceeded {
		// A rep that has emptied its cell ends. Whether it did is what its presence says.
		if _, missing := oneCell(ctx, e.conn, l.CellID); fault.Code(missing) == codes.NotFound {
			l.Gone = true
			return l, nil
		}
	}
	if err != nil {
		return l, err
	}
	l.Evacuating, l.LRPs, l.Tasks = state.GetEvacuating(), len(state.GetLrps()), len(state.GetTasks())
	if p := state.GetEvacuation(); p != nil {
		l.Untold, l.Replacing, l.Stopping = p.GetUntoldLrps(), p.GetReplacingLrps(), p.GetStoppingLrps()
		if t := p.GetDeadline(); t != nil {
			l.Deadline = t.AsTime().UnixNano()
		}
	}
	e.estimate(&l)
	if l.Evacuating {
		err = e.whyWaiting(ctx, state, &l)
	}
	return l, err
}

// estimate is by what we have seen ourselves.
func (e *evacuationWatch) estimate(l *leaving) {
	left := l.LRPs + l.Tasks
	if e.began.IsZero() {
		e.began, e.atMost = time.Now(), left
	}
	passed := time.Since(e.began).Seconds()
	if done := e.atMost - left; done > 0 && passed > 0 {
		l.PerSecond = float64(done) / passed
		l.Left = float64(left) / l.PerSecond
	}
}

// whyWaiting counts the replacements of what is still on the cell that were refused a place, by the reason.
func (e *evacuationWatch) whyWaiting(ctx context.Context, state *repv1.StateResponse, l *leaving) error {
	var guids []string
	onCell := map[string]bool{}
	for _, lrp := range state.GetLrps() {
		guids = append(guids, lrp.GetKey().GetProcessGuid())
		onCell[instanceName(lrp.GetKey())] = true
	}
	if len(guids) == 0 {
		return nil
	}
	slices.Sort(guids)
	request := &bbsv1.ListActualLRPsRequest{
		ProcessGuids: slices.Compact(guids), States: []workloadv1.ActualLRPState{workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED},
	}
	return e.eachActual(ctx, e.conn, request, func(r spec.ActualLRP) error {
		if r.PlacementError != "" && onCell[fmt.Sprintf("%s/%d", r.ProcessGUID, r.Index)] {
			l.Waiting[r.PlacementError]++
		}
		return nil
	})
}

func instanceName(key *workloadv1.ActualLRPKey) string {
	return fmt.Sprintf("%s/%d", key.GetProcessGuid(), key.GetIndex())
}

func (e *evacuationWatch) show(l leaving) error {
	if !e.flags.format.ForPeople() {
		return printOne(printer(e.app, output.Column[leaving]{Name: "CELL", Cell: func(l leaving) string { return l.CellID }}), l)
	}
	var line string
	switch {
	case l.Gone:
		line = "empty: its rep has ended"
	case !l.Evacuating:
		line = fmt.Sprintf("not evacuating; %s and %s on it", output.Count(l.LRPs, "instance", "instances"), output.Count(l.Tasks, "task", "tasks"))
	default:
		line = joined(", ",
			fmt.Sprintf("%s and %s left", output.Count(l.LRPs, "instance", "instances"), output.Count(l.Tasks, "task", "tasks")),
			some(int(l.Untold), "not begun"), some(int(l.Replacing), "serve until replaced"), some(int(l.Stopping), "stopping"))
		if l.PerSecond > 0 && l.Left >= 1 {
			line += fmt.Sprintf("; %.1f/s, about %s to go", l.PerSecond, output.Duration(time.Duration(l.Left*float64(time.Second))))
		}
		if l.Deadline != 0 {
			line += fmt.Sprintf("; deadline in %s", output.Duration(time.Until(time.Unix(0, l.Deadline))))
		}
	}
	lines := []string{l.CellID + ": " + line}
	for _, why := range byCount(l.Waiting) {
		lines = append(lines, output.Paint(e.color(), output.Bad, fmt.Sprintf("  %s without a place: %s", output.Count(l.Waiting[why], "replacement", "replacements"), output.Printable(why))))
	}
	_, err := fmt.Fprintln(e.Stdout, strings.Join(lines, "\n"))
	return err
}

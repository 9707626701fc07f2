package command

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/selection"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// actualFlags choose instances. What the BBS can choose is asked of it, the rest is left out here as it comes.
type actualFlags struct {
	domain, cell, process string
	selector              string
	index                 int
	limit                 int
	names, watch          bool
	wanted                selection.Instances
}

func (f *actualFlags) register(command *cobra.Command) {
	set := command.Flags()
	set.StringVarP(&f.domain, "domain", "d", "", "only this domain")
	set.StringVarP(&f.cell, "cell-id", "c", "", "only on this cell")
	set.StringVarP(&f.process, "process-guid", "p", "", "only of this process")
	set.IntVarP(&f.index, "index", "i", -1, "only this index")
	set.StringSliceVar(&f.wanted.States, "state", nil, "only in these states: UNCLAIMED, CLAIMED, RUNNING, CRASHED")
	set.StringSliceVar(&f.wanted.Presences, "presence", nil, "only records of these kinds: ORDINARY, EVACUATING, SUSPECT")
	set.StringSliceVar(&f.wanted.Zones, "zone", nil, "only in these zones")
	set.BoolVar(&f.wanted.Crashed, "crashed", false, "only those that have crashed since they last ran for long")
	set.BoolVar(&f.wanted.PlacementError, "placement-error", false, "only those that were refused a place")
	set.DurationVar(&f.wanted.OlderThan, "older-than", 0, "only those that are in their state for longer")
	set.StringVar(&f.selector, "selector", "", "only with these metric tags: NAME=VALUE or NAME!=VALUE, separated by commas")
	set.BoolVar(&f.names, "resolve-names", false, "show organization, space and application, as the metric tags have them")
	set.IntVar(&f.limit, "limit", 0, "only so many; 0 is all")
	set.BoolVarP(&f.watch, "watch", "w", false, "go on with each change")
}

// request checks the flags and says what to ask the BBS for.
func (f *actualFlags) request(c *cobra.Command) (*bbsv1.ListActualLRPsRequest, error) {
	request := &bbsv1.ListActualLRPsRequest{Domain: f.domain, CellId: f.cell}
	if f.process != "" {
		request.ProcessGuids = []string{f.process}
	}
	if c.Flags().Changed("index") {
		number, err := indexOf(f.index)
		if err != nil {
			return nil, err
		}
		request.Index = &number
	}
	for i, name := range f.wanted.States {
		f.wanted.States[i] = strings.ToUpper(name)
		state, ok := workloadv1.ActualLRPState_value["ACTUAL_LRP_STATE_"+f.wanted.States[i]]
		if !ok || state == 0 {
			return nil, usage("state must be UNCLAIMED, CLAIMED, RUNNING or CRASHED, not %q", name)
		}
		request.States = append(request.States, workloadv1.ActualLRPState(state))
	}
	for i, name := range f.wanted.Presences {
		f.wanted.Presences[i] = strings.ToUpper(name)
		presence, ok := workloadv1.Presence_value["PRESENCE_"+f.wanted.Presences[i]]
		if !ok || presence == 0 {
			return nil, usage("presence must be ORDINARY, EVACUATING or SUSPECT, not %q", name)
		}
		request.Presences = append(request.Presences, workloadv1.Presence(presence))
	}
	var err error
	if f.wanted.Selector, err = selection.ParseSelector(f.selector); err != nil {
		return nil, usage("--selector: %w", err)
	}
	return request, errors.Join(notNegative("limit", f.limit), notNegative("older-than", f.wanted.OlderThan))
}

func notNegative[N int | time.Duration](name string, n N) error {
	if n < 0 {
		return usage("--%s must not be negative, is %v", name, n)
	}
	return nil
}

func (a *app) actualLRPs() *cobra.Command {
	var f actualFlags
	command := &cobra.Command{
		Use: "actual-lrps", Short: "List what runs", Args: exactly(),
		Example: "  cfdot actual-lrps -p my-app --watch\n  cfdot actual-lrps --state CRASHED,UNCLAIMED --older-than 5m --resolve-names\n  cfdot actual-lrps --selector space_name=prod -o custom=APP:.metric_tags.app_name,CELL:.cell_id",
	}
	f.register(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		request, err := f.request(c)
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			if f.watch {
				return a.watchActual(ctx, conn, &f, request)
			}
			return printAll(printer(a, a.actualColumns(f.names)...), func(show func(spec.ActualLRP) error) error {
				show = atMost(f.limit, show)
				return untilEnough(a.eachActual(ctx, conn, request, func(l spec.ActualLRP) error {
					if !f.wanted.Match(&l, a.now) {
						return nil
					}
					return show(l)
				}))
			})
		})(c, args)
	}
	return command
}

// atMost makes show return errEnough once it has shown so many; 0 is all.
func atMost[T any](limit int, show func(T) error) func(T) error {
	if limit <= 0 {
		return show
	}
	return func(record T) error {
		limit--
		if err := show(record); err != nil || limit > 0 {
			return err
		}
		return errEnough
	}
}

func untilEnough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (a *app) watchActual(ctx context.Context, conn grpc.ClientConnInterface, f *actualFlags, list *bbsv1.ListActualLRPsRequest) error {
	request := &bbsv1.WatchRequest{
		Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP}, Domain: list.GetDomain(), CellId: list.GetCellId(), ProcessGuids: list.GetProcessGuids(),
	}
	return watchList(ctx, a, conn, request, watching[spec.ActualLRP]{
		columns: a.actualColumns(f.names),
		match: func(l spec.ActualLRP) bool {
			return f.wanted.Match(&l, a.now) && (list.Index == nil || l.Index == list.GetIndex()) && (f.cell == "" || l.CellID == f.cell)
		},
		pick: func(chunk *bbsv1.WatchResponse_SnapshotChunk) []spec.ActualLRP {
			return allOf(chunk.GetActualLrps(), spec.ActualLRPOf)
		},
		moved: func(event *bbsv1.Event) (before, after *spec.ActualLRP) {
			switch e := event.GetEvent().(type) {
			case *bbsv1.Event_ActualLrpInstanceCreated:
				return nil, shown(e.ActualLrpInstanceCreated.GetActualLrp(), spec.ActualLRPOf)
			case *bbsv1.Event_ActualLrpInstanceChanged:
				return shown(e.ActualLrpInstanceChanged.GetBefore(), spec.ActualLRPOf), shown(e.ActualLrpInstanceChanged.GetAfter(), spec.ActualLRPOf)
			case *bbsv1.Event_ActualLrpInstanceRemoved:
				return shown(e.ActualLrpInstanceRemoved.GetActualLrp(), spec.ActualLRPOf), nil
			default:
				return nil, nil
			}
		},
	})
}

func allOf[M, T any](messages []M, of func(M) T) []T {
	out := make([]T, 0, len(messages))
	for _, message := range messages {
		out = append(out, of(message))
	}
	return out
}

func shown[M, T any](message M, of func(M) T) *T {
	record := of(message)
	return &record
}

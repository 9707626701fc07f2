package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// index of an instance, the same over all its container lives.
type index struct {
	guid string
	n    int32
}

// life is one container of an instance.
type life struct{ cell, instance string }

// verify holds the records of the BBS against what was desired and against the containers of every cell: none missing, none
// doubled, none left over. Cells may take a while to delete containers.
func (w *world) verify(ctx context.Context, step string, want int) error {
	var found []container
	err := w.await(ctx, func(ctx context.Context) (any, error) {
		// The records are read each time: an instance may crash meanwhile, and be elsewhere then.
		records, err := w.records(ctx, want)
		if err != nil {
			return nil, err
		}
		containers, err := w.containers(ctx)
		if err != nil {
			return nil, err
		}
		found = containers
		return len(containers), compare(records, containers)
	})
	if err != nil || want == 0 {
		return err
	}
	zones, err := w.zones(ctx)
	if err == nil {
		w.report.load(loadOf(step, zones, found))
	}
	return err
}

// records of all instances. It is an error if they are not exactly those desired, running and ordinary.
func (w *world) records(ctx context.Context, want int) (map[index]life, error) {
	out := make(map[index]life, want)
	var problems []error
	err := w.list(ctx, &bbsv1.ListActualLRPsRequest{}, func(lrp *workloadv1.ActualLRP) {
		at := index{lrp.GetKey().GetProcessGuid(), lrp.GetKey().GetIndex()}
		if _, doubled := out[at]; doubled || lrp.GetState() != workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING ||
			lrp.GetPresence() != workloadv1.Presence_PRESENCE_ORDINARY {
			problems = append(problems, fmt.Errorf("record %v is doubled, or not an ordinary running one: %v", at, lrp))
		}
		out[at] = life{lrp.GetInstanceKey().GetCellId(), lrp.GetInstanceKey().GetInstanceGuid()}
	})
	if err != nil {
		return nil, err
	}
	for i := 0; i < w.processes() && want > 0; i++ {
		for n := range w.sizeOf(i) {
			at := index{processGUID(i), int32(n)}
			if _, there := out[at]; !there {
				problems = append(problems, fmt.Errorf("record %v is missing", at))
			}
		}
	}
	if len(out) > want {
		problems = append(problems, fmt.Errorf("there are %d records, %d too many", len(out), len(out)-want))
	}
	return out, some(problems)
}

// some of many problems.
func some(problems []error) error {
	const most = 10
	if len(problems) > most {
		problems = append(problems[:most:most], fmt.Errorf("and %d more", len(problems)-most))
	}
	return errors.Join(problems...)
}

// list reads records to the end.
func (w *world) list(ctx context.Context, request *bbsv1.ListActualLRPsRequest, take func(*workloadv1.ActualLRP)) error {
	stream, err := w.actual.ListActualLRPs(ctx, request)
	err = drain(stream, err, func(chunk *bbsv1.ListActualLRPsResponse) {
		for _, lrp := range chunk.GetActualLrps() {
			take(lrp)
		}
	})
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	return nil
}

func drain[T any](stream grpc.ServerStreamingClient[T], err error, take func(*T)) error {
	for err == nil {
		var chunk *T
		if chunk, err = stream.Recv(); err == nil {
			take(chunk)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// container as its cell tells of it.
type container struct {
	index
	life
	running bool
}

// containers of instances on all cells.
func (w *world) containers(ctx context.Context) ([]container, error) {
	cells, err := w.addresses(ctx)
	if err != nil {
		return nil, err
	}
	ids := slices.Collect(maps.Keys(cells))
	var mu sync.Mutex
	var out []container
	err = forEach(ctx, len(ids), 16, func(ctx context.Context, i int) error {
		conn, err := w.dialCell(ids[i], cells[ids[i]])
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		state, err := repv1.NewAuctionClient(conn).State(ctx, &repv1.StateRequest{})
		if err != nil {
			return fmt.Errorf("asking %s for its state: %w", ids[i], err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, lrp := range state.GetLrps() {
			out = append(out, container{
				index: index{lrp.GetKey().GetProcessGuid(), lrp.GetKey().GetIndex()}, life: life{ids[i], lrp.GetInstanceGuid()},
				running: lrp.GetState() == repv1.ContainerState_CONTAINER_STATE_RUNNING,
			})
		}
		return nil
	})
	return out, err
}

// compare requires one running container for each record, and no other.
func compare(records map[index]life, containers []container) error {
	missing := maps.Clone(records)
	var problems []error
	for _, c := range containers {
		if missing[c.index] == c.life && c.running {
			delete(missing, c.index)
		} else {
			problems = append(problems, fmt.Errorf("container of %v on %s is doubled, left over or not running; the record is %v", c.index, c.cell, records[c.index]))
		}
	}
	for at, record := range missing {
		problems = append(problems, fmt.Errorf("the container of %v is missing on %s", at, record.cell))
	}
	return some(problems)
}

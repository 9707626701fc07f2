package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// fetchTimeout bounds the reading of the records. A stream has no deadline of its own, and a round that waits for a BBS
// which hangs would be the last one.
const fetchTimeout = 30 * time.Second

var errFetchTimeout = errors.New("the bbs did not send the records of the cell in time")

// fetch reads all records of this cell.
func (r *Reconciler) fetch(ctx context.Context) (*records, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, errFetchTimeout)
	defer cancel()
	out := &records{lrps: map[string]*workloadv1.ActualLRP{}, tasks: map[string]*workloadv1.Task{}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		stream, err := r.BBS.ActualLRPs.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{CellId: r.CellID})
		return collect(stream, err, func(chunk *bbsv1.ListActualLRPsResponse) {
			for _, record := range chunk.GetActualLrps() {
				out.lrps[record.GetInstanceKey().GetInstanceGuid()] = record
			}
		})
	})
	group.Go(func() error {
		stream, err := r.BBS.Tasks.ListTasks(ctx, &bbsv1.ListTasksRequest{
			CellId: r.CellID, States: []workloadv1.TaskState{workloadv1.TaskState_TASK_STATE_RUNNING},
		})
		return collect(stream, err, func(chunk *bbsv1.ListTasksResponse) {
			for _, task := range chunk.GetTasks() {
				out.tasks[task.GetTaskGuid()] = task
			}
		})
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("fetching the records of cell %q: %w", r.CellID, err)
	}
	return out, nil
}

// collect reads a list to its end.
func collect[T any](stream grpc.ServerStreamingClient[T], err error, add func(*T)) error {
	if err != nil {
		return err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		add(chunk)
	}
}

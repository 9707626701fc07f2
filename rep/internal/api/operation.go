package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/rep/internal/evacuation"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
)

var errNotSimulated = fault.New(codes.FailedPrecondition, "not-a-simulation-rep", "a cell with real containers does not forget them")

// Operation serves rep.v1.Operation.
type Operation struct {
	repv1.UnimplementedOperationServer

	Executor  *executor.Client
	Evacuator *evacuation.Evacuator
	// Report is the pause between two messages of progress.
	Report time.Duration
	// Stopping is closed when the process ends, so that streams do not hold it up.
	Stopping <-chan struct{}
	// Forget deletes all containers of a simulated cell; nil for a real one.
	Forget func(ctx context.Context) error
}

// Evacuate implements repv1.OperationServer.
func (o *Operation) Evacuate(req *repv1.EvacuateRequest, stream grpc.ServerStreamingServer[repv1.EvacuateResponse]) error {
	o.Evacuator.Begin()
	ticker := time.NewTicker(o.Report)
	defer ticker.Stop()
	for {
		p := o.Evacuator.Progress()
		answer := &repv1.EvacuateResponse{
			RemainingLrps: int32(p.LRPs), RemainingTasks: int32(p.Tasks), //nolint:gosec // at most a few hundred
			Deadline: timestamppb.New(p.Deadline), Done: p.Done, Stranded: int32(p.Stranded), //nolint:gosec // at most a few hundred
		}
		if req.GetWithContainers() {
			answer.Containers = evacuatingContainers(o.Evacuator.Left())
		}
		if err := stream.Send(answer); err != nil || p.Done {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-o.Evacuator.Done():
		case <-o.Stopping:
			// An evacuated cell stops by itself. That is the news the caller waits for, so it is told first.
			if !o.Evacuator.Progress().Done {
				return nil
			}
		case <-ticker.C:
		}
	}
}

// Reset implements repv1.OperationServer.
func (o *Operation) Reset(ctx context.Context, _ *repv1.ResetRequest) (*repv1.ResetResponse, error) {
	if o.Forget == nil {
		return nil, errNotSimulated
	}
	if err := o.Forget(ctx); err != nil {
		return nil, fmt.Errorf("forgetting all containers: %w", err)
	}
	return &repv1.ResetResponse{}, nil
}

// ContainerMetrics implements repv1.OperationServer.
func (o *Operation) ContainerMetrics(ctx context.Context, _ *repv1.ContainerMetricsRequest) (*repv1.ContainerMetricsResponse, error) {
	metrics, err := o.Executor.GetBulkMetrics(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics of the containers: %w", err)
	}
	out := &repv1.ContainerMetricsResponse{At: timestamppb.Now()}
	for _, c := range o.Executor.ListContainers() {
		m, ok := metrics[c.GUID]
		if !ok {
			continue
		}
		sample := translate.MetricsMessage(c, m)
		if c.Tags[translate.TagLifecycle] == translate.LifecycleLRP {
			if sample.Key, _, err = translate.LRPOf(c, ""); err != nil {
				return nil, err
			}
		}
		out.Containers = append(out.Containers, sample)
	}
	return out, nil
}

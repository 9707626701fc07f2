package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	"diego.internal/auctioneer/internal/work"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// Unplaced lists what waits for a cell; bbsv1.PlacementClient is one.
type Unplaced interface {
	ListUnplaced(ctx context.Context, in *bbsv1.ListUnplacedRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[bbsv1.ListUnplacedResponse], error)
}

// Recover queues everything that the BBS says is waiting: what the auctioneer before
// had accepted and not placed. It tries until it succeeds or ctx ends.
func Recover(ctx context.Context, bbs Unplaced, queue *Queue, log *slog.Logger) error {
	// Requests come in meanwhile, and a list may be older than what became of them.
	defer queue.recover()()
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = maxPause
	for {
		found, err := recoverOnce(ctx, bbs, queue, log)
		if ctx.Err() != nil {
			return nil // asked to stop
		}
		if err == nil {
			log.InfoContext(ctx, "waiting-work-recovered", "items", found)
			return nil
		}
		log.WarnContext(ctx, "waiting-work-not-recovered", "error", err)
		if !sleep(ctx, pause.NextBackOff()) {
			return nil
		}
	}
}

// recoverOnce queues each part as it comes. A second attempt finds the first one's
// work by its keys.
func recoverOnce(ctx context.Context, bbs Unplaced, queue *Queue, log *slog.Logger) (found int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := bbs.ListUnplaced(ctx, &bbsv1.ListUnplacedRequest{})
	if err != nil {
		return 0, fmt.Errorf("asking for waiting work: %w", err)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, fmt.Errorf("reading waiting work: %w", err)
		}
		works, bad := work.Unplaced(part, time.Now())
		if bad > 0 {
			log.WarnContext(ctx, "waiting-work-is-invalid", "items", bad)
		}
		if err := queue.addRecovered(works); err != nil {
			return found, fmt.Errorf("queueing waiting work: %w", err)
		}
		found += len(works)
	}
}

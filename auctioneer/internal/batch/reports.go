package batch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	bbsv1 "diego.internal/proto/bbs/v1"
)

const (
	// reportChunk is the number of reports in one call; with keys and texts of usual
	// length a call stays far below the limit on messages.
	reportChunk = 5000
	// reportTimeout bounds one call.
	reportTimeout = 10 * time.Second
)

// Reporter takes the reports; bbsv1.PlacementClient is one.
type Reporter interface {
	FailActualLRPs(ctx context.Context, in *bbsv1.FailActualLRPsRequest, opts ...grpc.CallOption) (*bbsv1.FailActualLRPsResponse, error)
	RejectTasks(ctx context.Context, in *bbsv1.RejectTasksRequest, opts ...grpc.CallOption) (*bbsv1.RejectTasksResponse, error)
}

// Reports tells the BBS why work was not placed, in bulk and off the loop: a slow BBS
// delays no placement. The latest text per key counts.
type Reports struct {
	client Reporter
	log    *slog.Logger
	signal chan struct{}

	mu    sync.Mutex
	lrps  map[work.Key]report
	tasks map[work.Key]report
}

type report struct {
	work *work.Work
	text string
}

// NewReports makes an empty list of reports; Run sends them.
func NewReports(client Reporter, log *slog.Logger) *Reports {
	return &Reports{
		client: client, log: log, signal: make(chan struct{}, 1),
		lrps: map[work.Key]report{}, tasks: map[work.Key]report{},
	}
}

// Refused notes a refusal for sending. It does not block.
func (r *Reports) Refused(w *work.Work, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.Kind == auction.Task {
		r.tasks[w.Key()] = report{work: w, text: text}
	} else {
		r.lrps[w.Key()] = report{work: w, text: text}
	}
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// Run sends reports until ctx ends. What is unsent then is found again by the BBS,
// which asks anew for everything that waits too long.
func (r *Reports) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.signal:
		}
		if r.send(ctx) {
			pause.Reset()
			continue
		}
		if !sleep(ctx, pause.NextBackOff()) {
			return nil
		}
	}
}

// send empties the list; false if the BBS does not take it now.
func (r *Reports) send(ctx context.Context) bool {
	r.mu.Lock()
	lrps, tasks := r.lrps, r.tasks
	r.lrps, r.tasks = map[work.Key]report{}, map[work.Key]report{}
	r.mu.Unlock()

	r.sendTasks(ctx, tasks)
	return r.sendLRPs(ctx, lrps)
}

// sendLRPs may be repeated, so what fails is kept for another time.
func (r *Reports) sendLRPs(ctx context.Context, lrps map[work.Key]report) bool {
	for chunk := range chunks(lrps) {
		req := &bbsv1.FailActualLRPsRequest{}
		for _, rep := range chunk {
			req.Failures = append(req.Failures, &bbsv1.FailActualLRPsRequest_Failure{Key: rep.work.ActualLRPKey(), PlacementError: rep.text})
		}
		callCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		_, err := r.client.FailActualLRPs(callCtx, req)
		cancel()
		if err != nil {
			r.log.WarnContext(ctx, "placement-errors-not-reported", "waiting", len(lrps), "error", err)
			r.keep(lrps)
			return false
		}
		for _, rep := range chunk {
			delete(lrps, rep.work.Key())
		}
	}
	return true
}

// sendTasks must not be repeated, as each report counts. A lost one costs the task a
// delay: the BBS asks for it again.
func (r *Reports) sendTasks(ctx context.Context, tasks map[work.Key]report) {
	for chunk := range chunks(tasks) {
		req := &bbsv1.RejectTasksRequest{}
		for _, rep := range chunk {
			req.Rejections = append(req.Rejections, &bbsv1.RejectTasksRequest_Rejection{TaskGuid: rep.work.GUID, RejectionReason: rep.text})
		}
		callCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		_, err := r.client.RejectTasks(callCtx, req)
		cancel()
		if err != nil {
			r.log.WarnContext(ctx, "task-rejections-not-reported", "count", len(chunk), "error", err)
		}
	}
}

// keep puts unsent reports back, unless there is a later one.
func (r *Reports) keep(unsent map[work.Key]report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, rep := range unsent {
		if _, later := r.lrps[key]; !later {
			r.lrps[key] = rep
		}
	}
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// chunks cuts the reports into calls.
func chunks(all map[work.Key]report) func(func([]report) bool) {
	list := make([]report, 0, len(all))
	for _, rep := range all {
		list = append(list, rep)
	}
	return func(yield func([]report) bool) {
		for len(list) > 0 {
			n := min(len(list), reportChunk)
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}

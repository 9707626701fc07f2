// Package work decides what the cell takes of the work that the auctioneer offers, and reserves room for it. Whether there
// is room is the executor's to say; this package knows the order of asking, what the cell can run at all, and what it
// holds already.
package work

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
	"diego.internal/servicekit/fault"
)

// ErrWrongCell says that the work is for another cell: its address was given to this one.
var ErrWrongCell = fault.New(codes.FailedPrecondition, "WrongCell", "workload cell ID does not match this cell")

// Reasons of refusal, next to those of the executor.
const (
	ReasonEvacuating = "cell is evacuating"
	ReasonUnhealthy  = "container engine is unhealthy"
	ReasonRootFS     = "preloaded rootfs path not found"
	ReasonVolume     = "found no compatible cell with required volume drivers"
)

// Executor is what this package needs of the executor.
type Executor interface {
	AllocateContainers(ctx context.Context, requests []executor.AllocationRequest) []executor.AllocationFailure
	Healthy() (bool, error)
	VolumeDrivers() []string
}

// Performer reserves room for work. Its methods may be called concurrently; calls of Perform follow one another, so that
// one instance offered twice is never reserved twice.
type Performer struct {
	CellID   string
	Executor Executor
	// Holds says whether the cell has an identity (see translate.Identity) already.
	Holds func(identity string) bool
	// RootFS says whether the cell can make this root filesystem.
	RootFS func(uri string) bool
	// Evacuating says whether the cell is being emptied.
	Evacuating func() bool
	// NewGUID names a container.
	NewGUID func() string
	Log     *slog.Logger

	mu sync.Mutex
}

// Perform answers every item of the request by itself. Largest memory is asked for first, because it is the hardest to fit.
// It returns ErrWrongCell if the request names another cell.
func (p *Performer) Perform(ctx context.Context, req *repv1.PerformRequest) (lrps, tasks []*repv1.WorkResult, err error) {
	if req.GetCellId() != p.CellID {
		return nil, nil, ErrWrongCell.With("work for cell %q came to cell %q", req.GetCellId(), p.CellID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	offer := p.newOffer(req)
	if reason := p.closed(); reason != "" {
		offer.refuseAll(reason)
	} else {
		p.allocate(ctx, offer)
	}
	return offer.lrps, offer.tasks, nil
}

// closed says why the cell takes no work at all; empty if it does.
func (p *Performer) closed() string {
	if p.Evacuating() {
		return ReasonEvacuating
	}
	if healthy, _ := p.Executor.Healthy(); !healthy {
		return ReasonUnhealthy
	}
	return ""
}

// item is one piece of work with the place of its answer.
type item struct {
	request   executor.AllocationRequest
	result    *repv1.WorkResult
	placement *workloadv1.PlacementConstraint
	// held says that the cell has it already.
	held bool
}

// offer is a request with its answers.
type offer struct {
	items       []item
	lrps, tasks []*repv1.WorkResult
	// first are the answers by identity: what is offered twice in one request is one piece of work and gets one answer.
	first map[string]*repv1.WorkResult
}

func (p *Performer) newOffer(req *repv1.PerformRequest) *offer {
	o := &offer{first: map[string]*repv1.WorkResult{}}
	for _, lrp := range req.GetLrps() {
		guid := p.NewGUID()
		tags := translate.LRPTags(lrp.GetKey(), guid, lrp.GetDefinitionId(), lrp.GetPlacement())
		o.lrps = append(o.lrps, o.add(guid, tags, lrp, p.Holds))
	}
	for _, task := range req.GetTasks() {
		tags := translate.TaskTags(task.GetTaskGuid(), task.GetDomain(), task.GetPlacement())
		o.tasks = append(o.tasks, o.add(p.NewGUID(), tags, task, p.Holds))
	}
	return o
}

// described is what LRP and task work have in common.
type described interface {
	GetResources() *workloadv1.Resources
	GetPlacement() *workloadv1.PlacementConstraint
	GetTraceId() string
}

func (o *offer) add(guid string, tags map[string]string, work described, holds func(identity string) bool) *repv1.WorkResult {
	id := translate.Identity(tags)
	if twin, offered := o.first[id]; offered {
		return twin
	}
	tags[translate.TagTraceID] = work.GetTraceId()
	result := &repv1.WorkResult{}
	o.first[id] = result
	o.items = append(o.items, item{
		request: executor.AllocationRequest{
			GUID: guid, Resources: translate.Resources(work.GetResources()), Tags: tags,
			// Whether it has ports, and so gets one, is known when it is run.
			Proxied: tags[translate.TagLifecycle] == translate.LifecycleLRP,
		},
		result:    result,
		placement: work.GetPlacement(),
		held:      holds(id),
	})
	return result
}

func (o *offer) refuseAll(reason string) {
	for _, it := range o.items {
		it.result.Accepted, it.result.Reason = it.held, reason
		if it.held {
			it.result.Reason = ""
		}
	}
}

func (p *Performer) allocate(ctx context.Context, o *offer) {
	slices.SortStableFunc(o.items, func(a, b item) int { return b.request.Resources.MemoryMB - a.request.Resources.MemoryMB })
	var requests []executor.AllocationRequest
	waiting := map[string]*repv1.WorkResult{}
	drivers := p.Executor.VolumeDrivers()
	for _, it := range o.items {
		switch {
		case it.held:
			it.result.Accepted = true
		case !containsAll(drivers, it.placement.GetVolumeDrivers()):
			it.result.Reason = ReasonVolume
		case !p.RootFS(it.placement.GetRootFs()):
			it.result.Reason = ReasonRootFS
		default:
			it.result.Accepted = true
			waiting[it.request.GUID] = it.result
			requests = append(requests, it.request)
		}
	}
	if len(requests) == 0 {
		return
	}
	for _, failure := range p.Executor.AllocateContainers(ctx, requests) {
		result := waiting[failure.Request.GUID]
		result.Accepted, result.Reason = false, reason(failure.Err)
	}
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// reason words a refusal as a placement error, by whose beginning callers sort it.
func reason(err error) string {
	if errors.Is(err, executor.ErrInsufficientResources) {
		_, dimensions, found := strings.Cut(err.Error(), executor.ErrInsufficientResources.Error()+": ")
		if found {
			return "insufficient resources: " + dimensions
		}
		return "insufficient resources"
	}
	return err.Error()
}

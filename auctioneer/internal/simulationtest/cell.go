package simulationtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Cell answers State and Perform. It keeps exact account of its room.
type Cell struct {
	repv1.UnimplementedAuctionServer

	ID, Zone, Address string

	mu    sync.Mutex
	state *repv1.StateResponse // without lists
	lrps  map[string]*repv1.LRP
	tasks map[string]*repv1.Task
	// moved is the version since which each container, by guid, is as it is, or gone.
	moved    map[string]uint64
	states   int
	performs int

	onState   func(ctx context.Context) error
	onPerform func(ctx context.Context, perform func()) error
}

// NewCell makes a standard cell that no server stands for; Client talks to it.
func NewCell(id, zone string, index int) *Cell { return newCell(id, zone, index) }

// Client talks to the cell without a connection.
func (c *Cell) Client() repv1.AuctionClient { return direct{c} }

type direct struct{ cell *Cell }

func (d direct) State(ctx context.Context, in *repv1.StateRequest, _ ...grpc.CallOption) (*repv1.StateResponse, error) {
	return d.cell.State(ctx, in)
}

func (d direct) Perform(ctx context.Context, in *repv1.PerformRequest, _ ...grpc.CallOption) (*repv1.PerformResponse, error) {
	return d.cell.Perform(ctx, in)
}

// Free returns what is neither reserved nor used.
func (c *Cell) Free() *workloadv1.CellCapacity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.CloneOf(c.state.GetAvailableResources())
}

// newCell has 100 MB of memory, 100 MB of disk and 100 containers.
func newCell(id, zone string, index int) *Cell {
	return &Cell{
		ID: id, Zone: zone, lrps: map[string]*repv1.LRP{}, tasks: map[string]*repv1.Task{}, moved: map[string]uint64{},
		state: &repv1.StateResponse{
			CellId: id, Zone: zone, CellIndex: int32(index), Healthy: true, Version: 1,
			RootfsProviders:    []*workloadv1.RootFSProvider{{Scheme: "preloaded", FixedSet: true, Names: []string{"stack"}}},
			TotalResources:     &workloadv1.CellCapacity{MemoryMb: 100, DiskMb: 100, Containers: 100},
			AvailableResources: &workloadv1.CellCapacity{MemoryMb: 100, DiskMb: 100, Containers: 100},
		},
	}
}

// Change edits the state that the cell tells.
func (c *Cell) Change(edit func(*repv1.StateResponse)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edit(c.state)
	c.state.Version++
}

// OnState has a hook run before each State; its error is the answer. nil takes the hook
// away.
func (c *Cell) OnState(hook func(ctx context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onState = hook
}

// OnPerform has a hook run around each Perform: it may call perform, or not, and its
// error is the answer.
func (c *Cell) OnPerform(hook func(ctx context.Context, perform func()) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onPerform = hook
}

// Holds returns the number of instances and tasks on the cell.
func (c *Cell) Holds() (lrps, tasks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lrps), len(c.tasks)
}

// Instances returns the instances on the cell as "guid.index".
func (c *Cell) Instances() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for l := range maps.Values(c.lrps) {
		out = append(out, fmt.Sprintf("%s.%d", l.GetKey().GetProcessGuid(), l.GetKey().GetIndex()))
	}
	return out
}

// Tasks returns the guids of the tasks on the cell.
func (c *Cell) Tasks() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.tasks))
}

// Calls returns how often State and Perform were called.
func (c *Cell) Calls() (states, performs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states, c.performs
}

// Clear removes all work and gives its room back.
func (c *Cell) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moveAll()
	clear(c.lrps)
	clear(c.tasks)
	c.state.AvailableResources = proto.CloneOf(c.state.GetTotalResources())
	c.state.StartingContainerCount = 0
}

// moveAll begins a version in which every container is another. The caller holds the lock.
func (c *Cell) moveAll() {
	c.state.Version++
	for l := range maps.Values(c.lrps) {
		c.moved[l.GetInstanceGuid()] = c.state.GetVersion()
	}
	for t := range maps.Values(c.tasks) {
		c.moved[t.GetContainerGuid()] = c.state.GetVersion()
	}
}

// RunAll lets everything that is starting run.
func (c *Cell) RunAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moveAll()
	for _, l := range c.lrps {
		l.State = repv1.ContainerState_CONTAINER_STATE_RUNNING
	}
	for _, t := range c.tasks {
		t.State = repv1.ContainerState_CONTAINER_STATE_RUNNING
	}
	c.state.StartingContainerCount = 0
}

// State implements repv1.AuctionServer.
func (c *Cell) State(ctx context.Context, req *repv1.StateRequest) (*repv1.StateResponse, error) {
	c.mu.Lock()
	c.states++
	hook := c.onState
	c.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := proto.CloneOf(c.state)
	if req.GetKnownVersion() == s.GetVersion() {
		s.Unchanged = true
		return s, nil
	}
	known := req.GetKnownContainers()
	s.ContainersVersion, s.Partial = s.GetVersion(), known > 0
	gone := maps.Clone(c.moved)
	for l := range maps.Values(c.lrps) {
		delete(gone, l.GetInstanceGuid())
		if c.moved[l.GetInstanceGuid()] > known {
			s.Lrps = append(s.Lrps, proto.CloneOf(l))
		}
	}
	for t := range maps.Values(c.tasks) {
		delete(gone, t.GetContainerGuid())
		if c.moved[t.GetContainerGuid()] > known {
			s.Tasks = append(s.Tasks, proto.CloneOf(t))
		}
	}
	for guid, since := range gone {
		if s.GetPartial() && since > known {
			s.Gone = append(s.Gone, guid)
		}
	}
	return s, nil
}

// Perform implements repv1.AuctionServer.
func (c *Cell) Perform(ctx context.Context, req *repv1.PerformRequest) (*repv1.PerformResponse, error) {
	c.mu.Lock()
	c.performs++
	hook := c.onPerform
	c.mu.Unlock()
	var resp *repv1.PerformResponse
	if hook == nil {
		return c.perform(req), nil
	}
	if err := hook(ctx, func() { resp = c.perform(req) }); err != nil {
		return nil, err
	}
	if resp == nil {
		resp = c.perform(req)
	}
	return resp, nil
}

func (c *Cell) perform(req *repv1.PerformRequest) *repv1.PerformResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &repv1.PerformResponse{}
	c.state.Version++
	guid := func() string {
		name := fmt.Sprintf("container-%d", len(c.moved))
		c.moved[name] = c.state.GetVersion()
		return name
	}
	for _, w := range req.GetLrps() {
		key := w.GetKey().String()
		r := c.reserve(c.lrps[key] != nil, w.GetResources(), c.state.GetProxyMemoryAllocationMb())
		if r.GetAccepted() && c.lrps[key] == nil {
			c.lrps[key] = &repv1.LRP{InstanceGuid: guid(), Key: w.GetKey(), Resources: w.GetResources(), State: repv1.ContainerState_CONTAINER_STATE_RESERVED}
		}
		resp.Lrps = append(resp.Lrps, r)
	}
	for _, w := range req.GetTasks() {
		task := w.GetTaskGuid()
		r := c.reserve(c.tasks[task] != nil, w.GetResources(), 0)
		if r.GetAccepted() && c.tasks[task] == nil {
			c.tasks[task] = &repv1.Task{ContainerGuid: guid(), TaskGuid: task, Resources: w.GetResources(), State: repv1.ContainerState_CONTAINER_STATE_RESERVED}
		}
		resp.Tasks = append(resp.Tasks, r)
	}
	resp.Version = c.state.GetVersion()
	resp.AvailableResources = proto.CloneOf(c.state.GetAvailableResources())
	return resp
}

func (c *Cell) reserve(held bool, r *workloadv1.Resources, proxy int32) *repv1.WorkResult {
	if held {
		return &repv1.WorkResult{Accepted: true}
	}
	memory := r.GetMemoryMb()
	if memory > 0 {
		memory += proxy
	}
	free := c.state.GetAvailableResources()
	switch {
	case c.state.GetEvacuating():
		return &repv1.WorkResult{Reason: "the cell is evacuating"}
	case free.GetMemoryMb() < memory:
		return &repv1.WorkResult{Reason: "insufficient resources: memory"}
	case free.GetDiskMb() < r.GetDiskMb():
		return &repv1.WorkResult{Reason: "insufficient resources: disk"}
	case free.GetContainers() < 1:
		return &repv1.WorkResult{Reason: "insufficient resources: containers"}
	}
	free.MemoryMb -= memory
	free.DiskMb -= r.GetDiskMb()
	free.Containers--
	c.state.StartingContainerCount++
	return &repv1.WorkResult{Accepted: true}
}

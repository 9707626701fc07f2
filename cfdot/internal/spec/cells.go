package spec

import (
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// CellPresence is what a cell publishes about itself.
type CellPresence struct {
	CellID                string            `json:"cell_id"`
	RepAddress            string            `json:"rep_address"`
	Zone                  string            `json:"zone"`
	Capacity              CellCapacity      `json:"capacity"`
	RootFSProviderList    []RootFSProvider  `json:"rootfs_provider_list"`
	PlacementTags         []string          `json:"placement_tags"`
	OptionalPlacementTags []string          `json:"optional_placement_tags"`
	RepURL                string            `json:"rep_url"`
	Annotations           map[string]string `json:"annotations,omitempty"`
	Version               string            `json:"version,omitempty"`
	Since                 int64             `json:"since,omitempty"`
}

// CellCapacity of a cell.
type CellCapacity struct {
	MemoryMB   int32 `json:"memory_mb"`
	DiskMB     int32 `json:"disk_mb"`
	Containers int32 `json:"containers"`
}

// RootFSProvider says which root filesystems a cell can make.
type RootFSProvider struct {
	Name       string   `json:"name"`
	Properties []string `json:"properties,omitempty"`
}

// CellPresenceOf shows a cell.
func CellPresenceOf(c *bbsv1.Cell) CellPresence {
	p := c.GetPresence()
	out := CellPresence{
		CellID: p.GetCellId(), RepAddress: p.GetRepAddress(), RepURL: "https://" + p.GetRepAddress(), Zone: p.GetZone(),
		Capacity:      CellCapacity{MemoryMB: p.GetCapacity().GetMemoryMb(), DiskMB: p.GetCapacity().GetDiskMb(), Containers: p.GetCapacity().GetContainers()},
		PlacementTags: notNil(p.GetPlacementTags()), OptionalPlacementTags: notNil(p.GetOptionalPlacementTags()), Annotations: p.GetAnnotations(),
		Version: p.GetVersion(), Since: nanoseconds(c.GetSince()), RootFSProviderList: []RootFSProvider{},
	}
	for _, provider := range p.GetRootfsProviders() {
		out.RootFSProviderList = append(out.RootFSProviderList, RootFSProvider{Name: provider.GetScheme(), Properties: provider.GetNames()})
	}
	return out
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// Resources in the spelling that tools for cell states depend on.
type Resources struct {
	MemoryMB   int32
	DiskMB     int32
	Containers int32
}

// CellState is the state of a cell. The mixed spelling of its names is what tools depend on.
type CellState struct {
	RepURL                  string              `json:"rep_url"`
	CellID                  string              `json:"cell_id"`
	CellIndex               int32               `json:"cell_index"`
	RootFSProviders         map[string][]string `json:"RootFSProviders"`
	AvailableResources      Resources           `json:"AvailableResources"`
	TotalResources          Resources           `json:"TotalResources"`
	LRPs                    []CellLRP           `json:"LRPs"`
	Tasks                   []CellTask          `json:"Tasks"`
	StartingContainerCount  int32               `json:"StartingContainerCount"`
	Zone                    string              `json:"Zone"`
	Evacuating              bool                `json:"Evacuating"`
	Healthy                 bool                `json:"Healthy"`
	Reason                  string              `json:"Reason,omitempty"`
	Restrictions            []string            `json:"Restrictions,omitempty"`
	Evacuation              *Evacuation         `json:"Evacuation,omitempty"`
	VolumeDrivers           []string            `json:"VolumeDrivers"`
	PlacementTags           []string            `json:"PlacementTags"`
	OptionalPlacementTags   []string            `json:"OptionalPlacementTags"`
	ProxyMemoryAllocationMB int32               `json:"ProxyMemoryAllocationMB"`
}

// Evacuation tells how far the emptying of a cell is, as numbers of containers.
type Evacuation struct {
	// Deadline in nanoseconds.
	Deadline int64 `json:"deadline"`
	// Untold are instances of which the BBS has not heard that they are to be replaced, Replacing those that serve until their
	// replacement does, Stopping those on their way out.
	Untold    int32 `json:"untold_lrps"`
	Replacing int32 `json:"replacing_lrps"`
	Stopping  int32 `json:"stopping_lrps"`
	Tasks     int32 `json:"tasks"`
}

// CellLRP is an instance that a cell holds.
type CellLRP struct {
	ProcessGUID  string   `json:"process_guid"`
	Index        int32    `json:"index"`
	Domain       string   `json:"domain"`
	InstanceGUID string   `json:"instance_guid"`
	MemoryMB     int32    `json:"MemoryMB"`
	DiskMB       int32    `json:"DiskMB"`
	MaxPids      int32    `json:"MaxPids"`
	RootFS       string   `json:"RootFs"`
	Tags         []string `json:"PlacementTags"`
	Drivers      []string `json:"VolumeDrivers"`
	State        string   `json:"state"`

	Constraint *Constraint `json:"constraint,omitempty"`
}

// CellTask is a task that a cell holds.
type CellTask struct {
	TaskGUID string   `json:"task_guid"`
	Domain   string   `json:"domain"`
	MemoryMB int32    `json:"MemoryMB"`
	DiskMB   int32    `json:"DiskMB"`
	MaxPids  int32    `json:"MaxPids"`
	RootFS   string   `json:"RootFs"`
	Tags     []string `json:"PlacementTags"`
	Drivers  []string `json:"VolumeDrivers"`
	// State is Running or Completed.
	State  string `json:"state"`
	Failed bool   `json:"failed"`

	Constraint *Constraint `json:"constraint,omitempty"`
}

// CellStateOf shows the state of a cell.
func CellStateOf(s *repv1.StateResponse) CellState {
	out := CellState{
		RepURL: "https://" + s.GetRepAddress(), CellID: s.GetCellId(), CellIndex: s.GetCellIndex(), RootFSProviders: map[string][]string{},
		AvailableResources: resourcesOf(s.GetAvailableResources()), TotalResources: resourcesOf(s.GetTotalResources()),
		LRPs: []CellLRP{}, Tasks: []CellTask{}, StartingContainerCount: s.GetStartingContainerCount(), Zone: s.GetZone(), Evacuating: s.GetEvacuating(),
		Healthy: s.GetHealthy(), Reason: s.GetReason(), Restrictions: s.GetRestrictions(), VolumeDrivers: notNil(s.GetVolumeDrivers()), PlacementTags: notNil(s.GetPlacementTags()),
		OptionalPlacementTags: notNil(s.GetOptionalPlacementTags()), ProxyMemoryAllocationMB: s.GetProxyMemoryAllocationMb(),
	}
	if e := s.GetEvacuation(); e != nil {
		out.Evacuation = &Evacuation{
			Deadline: nanoseconds(e.GetDeadline()), Untold: e.GetUntoldLrps(), Replacing: e.GetReplacingLrps(), Stopping: e.GetStoppingLrps(), Tasks: e.GetTasks(),
		}
	}
	for _, provider := range s.GetRootfsProviders() {
		out.RootFSProviders[provider.GetScheme()] = notNil(provider.GetNames())
	}
	for _, l := range s.GetLrps() {
		r := l.GetResources()
		out.LRPs = append(out.LRPs, CellLRP{
			ProcessGUID: l.GetKey().GetProcessGuid(), Index: l.GetKey().GetIndex(), Domain: l.GetKey().GetDomain(), InstanceGUID: l.GetInstanceGuid(),
			MemoryMB: r.GetMemoryMb(), DiskMB: r.GetDiskMb(), MaxPids: r.GetMaxPids(), RootFS: l.GetPlacement().GetRootFs(),
			Tags: notNil(l.GetPlacement().GetPlacementTags()), Drivers: notNil(l.GetPlacement().GetVolumeDrivers()),
			State: containerState(l.GetState()), Constraint: constraintOf(l.GetPlacement()),
		})
	}
	for _, t := range s.GetTasks() {
		r := t.GetResources()
		out.Tasks = append(out.Tasks, CellTask{
			TaskGUID: t.GetTaskGuid(), Domain: t.GetDomain(), MemoryMB: r.GetMemoryMb(), DiskMB: r.GetDiskMb(), MaxPids: r.GetMaxPids(),
			RootFS: t.GetPlacement().GetRootFs(), Tags: notNil(t.GetPlacement().GetPlacementTags()), Drivers: notNil(t.GetPlacement().GetVolumeDrivers()),
			State: taskContainerState(t.GetState()), Failed: t.GetState() == repv1.ContainerState_CONTAINER_STATE_CRASHED, Constraint: constraintOf(t.GetPlacement()),
		})
	}
	return out
}

func resourcesOf(c *workloadv1.CellCapacity) Resources {
	return Resources{MemoryMB: c.GetMemoryMb(), DiskMB: c.GetDiskMb(), Containers: c.GetContainers()}
}

// containerState in the words that the auction has always used: what is being made is CLAIMED.
func containerState(s repv1.ContainerState) string {
	switch s {
	case repv1.ContainerState_CONTAINER_STATE_RESERVED, repv1.ContainerState_CONTAINER_STATE_INITIALIZING, repv1.ContainerState_CONTAINER_STATE_CREATED:
		return "CLAIMED"
	case repv1.ContainerState_CONTAINER_STATE_RUNNING, repv1.ContainerState_CONTAINER_STATE_SHUTDOWN, repv1.ContainerState_CONTAINER_STATE_CRASHED:
		return short(s.String(), "CONTAINER_STATE_")
	case repv1.ContainerState_CONTAINER_STATE_UNSPECIFIED:
		return ""
	default:
		return ""
	}
}

// taskContainerState in the words that the auction has always used: a task on a cell runs until it has ended.
func taskContainerState(s repv1.ContainerState) string {
	switch s {
	case repv1.ContainerState_CONTAINER_STATE_SHUTDOWN, repv1.ContainerState_CONTAINER_STATE_CRASHED:
		return "Completed"
	case repv1.ContainerState_CONTAINER_STATE_UNSPECIFIED:
		return ""
	case repv1.ContainerState_CONTAINER_STATE_RESERVED, repv1.ContainerState_CONTAINER_STATE_INITIALIZING,
		repv1.ContainerState_CONTAINER_STATE_CREATED, repv1.ContainerState_CONTAINER_STATE_RUNNING:
		return "Running"
	default:
		return ""
	}
}

func constraintOf(p *workloadv1.PlacementConstraint) *Constraint {
	if p.GetConstraint() == nil {
		return nil
	}
	return &Constraint{Require: p.GetConstraint().GetRequire()}
}

// Resource is a lock or a presence.
type Resource struct {
	Key          string `json:"key"`
	Owner        string `json:"owner"`
	Value        string `json:"value"`
	Type         string `json:"type"`
	TypeCode     int32  `json:"type_code"`
	TTL          int64  `json:"ttl_in_seconds"`
	ExpiresAt    int64  `json:"expires_at"`
	AcquiredAt   int64  `json:"acquired_at"`
	FencingToken int64  `json:"fencing_token"`
}

// ResourceOf shows a lock or a presence.
func ResourceOf(h *locketv1.Held) Resource {
	claim := h.GetClaim()
	out := Resource{
		Key: claim.GetKey(), Owner: claim.GetOwner(), Value: claim.GetValue(), Type: "lock", TypeCode: int32(claim.GetType()),
		TTL: int64(h.GetTtl().AsDuration().Seconds()), ExpiresAt: nanoseconds(h.GetExpiresAt()), AcquiredAt: nanoseconds(h.GetAcquiredAt()), FencingToken: h.GetFencingToken(),
	}
	if claim.GetType() == locketv1.ClaimType_CLAIM_TYPE_PRESENCE {
		out.Type = "presence"
	}
	return out
}

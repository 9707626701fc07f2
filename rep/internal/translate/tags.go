// Package translate turns the messages of the contract into the nouns of the executor and back: run information from
// desired LRPs and tasks, the tags by which a container remembers whose it is, and net info. It is pure, and the only
// place where a field has to be added when the contract grows one.
package translate

import (
	"encoding/json"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"

	"diego.internal/executor"
	workloadv1 "diego.internal/proto/workload/v1"
)

// The names of the tags that a container of the rep carries. They are stored with the container, so they must not change
// their meaning from one release to the next.
const (
	TagLifecycle    = "lifecycle"
	TagDomain       = "domain"
	TagProcessGUID  = "process-guid"
	TagProcessIndex = "process-index"
	TagInstanceGUID = "instance-guid"
	TagTaskGUID     = "task-guid"
	TagDefinitionID = "definition-id"
	TagResultFile   = "result-file"
	TagPlacement    = "placement"
	TagTraceID      = "trace-id"
)

// The lifecycles.
const (
	LifecycleLRP  = "lrp"
	LifecycleTask = "task"
)

// LRPTags are the tags of a container that is reserved for an instance of an LRP.
func LRPTags(key *workloadv1.ActualLRPKey, instanceGUID, definitionID string, placement *workloadv1.PlacementConstraint) map[string]string {
	return map[string]string{
		TagLifecycle:    LifecycleLRP,
		TagDomain:       key.GetDomain(),
		TagProcessGUID:  key.GetProcessGuid(),
		TagProcessIndex: strconv.Itoa(int(key.GetIndex())),
		TagInstanceGUID: instanceGUID,
		TagDefinitionID: definitionID,
		TagPlacement:    marshalPlacement(placement),
	}
}

// TaskTags are the tags of a container that is reserved for a task. The guid of the run is added when the BBS has given it.
func TaskTags(taskGUID, domain string, placement *workloadv1.PlacementConstraint) map[string]string {
	return map[string]string{
		TagLifecycle: LifecycleTask,
		TagDomain:    domain,
		TagTaskGUID:  taskGUID,
		TagPlacement: marshalPlacement(placement),
	}
}

// StartedTaskTags are added when the BBS has let the task start here.
func StartedTaskTags(task *workloadv1.Task) map[string]string {
	return map[string]string{
		TagInstanceGUID: task.GetInstanceGuid(),
		TagResultFile:   task.GetDefinition().GetResultFile(),
	}
}

// Identity is what a cell may hold only once: an index of an LRP, or a task.
func Identity(tags map[string]string) string {
	if tags[TagLifecycle] == LifecycleTask {
		return "task/" + tags[TagTaskGUID]
	}
	return "lrp/" + tags[TagProcessGUID] + "/" + tags[TagProcessIndex]
}

// LRPOf reads whose instance a container is.
func LRPOf(c executor.Container, cellID string) (*workloadv1.ActualLRPKey, *workloadv1.ActualLRPInstanceKey, error) {
	index, err := strconv.ParseInt(c.Tags[TagProcessIndex], 10, 32)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the index of container %q: %w", c.GUID, err)
	}
	key := &workloadv1.ActualLRPKey{
		ProcessGuid: c.Tags[TagProcessGUID],
		Index:       int32(index),
		Domain:      c.Tags[TagDomain],
	}
	return key, &workloadv1.ActualLRPInstanceKey{InstanceGuid: c.Tags[TagInstanceGUID], CellId: cellID}, nil
}

// Placement reads the constraint that the container was placed under; nil if it has none.
func Placement(c executor.Container) *workloadv1.PlacementConstraint {
	text := c.Tags[TagPlacement]
	if text == "" {
		return nil
	}
	placement := &workloadv1.PlacementConstraint{}
	// A tag of another release that does not parse is no reason to lose the container.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), placement); err != nil {
		return nil
	}
	return placement
}

// Placements remembers what containers ask of a cell by the text of their tags: most of a cell's ask for the same, and to read
// it costs more than all else that is told of a container. Not safe for concurrent use.
type Placements map[string]*workloadv1.PlacementConstraint

// Of returns what a container asks of a cell. The message is shared and must not be changed.
func (p Placements) Of(c executor.Container) *workloadv1.PlacementConstraint {
	text := c.Tags[TagPlacement]
	placement, known := p[text]
	if !known {
		placement = Placement(c)
		p[text] = placement
	}
	return placement
}

func marshalPlacement(placement *workloadv1.PlacementConstraint) string {
	if placement == nil {
		return ""
	}
	text, err := protojson.Marshal(placement)
	if err != nil { // only for invalid UTF-8, which the server refused
		return ""
	}
	// protojson varies its white space on purpose; tags are compared.
	var compact json.RawMessage = text
	if out, err := json.Marshal(compact); err == nil {
		text = out
	}
	return string(text)
}

// Resources of a workload as the executor counts them.
func Resources(r *workloadv1.Resources) executor.ContainerResources {
	return executor.ContainerResources{
		MemoryMB: int(r.GetMemoryMb()),
		DiskMB:   int(r.GetDiskMb()),
		MaxPids:  int(r.GetMaxPids()),
	}
}

// ResourcesMessage is the reverse of Resources.
func ResourcesMessage(r executor.ContainerResources) *workloadv1.Resources {
	return &workloadv1.Resources{
		MemoryMb: int32(r.MemoryMB), //nolint:gosec // came from an int32
		DiskMb:   int32(r.DiskMB),   //nolint:gosec // came from an int32
		MaxPids:  int32(r.MaxPids),  //nolint:gosec // came from an int32
	}
}

// Capacity of a cell as a message.
func Capacity(r executor.Resources) *workloadv1.CellCapacity {
	return &workloadv1.CellCapacity{
		MemoryMb:   clamp(r.MemoryMB),
		DiskMb:     clamp(r.DiskMB),
		Containers: clamp(r.Containers),
	}
}

func clamp(n int) int32 {
	const most = 1<<31 - 1
	return int32(min(max(n, 0), most))
}

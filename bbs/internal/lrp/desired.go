package lrp

import (
	"diego.internal/bbs/internal/workload"
)

// UpdateStrategy says how an instance leaves a cell that is being emptied. The numbers are stored.
type UpdateStrategy uint8

// The strategies.
const (
	// Rolling starts the replacement before the old instance stops.
	Rolling UpdateStrategy = iota
	// Recreate stops the old instance first, one of an LRP at a time.
	Recreate
)

// Route is what one router is to know. The value is JSON, stored and returned byte for byte; in memory it may be concealed.
type Route struct {
	Router string // for example cf-router
	Value  []byte
}

// DynamicTag is a metric tag whose value differs from instance to instance. The numbers are stored.
type DynamicTag uint8

// The dynamic tags.
const (
	NotDynamic DynamicTag = iota
	DynamicIndex
	DynamicInstanceGUID
)

// MetricTag of a desired LRP: Static unless Dynamic is set.
type MetricTag struct {
	Name    string
	Static  string
	Dynamic DynamicTag
}

// Desired is what a client wants of one LRP: its mutable header and the scheduling part of its
// active definition. The rest of the definition is not in memory.
//
// A record is immutable once it is stored; an operation returns a new one.
type Desired struct {
	ProcessGUID string
	Domain      string
	LogGUID     string
	Annotation  string
	// Routes are in order of router, MetricTags in order of name, without duplicates.
	Routes     []Route
	MetricTags []MetricTag
	// InternalHostnames are the host names of the internal-router route, sorted, without duplicates.
	// ParseRoutes derives them.
	InternalHostnames []string

	Resources workload.Resources
	Placement workload.Placement

	// CrashPolicy is nil if the LRP has none of its own.
	CrashPolicy *CrashPolicy

	ActiveDefinitionID   string
	HealthyDefinitionID  string
	PreviousDefinitionID string

	Tag ModificationTag
	// CreatedAt and UpdatedAt are nanoseconds since the Unix epoch.
	CreatedAt int64
	UpdatedAt int64
	// Revision of the store that last changed the record. The store sets it, nothing here reads it.
	Revision uint64
	// Encoded is the record as workload.v1.SchedulingInfo. The store sets it, nothing here reads it.
	Encoded []byte

	Instances      int32
	UpdateStrategy UpdateStrategy
}

// Compare orders desired LRPs by process guid.
func (d *Desired) Compare(o *Desired) int { return compareGUID(d.ProcessGUID, o.ProcessGUID) }

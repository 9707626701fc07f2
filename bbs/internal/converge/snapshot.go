package converge

import (
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// Cursor walks records; Next returns nil at the end.
type Cursor[T any] interface {
	Next() *T
}

// Snapshot is one consistent state of the store. Nothing in it changes while it is read.
type Snapshot interface {
	LRPs
	// Tasks walks all tasks, in any order.
	Tasks() Cursor[task.Task]
	// TasksOfCell walks the tasks that run on one cell, in any order.
	TasksOfCell(cellID string) Cursor[task.Task]
}

// LRPs is the part of a snapshot about long-running processes.
type LRPs interface {
	// Domains walks all domains, also those whose freshness has lapsed, in any order.
	Domains() Cursor[lrp.Domain]
	// Desired walks all desired LRPs in order of process guid.
	Desired() Cursor[lrp.Desired]
	// Actual walks all actual LRPs in order of process guid, index and presence.
	Actual() Cursor[lrp.Actual]
	// ActualOfCell walks the actual LRPs that one cell holds, in any order.
	ActualOfCell(cellID string) Cursor[lrp.Actual]
	// Instance reads the records of one index.
	Instance(key lrp.Key) lrp.Instance
	// DesiredLRP reads one desired LRP, nil if there is none.
	DesiredLRP(processGUID string) *lrp.Desired
}

package converge

import (
	"iter"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// Snapshot is one consistent state of the store. Nothing in it changes while it is read.
type Snapshot interface {
	LRPs
	// Revision of the newest change that it has.
	Revision() uint64
	// Tasks yields all tasks, in any order.
	Tasks() iter.Seq[*task.Task]
	// TasksOnCell yields the tasks that run on one cell, in any order.
	TasksOnCell(cellID string) iter.Seq[*task.Task]
}

// LRPs is the part of a snapshot about long-running processes.
type LRPs interface {
	// Domains yields all domains, also those whose freshness has lapsed, in any order.
	Domains() iter.Seq[*lrp.Domain]
	// DesiredsFrom yields the desired LRPs from a process guid on, that one included, in order of process guid.
	DesiredsFrom(processGUID string) iter.Seq[*lrp.Desired]
	// RecordsFrom yields the actual LRPs from a process guid on, that one included, in order of process guid, index and presence.
	RecordsFrom(processGUID string) iter.Seq[*lrp.Actual]
	// Tally counts what DesiredsFrom and RecordsFrom yield; it is not known if they leave out what is stored.
	Tally() (tally lrp.Tally, known bool)
	// RecordsOnCell yields the actual LRPs that one cell holds, in any order.
	RecordsOnCell(cellID string) iter.Seq[*lrp.Actual]
	// Instance reads the records of one index.
	Instance(key lrp.Key) lrp.Instance
	// Desired reads one desired LRP, nil if there is none.
	Desired(processGUID string) *lrp.Desired
}

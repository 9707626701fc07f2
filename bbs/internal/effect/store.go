package effect

import (
	"context"
	"iter"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// Store is what effects need of the store.
type Store interface {
	// Snapshot returns the newest committed state.
	Snapshot() Snapshot
	// Do commits what mutate puts, or nothing if that returns an error, which Do then returns. It
	// blocks until the commit; mutate runs among those of other requests and must neither block nor
	// keep its Tx. Do may run it again.
	Do(ctx context.Context, mutate func(Tx) error) error
	// Callback reads what the definition of a task says of its completion callback.
	Callback(ctx context.Context, taskGUID string) (Callback, error)
}

// Callback is where, and with what annotation, a task's completion is told.
type Callback struct {
	URL        string
	Annotation string
}

// Snapshot is one committed state.
type Snapshot interface {
	converge.Snapshot
	// Records yields all actual LRPs in order of process guid, index and presence.
	Records() iter.Seq[*lrp.Actual]
	// Task reads one task, nil if there is none.
	Task(guid string) *task.Task
	// Domain reads one domain, nil if there is none.
	Domain(name string) *lrp.Domain
	// InstancesOf returns all records of one LRP in order.
	InstancesOf(processGUID string) []*lrp.Actual
}

// Tx is the state within a commit that is being made.
type Tx interface {
	Instance(key lrp.Key) lrp.Instance
	PutInstance(before lrp.Instance, outcome lrp.Outcome)
	Desired(processGUID string) *lrp.Desired
	Domain(name string) *lrp.Domain
	PutDomain(before, after *lrp.Domain, event lrp.DomainEvent)
	Task(guid string) *task.Task
	PutTask(before, after *task.Task)
}

// Changes says which records a commit touched, as they are afterwards. The order does not matter.
type Changes struct {
	Actuals  []*lrp.Actual
	Gone     []lrp.Key // of actual LRPs that were deleted
	Desireds []*lrp.Desired
	// DesiredsGone are the process guids of desired LRPs that were deleted.
	DesiredsGone []string
	Tasks        []*task.Task
}

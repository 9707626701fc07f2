package store

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/wire"
)

// Tx is one request's access to the batch that is being made: it sees what the requests before it in
// the batch did. It is valid only within the function that it is passed to, which must neither
// block nor keep it.
//
// Records passed in become the store's: it sets their revision, and they must not change any more.
type Tx struct {
	records
	batch *batch
	undo  []undo
	// changed is set by every write.
	changed bool
}

// undo restores one row of the state in memory: before if there was one, else nothing.
type undo struct{ before, after any }

// Revision that the batch will have.
func (tx *Tx) Revision() uint64 { return tx.batch.revision }

// PutInstance stores the outcome of a transition of one index. before is what Instance returned.
func (tx *Tx) PutInstance(before lrp.Instance, outcome lrp.Outcome) {
	tx.putRecord(before.Ordinary, outcome.After.Ordinary)
	tx.putRecord(before.Evacuating, outcome.After.Evacuating)
	tx.putRecord(before.Suspect, outcome.After.Suspect)
	for i := range outcome.Events {
		tx.emitActual(&outcome.Events[i])
	}
}

// PutChange stores the outcome of an operation on a desired LRP. before is nil if there was none.
func (tx *Tx) PutChange(before *lrp.Desired, change lrp.Change) {
	if before != change.Desired {
		tx.putDesired(before, change.Desired)
	}
	if change.Event != nil {
		tx.emitDesired(change.Event)
	}
	for i := range change.Indices {
		index := &change.Indices[i]
		tx.PutInstance(tx.Instance(index.Key), index.Outcome)
	}
}

// MarkHealthy records that an instance of a definition has run. Watchers are not told, and the
// revision of the header stays.
func (tx *Tx) MarkHealthy(guid, definitionID string) {
	before := tx.Desired(guid)
	if before == nil || definitionID != before.ActiveDefinitionID {
		return
	}
	after := before.MarkHealthy()
	if after == before {
		return
	}
	tx.put(before, after) // with its encoding, in which nothing changes
	tx.batch.healthy[after.ProcessGUID] = struct{}{}
}

// PutDefinition stores a sealed definition of an LRP. See Store.SealLRPDefinition.
func (tx *Tx) PutDefinition(def SealedDefinition) {
	tx.changed = true
	tx.batch.definitions = append(tx.batch.definitions, definitionWrite{SealedDefinition: def})
}

// DeleteDefinitions removes all definitions of an LRP.
func (tx *Tx) DeleteDefinitions(guid string) {
	tx.changed = true
	tx.batch.definitions = append(tx.batch.definitions, definitionWrite{
		SealedDefinition: SealedDefinition{ProcessGUID: guid}, remove: true,
	})
}

// PutTask stores a task, or removes it if after is nil, and tells watchers.
func (tx *Tx) PutTask(before, after *task.Task) {
	if before == after {
		return
	}
	if after == nil {
		tx.delete(before)
		tx.batch.taskDefinitions = append(tx.batch.taskDefinitions, taskDefinitionWrite{guid: before.GUID})
	} else {
		after.Revision = tx.batch.revision
		tx.insert(object(before), after)
	}
	tx.emitTask(before, after)
}

// PutTaskDefinition stores the sealed definition of a task. See Store.SealTaskDefinition.
func (tx *Tx) PutTaskDefinition(guid string, sealed []byte) {
	tx.changed = true
	tx.batch.taskDefinitions = append(tx.batch.taskDefinitions, taskDefinitionWrite{guid: guid, sealed: sealed})
}

// PutDomain stores a domain, or removes it if after is nil, and tells watchers.
func (tx *Tx) PutDomain(before, after *lrp.Domain, event lrp.DomainEvent) {
	if after == nil {
		tx.delete(before)
	} else {
		after.Revision = tx.batch.revision
		tx.insert(object(before), after)
	}
	tx.emitDomain(event)
}

// putRecord replaces one record of an index by another of the same presence; either may be nil.
func (tx *Tx) putRecord(before, after *lrp.Actual) {
	switch {
	case before == after:
	case after == nil:
		if row := tx.state.actuals.get(actualKeyOf(before.Key, before.Presence)); row != nil {
			tx.batch.remember(row)
			tx.delete(row)
		}
	default:
		after.Revision = tx.batch.revision
		row := tx.batch.encoder.actual(after)
		existing := tx.state.actuals.get(row.key())
		if existing != nil {
			tx.batch.remember(existing)
		}
		tx.batch.remember(row)
		tx.insert(object(existing), row)
	}
}

func (tx *Tx) putDesired(before, after *lrp.Desired) {
	if after == nil {
		if before.HealthyDefinitionID != "" {
			tx.batch.healthyGone[before.ProcessGUID] = struct{}{}
		}
		tx.delete(before)
		return
	}
	after.Revision = tx.batch.revision
	tx.learn(after)
	tx.batch.encoder.desired(after)
	if before == nil || before.HealthyDefinitionID != after.HealthyDefinitionID {
		tx.batch.healthy[after.ProcessGUID] = struct{}{}
	}
	tx.insert(object(before), after)
}

// object makes of a pointer what insert takes: nil for none, and not a nil pointer with a type.
func object[T any](p *T) any {
	if p == nil {
		return nil
	}
	return p
}

// insert stores a row that is to be written. before is what has its key, or nil.
func (tx *Tx) insert(before, after any) {
	tx.put(before, after)
	tx.batch.touch(after)
}

func (tx *Tx) put(before, after any) {
	tx.changed = true
	tx.undo = append(tx.undo, undo{before: before, after: after})
	tx.state.put(after)
}

func (tx *Tx) delete(row any) {
	tx.changed = true
	tx.undo = append(tx.undo, undo{before: row})
	tx.state.remove(row)
	tx.batch.touch(row)
}

// rollback undoes all writes of the request, the newest first.
func (tx *Tx) rollback(mark mark) {
	for _, u := range slices.Backward(tx.undo) {
		if u.before != nil {
			tx.state.put(u.before)
		} else {
			tx.state.remove(u.after)
		}
	}
	tx.batch.truncate(mark)
}

func (tx *Tx) emitActual(e *lrp.Event) {
	event := watch.Event{TraceID: tx.batch.trace}
	about := e.After
	switch e.Kind {
	case lrp.Created:
		event.Kind, event.After = watch.ActualCreated, tx.batch.encoded(e.After)
	case lrp.Changed:
		event.Kind, event.Before, event.After = watch.ActualChanged, tx.batch.encoded(e.Before), tx.batch.encoded(e.After)
	case lrp.Removed:
		event.Kind, event.Before, about = watch.ActualRemoved, tx.batch.encoded(e.Before), e.Before
	case lrp.CrashedEvent:
		event.Kind, event.After, about = watch.ActualCrashed, wire.EncodeCrash(e.Before, e.Crash), e.Before
	}
	event.Subject, event.Domain = about.ProcessGUID, about.Domain
	for _, record := range [...]*lrp.Actual{e.Before, e.After} {
		if record != nil && record.CellID != "" && (len(event.Cells) == 0 || event.Cells[0] != record.CellID) {
			event.Cells = append(event.Cells, record.CellID)
		}
	}
	tx.batch.events = append(tx.batch.events, event)
}

func (tx *Tx) emitDesired(e *lrp.DesiredEvent) {
	event := watch.Event{Kind: watch.DesiredChanged, TraceID: tx.batch.trace}
	about := e.After
	switch {
	case e.Before == nil:
		event.Kind = watch.DesiredCreated
	case e.After == nil:
		event.Kind, about = watch.DesiredRemoved, e.Before
	}
	if e.Before != nil {
		event.Before = e.Before.Encoded
	}
	if e.After != nil {
		event.After = e.After.Encoded
	}
	event.Subject, event.Domain = about.ProcessGUID, about.Domain
	event.Cells = tx.cellsOf(about.ProcessGUID)
	tx.batch.events = append(tx.batch.events, event)
}

// cellsOf returns the cells that hold instances of an LRP. The event of a desired LRP comes before
// the changes of its instances, so cells that are about to lose theirs are among them.
func (tx *Tx) cellsOf(guid string) []string {
	var cells []string
	seen := map[string]bool{}
	for a := range tx.ActualsOf(guid) {
		if a.CellID != "" && !seen[a.CellID] {
			seen[a.CellID] = true
			cells = append(cells, a.CellID)
		}
	}
	return cells
}

func (tx *Tx) emitTask(before, after *task.Task) {
	event := watch.Event{Kind: watch.TaskChanged, TraceID: tx.batch.trace}
	about := after
	switch {
	case before == nil:
		event.Kind = watch.TaskCreated
	case after == nil:
		event.Kind, about = watch.TaskRemoved, before
	}
	for _, t := range [...]*task.Task{before, after} {
		if t != nil && t.CellID != "" && (len(event.Cells) == 0 || event.Cells[0] != t.CellID) {
			event.Cells = append(event.Cells, t.CellID)
		}
	}
	if before != nil {
		event.Before = encode(wire.Task(before))
	}
	if after != nil {
		event.After = encode(wire.Task(after))
	}
	event.Subject, event.Domain = about.GUID, about.Domain
	tx.batch.events = append(tx.batch.events, event)
}

func (tx *Tx) emitDomain(e lrp.DomainEvent) {
	tx.batch.events = append(tx.batch.events, watch.Event{
		Kind: watch.DomainChanged, TraceID: tx.batch.trace,
		Subject: e.Domain.Name, Domain: e.Domain.Name, After: encode(wire.DomainChanged(e)),
	})
}

// encode marshals one of our own messages, which cannot fail: its texts are valid UTF-8 because they
// came in as proto strings or were cut at runes.
func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	must(err)
	return b
}

// must stops a batch whose program is wrong. The writer turns the panic into an error of that batch.
func must(err error) {
	if err != nil {
		panic(fmt.Errorf("encoding an event: %w", err))
	}
}

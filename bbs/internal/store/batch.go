package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/wire"
)

// batch is what several requests change together: one revision, one transaction in Postgres.
type batch struct {
	// state is a copy of the committed one, with what the requests have changed so far.
	state    *state
	id       [16]byte
	epoch    int64
	revision uint64
	at       time.Time
	trace    string // of the request that is being applied

	// touched rows; what they are is read from state when the batch is complete.
	actuals  map[actualID]struct{}
	desireds map[string]struct{}
	tasks    map[string]struct{}
	domains  map[string]struct{}
	// healthy are LRPs whose healthy definition changed, by guid.
	healthy map[string]struct{}
	// healthyGone are LRPs with a healthy definition that were removed in this batch. One of the same guid that is desired
	// anew in the same batch must not inherit it.
	healthyGone map[string]struct{}

	// secrets are values that records of this batch have concealed, by what stands for them.
	secrets secrets

	definitions     []definitionWrite
	taskDefinitions []taskDefinitionWrite
	events          []watch.Event
	// encodings of records that appear in this batch, so that an event shares the bytes of the row.
	encodings map[*lrp.Actual][]byte
	encoder   recordEncoder
}

// actualID is the primary key of an actual LRP.
type actualID struct {
	lrp.Key
	presence lrp.Presence
}

// definitionWrite stores one definition of an LRP, or removes all of it.
type definitionWrite struct {
	SealedDefinition
	remove bool
}

// taskDefinitionWrite stores the definition of a task, or removes it if sealed is nil.
type taskDefinitionWrite struct {
	guid   string
	sealed []byte
}

// healthyWrite stores which definition of an LRP is healthy; none if id is empty.
type healthyWrite struct{ guid, id string }

// mark is where the lists of a batch ended before a request.
type mark struct{ events, definitions, taskDefinitions int }

func newBatch(state *state, epoch int64, revision uint64, at time.Time) *batch {
	b := &batch{
		state: state, epoch: epoch, revision: revision, at: at,
		actuals: map[actualID]struct{}{}, desireds: map[string]struct{}{},
		tasks: map[string]struct{}{}, domains: map[string]struct{}{}, healthy: map[string]struct{}{}, healthyGone: map[string]struct{}{},
		encodings: map[*lrp.Actual][]byte{}, secrets: secrets{},
	}
	_, _ = rand.Read(b.id[:]) // never fails, see crypto/rand
	return b
}

func (b *batch) mark() mark {
	return mark{events: len(b.events), definitions: len(b.definitions), taskDefinitions: len(b.taskDefinitions)}
}

func (b *batch) truncate(m mark) {
	b.events = b.events[:m.events]
	b.definitions = b.definitions[:m.definitions]
	b.taskDefinitions = b.taskDefinitions[:m.taskDefinitions]
}

// apply runs one request. A refused one, or one that panics, changes nothing and gets its error.
func (b *batch) apply(fn func(*Tx) error, trace string) (changed bool, err error) {
	tx := &Tx{records: records{b.state}, batch: b}
	before := b.mark()
	b.trace = trace
	defer func() {
		if v := recover(); v != nil {
			changed, err = false, fmt.Errorf("applying a request: %w", asError(v))
			tx.rollback(before)
		}
	}()
	if err := fn(tx); err != nil {
		tx.rollback(before)
		return false, err
	}
	return tx.changed, nil
}

func asError(v any) error {
	if err, ok := v.(error); ok {
		return err
	}
	return errors.New(fmt.Sprint(v))
}

// touch remembers that a row is to be written. A row that is the same again at the end, because its
// request was undone, is written once too often, which does no harm, unless it is a desired LRP.
func (b *batch) touch(obj any) {
	switch row := obj.(type) {
	case *actualRow:
		b.actuals[actualID{Key: row.Key, presence: row.Presence}] = struct{}{}
	case *lrp.Desired:
		b.desireds[row.ProcessGUID] = struct{}{}
	case *task.Task:
		b.tasks[row.GUID] = struct{}{}
	case *lrp.Domain:
		b.domains[row.Name] = struct{}{}
	}
}

// rows is how many rows the batch will write, definitions included.
func (b *batch) rows() int {
	return len(b.actuals) + len(b.desireds) + len(b.tasks) + len(b.domains) + len(b.healthy) + len(b.definitions) + len(b.taskDefinitions)
}

func (b *batch) remember(row *actualRow) { b.encodings[row.Actual] = row.encoded }

// encoded returns the encoding of a record that an event shows.
func (b *batch) encoded(a *lrp.Actual) []byte {
	if encoded, ok := b.encodings[a]; ok {
		return encoded
	}
	// A record that one step of a request made and the next replaced, so no row has it, or one that
	// stayed as it is. It is not ours to change.
	shown := *a
	if shown.Revision == 0 {
		shown.Revision = b.revision
	}
	return wire.AppendActual(nil, &shown)
}

// changes is the content of a batch as rows: what each touched row is now.
type changes struct {
	actuals        []*actualRow
	actualsGone    []actualID
	desireds       []*lrp.Desired // with nothing concealed
	desiredsGone   []string
	tasks          []*task.Task
	tasksGone      []string
	domains        []*lrp.Domain
	domainsGone    []string
	healthy        []healthyWrite
	definitions    []definitionWrite
	taskDefinition []taskDefinitionWrite
}

func (b *batch) changes() changes {
	c := changes{definitions: b.definitions, taskDefinition: b.taskDefinitions}
	for id := range b.actuals {
		if row := b.state.actuals.get(actualKeyOf(id.Key, id.presence)); row != nil {
			c.actuals = append(c.actuals, row)
		} else {
			c.actualsGone = append(c.actualsGone, id)
		}
	}
	for guid := range b.desireds {
		switch d := b.state.desireds.get(keyOf(guid)); {
		case d == nil:
			c.desiredsGone = append(c.desiredsGone, guid)
		case d.Revision == b.revision:
			c.desireds = append(c.desireds, b.secrets.revealed(d))
		default:
			// The request was undone. What the record has concealed need not be known here.
		}
	}
	for guid := range b.healthy {
		d := b.state.desireds.get(keyOf(guid))
		if d == nil {
			continue // the removal of the LRP takes it along
		}
		if _, stale := b.healthyGone[guid]; stale || d.HealthyDefinitionID != "" {
			c.healthy = append(c.healthy, healthyWrite{guid: guid, id: d.HealthyDefinitionID})
		}
	}
	for guid := range b.tasks {
		if t := b.state.tasks.get(keyOf(guid)); t != nil {
			c.tasks = append(c.tasks, t)
		} else {
			c.tasksGone = append(c.tasksGone, guid)
		}
	}
	for name := range b.domains {
		if d := b.state.domains.get(keyOf(name)); d != nil {
			c.domains = append(c.domains, d)
		} else {
			c.domainsGone = append(c.domainsGone, name)
		}
	}
	return c
}

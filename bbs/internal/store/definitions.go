package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/postgres"
)

// SealedDefinition is a definition of an LRP, ready to be stored.
type SealedDefinition struct {
	ProcessGUID string
	ID          string
	CreatedAt   int64 // nanoseconds since the Unix epoch
	Sealed      []byte
}

// definitions reads and caches what is too large to be in memory as a whole: the definitions of LRPs
// and tasks. A cell asks for one when it starts an instance, so a roll or the loss of a cell asks for
// the same few many times.
type definitions struct {
	pool  postgresReader
	keys  *seal.Keyring
	lrps  *lru.Cache[[2]string, *workloadv1.LRPDefinition]
	tasks *lru.Cache[string, *workloadv1.TaskDefinition]
	// generation counts the writes of definitions. What was read before one is not cached after it.
	generation atomic.Uint64
}

// cachedDefinitions bounds each cache; a definition has some kilobytes.
const cachedDefinitions = 2048

func newDefinitions(pool postgresReader, keys *seal.Keyring) (*definitions, error) {
	lrps, err := lru.New[[2]string, *workloadv1.LRPDefinition](cachedDefinitions)
	if err != nil {
		return nil, fmt.Errorf("making a cache: %w", err)
	}
	tasks, err := lru.New[string, *workloadv1.TaskDefinition](cachedDefinitions)
	if err != nil {
		return nil, fmt.Errorf("making a cache: %w", err)
	}
	return &definitions{pool: pool, keys: keys, lrps: lrps, tasks: tasks}, nil
}

// SealLRPDefinition seals a definition for Tx.PutDefinition. It does the costly work, so call it
// before Apply and not inside.
func (s *Store) SealLRPDefinition(guid string, def *workloadv1.LRPDefinition, createdAt int64) (SealedDefinition, error) {
	plain, err := proto.Marshal(def)
	if err != nil {
		return SealedDefinition{}, fmt.Errorf("encoding the definition of %q: %w", guid, err)
	}
	sealed, err := s.keys.Seal(plain, placeOfDefinition(guid, def.GetDefinitionId()))
	return SealedDefinition{ProcessGUID: guid, ID: def.GetDefinitionId(), CreatedAt: createdAt, Sealed: sealed}, err
}

// SealTaskDefinition seals a definition for Tx.PutTaskDefinition.
func (s *Store) SealTaskDefinition(guid string, def *workloadv1.TaskDefinition) ([]byte, error) {
	plain, err := proto.Marshal(def)
	if err != nil {
		return nil, fmt.Errorf("encoding the definition of task %q: %w", guid, err)
	}
	return s.keys.Seal(plain, placeOfTaskDefinition(guid))
}

// LRPDefinition returns one definition with its secrets, which must not be modified. It asks Postgres
// unless the definition was asked for lately.
//
// It returns lrp.ErrNotFound if it is not stored, seal.ErrBroken if it cannot be opened and
// ErrUnavailable if Postgres does not answer.
func (s *Store) LRPDefinition(ctx context.Context, guid, id string) (*workloadv1.LRPDefinition, error) {
	d := s.definitions
	if def, ok := d.lrps.Get([2]string{guid, id}); ok {
		return def, nil
	}
	generation := d.generation.Load()
	var sealed []byte
	err := d.pool.QueryRow(ctx,
		`select definition from lrp_definitions where process_guid = $1 and definition_id = $2`, guid, id).Scan(&sealed)
	if err != nil {
		return nil, s.readError(err, lrp.ErrNotFound, "reading definition %q of %q", id, guid)
	}
	def, err := d.openLRP(guid, id, sealed)
	if err != nil {
		return nil, err
	}
	if d.generation.Load() == generation {
		d.lrps.Add([2]string{guid, id}, def)
	}
	return def, nil
}

// LRPDefinitions returns all definitions kept for one LRP, the newest first. It asks Postgres. Those
// that cannot be opened are left out and reported by the error beside the rest.
func (s *Store) LRPDefinitions(ctx context.Context, guid string) ([]*workloadv1.LRPDefinition, error) {
	rows, err := s.definitions.pool.Query(ctx,
		`select definition_id, definition from lrp_definitions where process_guid = $1 order by created_at desc, definition_id`, guid)
	if err != nil {
		return nil, s.readError(err, lrp.ErrNotFound, "reading the definitions of %q", guid)
	}
	type stored struct {
		ID     string
		Sealed []byte
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return nil, s.readError(err, lrp.ErrNotFound, "reading the definitions of %q", guid)
	}
	var defs []*workloadv1.LRPDefinition
	var problems []error
	for _, f := range found {
		def, err := s.definitions.openLRP(guid, f.ID, f.Sealed)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		defs = append(defs, def)
	}
	return defs, errors.Join(problems...)
}

// ActiveDefinitions returns the definitions of several LRPs by process guid, as pairs of guid and
// definition id name them. It asks Postgres once. Those that are gone or cannot be opened are left out.
func (s *Store) ActiveDefinitions(ctx context.Context, guids, ids []string) (map[string]*workloadv1.LRPDefinition, error) {
	rows, err := s.definitions.pool.Query(ctx, `select d.process_guid, d.definition_id, d.definition
		from unnest($1::text[], $2::text[]) as u (g, i) join lrp_definitions d on d.process_guid = u.g and d.definition_id = u.i`, guids, ids)
	if err != nil {
		return nil, s.readError(err, lrp.ErrNotFound, "reading definitions")
	}
	type stored struct {
		GUID, ID string
		Sealed   []byte
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return nil, s.readError(err, lrp.ErrNotFound, "reading definitions")
	}
	defs := make(map[string]*workloadv1.LRPDefinition, len(found))
	for _, f := range found {
		def, err := s.definitions.openLRP(f.GUID, f.ID, f.Sealed)
		if err != nil {
			s.log.WarnContext(ctx, "definition-unreadable", "process_guid", f.GUID, "definition_id", f.ID, "error", err)
			continue
		}
		defs[f.GUID] = def
	}
	return defs, nil
}

// TaskDefinition returns the definition of a task with its secrets, which must not be modified. Its
// errors are those of LRPDefinition.
func (s *Store) TaskDefinition(ctx context.Context, guid string) (*workloadv1.TaskDefinition, error) {
	d := s.definitions
	if def, ok := d.tasks.Get(guid); ok {
		return def, nil
	}
	generation := d.generation.Load()
	var sealed []byte
	err := d.pool.QueryRow(ctx, `select definition from task_definitions where guid = $1`, guid).Scan(&sealed)
	if err != nil {
		return nil, s.readError(err, task.ErrNotFound, "reading the definition of task %q", guid)
	}
	plain, err := d.keys.Open(sealed, placeOfTaskDefinition(guid))
	if err != nil {
		return nil, fmt.Errorf("reading the definition of task %q: %w", guid, err)
	}
	def := &workloadv1.TaskDefinition{}
	if err := proto.Unmarshal(plain, def); err != nil {
		return nil, seal.ErrBroken.With("decoding the definition of task %q: %w", guid, err)
	}
	if d.generation.Load() == generation {
		d.tasks.Add(guid, def)
	}
	return def, nil
}

func (d *definitions) openLRP(guid, id string, sealed []byte) (*workloadv1.LRPDefinition, error) {
	plain, err := d.keys.Open(sealed, placeOfDefinition(guid, id))
	if err != nil {
		return nil, fmt.Errorf("reading definition %q of %q: %w", id, guid, err)
	}
	def := &workloadv1.LRPDefinition{}
	if err := proto.Unmarshal(plain, def); err != nil {
		return nil, seal.ErrBroken.With("decoding definition %q of %q: %w", id, guid, err)
	}
	return def, nil
}

// forget drops from the caches what a committed batch has written.
func (d *definitions) forget(c *changes) {
	if len(c.definitions)+len(c.taskDefinition) == 0 {
		return
	}
	d.generation.Add(1)
	for _, w := range c.definitions {
		if w.remove {
			for _, key := range d.lrps.Keys() {
				if key[0] == w.ProcessGUID {
					d.lrps.Remove(key)
				}
			}
			continue
		}
		d.lrps.Remove([2]string{w.ProcessGUID, w.ID})
	}
	for _, w := range c.taskDefinition {
		d.tasks.Remove(w.guid)
	}
}

// readError tells a row that is not there from a database that does not answer.
func (s *Store) readError(err error, notFound error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", what, notFound)
	case postgres.IsUnavailable(err):
		return ErrUnavailable.With("%s: %w", what, err)
	default:
		err = s.unrecoverable(err)
		return fmt.Errorf("%s: %w", what, err)
	}
}

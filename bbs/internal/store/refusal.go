package store

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/schema"
	"diego.internal/servicekit/fault"
)

// Errors of what Postgres refuses. The rules refuse what they can before; these are for what they do
// not know of.
var (
	// ErrExists says that a row is there already (23505).
	ErrExists = fault.New(codes.AlreadyExists, "ResourceExists", "the record exists")
	// ErrInvalid says that a value does not fit into its column (class 22).
	ErrInvalid = fault.New(codes.InvalidArgument, fault.ReasonInvalidRequest, "a value cannot be stored")
	// ErrUnknown says that Postgres refused for a reason that has no name here.
	ErrUnknown = fault.New(codes.Internal, "UnknownError", "the database refused the change")
)

// refusalError gives an error of Postgres about the data of one request the name that clients know.
func refusalError(refusal *pgconn.PgError, err error) error {
	switch {
	case refusal.Code == "23505":
		return ErrExists.With("%w", err)
	case refusal.Code[:2] == "22":
		return ErrInvalid.With("%w", err)
	default:
		return ErrUnknown.With("%w", err)
	}
}

// unrecoverable returns err as a schema.ErrMissing if it says that a table is not there, after telling
// the writer of the active BBS to end: somebody has removed what everything here rests on, and trying
// again cannot mend it.
func (s *Store) unrecoverable(err error) error {
	if !schema.IsMissing(err) {
		return err
	}
	err = schema.ErrMissing.With("%w", err)
	if s.Active() {
		select {
		case s.fatal <- err:
		default: // one is enough
		}
	}
	return err
}

// Serving returns nil if this BBS is the active one and can prove it, else ErrMigrating or ErrNotMaster.
func (s *Store) Serving() error {
	valid := s.active.Load()
	switch {
	case valid != nil && (*valid)():
		return nil
	case s.migrating.Load():
		return ErrMigrating
	default:
		return ErrNotMaster
	}
}

// SetMigrating says whether this BBS, which holds the lock, is changing the tables. Everybody who asks
// is told so.
func (s *Store) SetMigrating(migrating bool) { s.migrating.Store(migrating) }

// Migrating reports what SetMigrating has said last.
func (s *Store) Migrating() bool { return s.migrating.Load() }

// waitingForSchema describes tables that this program cannot follow.
func waitingForSchema(v schema.Versions) string {
	return fmt.Sprintf("waiting: the tables have version %d, this program is built for %d", v.Current, schema.Built())
}

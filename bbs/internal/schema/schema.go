// Package schema owns the layout of the tables of the BBS: which version they have, which version this
// program was built for, what to do when the two differ, and the steps between versions, up and down.
//
// It does not own what is in the tables while the BBS serves (package store), nor who may migrate: its
// caller holds the lock of the active BBS. It does not use servicekit's Migrate, which serves schemas
// that only grow and that any process may bring forward; two ways to do it here would be one too many.
package schema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// Errors of a schema that this program must not touch.
var (
	// ErrNewer says that the tables are of a later release.
	ErrNewer = fault.New(codes.FailedPrecondition, "Unrecoverable", "the database has the schema of a later release")
	// ErrRollingBack says that a later release has begun to roll the schema back to before this one.
	ErrRollingBack = fault.New(codes.FailedPrecondition, "Unrecoverable", "the schema is being rolled back to an earlier release")
	// ErrMissing says that a table is not there (42P01): the database is not ours, or was tampered with.
	ErrMissing = fault.New(codes.Internal, "Unrecoverable", "a table of the schema is missing")
)

// SQLSTATE codes that decide something here.
const (
	undefinedTable       = "42P01"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
)

// Versions is what the database says about its tables.
type Versions struct {
	// Current is the version that the tables have, 0 in an empty database.
	Current int64
	// Target is the version that a migration is under way to, or Current.
	Target int64
	// ChangedAt is when either changed last. Tables change at no other time, so whoever knows their
	// content need not look again while it is the same.
	ChangedAt time.Time
}

// Querier is what reading the versions needs of a pool, connection or transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Read returns the versions. A database that no BBS has touched has version 0.
func Read(ctx context.Context, q Querier) (Versions, error) {
	var v Versions
	err := q.QueryRow(ctx, `select current_version, target_version, changed_at from bbs_schema`).
		Scan(&v.Current, &v.Target, &v.ChangedAt)
	switch {
	case err == nil:
		return v, nil
	case IsMissing(err), errors.Is(err, pgx.ErrNoRows):
		return Versions{}, nil
	default:
		return Versions{}, fmt.Errorf("reading the schema version: %w", err)
	}
}

// IsMissing reports whether an error says that a table is not there.
func IsMissing(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == undefinedTable
}

// IsRepeatable reports whether the database asks for a transaction once more.
func IsRepeatable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == serializationFailure || pg.Code == deadlockDetected || pg.Code == lockNotAvailable)
}

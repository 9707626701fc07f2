package postgres

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Error codes of Postgres that decide something here (appendix A of its manual).
const (
	uniqueViolation      = "23505"
	readOnlyTransaction  = "25006" // the host is a standby, or has become one
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	tooManyConnections   = "53300"
	lockNotAvailable     = "55P03"
	cannotConnectNow     = "57P03" // starting up or shutting down
	adminShutdown        = "57P01"
	crashShutdown        = "57P02"
)

// IsUniqueViolation reports whether err says that the named unique constraint, or any if constraint
// is "", would not hold any more.
func IsUniqueViolation(err error, constraint string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == uniqueViolation && (constraint == "" || pg.ConstraintName == constraint)
}

// IsUnavailable reports whether err says that the database cannot be reached or does not serve now,
// so that the same statement may well succeed later. Whether it was executed is not known. The end of
// the caller's own context is not unavailability.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pg.Code, "08") || slices.Contains([]string{
			readOnlyTransaction, tooManyConnections, cannotConnectNow, adminShutdown, crashShutdown,
		}, pg.Code)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok && !errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	return pgconn.SafeToRetry(err) || errors.Is(err, net.ErrClosed) || lostConnection(err)
}

// repeatable reports whether the database asks for the whole transaction once more.
func repeatable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{serializationFailure, deadlockDetected, lockNotAvailable}, pg.Code)
}

package lease

import (
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// Errors about claims, as callers see them.
var (
	// ErrCollision says that another owner holds the key; the text names it.
	ErrCollision = fault.New(codes.AlreadyExists, "LockCollision", "lock-collision")
	// ErrNotFound says that nobody holds the key.
	ErrNotFound = fault.New(codes.NotFound, "ResourceNotFound", "nobody holds the key")
)

// metadataOwner is where an ErrCollision tells programs who holds the key.
const metadataOwner = "owner"

// CollisionWith is the ErrCollision of a request that is refused because of held.
func CollisionWith(held Held) error {
	return ErrCollision.WithMetadata(map[string]string{metadataOwner: held.Owner}, "the %v is held by %q", held.Type, held.Owner)
}

// Type tells locks from presences. The values are those of the database and of the messages.
type Type int16

// The types of claims.
const (
	TypeLock     Type = 1
	TypePresence Type = 2
)

// String returns the type as it is written in logs and metrics.
func (t Type) String() string {
	switch t {
	case TypeLock:
		return "lock"
	case TypePresence:
		return "presence"
	default:
		return "unknown"
	}
}

// Request asks for a claim, or for its renewal.
type Request struct {
	Key    string
	Owner  string // unique for each run of a process
	Holder string // SPIFFE id of the caller's certificate
	Type   Type
	Value  string
	TTL    time.Duration
	// Incarnation counts the runs of the holder; 0 takes over nothing.
	Incarnation int64
}

// Held is a claim as it is stored. Times are those of the database.
type Held struct {
	Key         string
	Owner       string
	Holder      string
	Type        Type
	Value       string
	TTL         time.Duration
	ExpiresAt   time.Time
	AcquiredAt  time.Time
	Token       int64
	Incarnation int64
}

// Granted is the answer to a Request that succeeded.
type Granted struct {
	Held     Held
	Acquired bool // false for a renewal
}

// MayReplace reports whether the request may have the key although held has not expired: as its
// renewal by the same owner, or as the take-over of a presence by a later run of the same identity.
// The statement that writes says the same in SQL and has the last word; this spares a transaction
// for requests that cannot succeed, which is what the standbys of a lock send all day.
func (r Request) MayReplace(held Held) bool {
	if r.Type != held.Type {
		return false
	}
	if r.Owner == held.Owner {
		return true
	}
	return r.Type == TypePresence && r.Holder == held.Holder && r.Incarnation > held.Incarnation
}

// Kind says what happened to a claim. The values are those of the database and of the messages.
type Kind int16

// The kinds of changes. A take-over by a later run of the same identity is Acquired and nothing else.
const (
	KindAcquired Kind = 1
	KindUpdated  Kind = 2
	KindReleased Kind = 3
	KindExpired  Kind = 4
)

// Change is one entry of the history of all claims.
type Change struct {
	// Revision orders all changes as they were committed.
	Revision int64
	Kind     Kind
	// Held is the claim after the change; for a release or an expiry as it was before.
	Held Held
}

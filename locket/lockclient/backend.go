// Package lockclient is how the processes of the product hold locks and presences: it acquires,
// renews, releases and watches claims, and knows by its own clock whether a claim may be trusted.
//
// It does not own where claims are kept. That is a Backend: locket, through its gRPC service, or
// any other store with leases. Every Backend has to pass the suite in package backendtest.
package lockclient

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
)

// Errors of a Backend. Whatever else it returns means that the store could not be asked, and says
// nothing about who holds the claim.
var (
	// ErrCollision says that another owner holds the key; HolderIn tells which.
	ErrCollision = fault.New(codes.AlreadyExists, "LockCollision", "lock-collision")
	// ErrNotHeld says that nobody holds the key.
	ErrNotHeld = fault.New(codes.NotFound, "ResourceNotFound", "nobody holds the key")
	// ErrRefused says that the store will never grant this claim to this caller: the certificate
	// does not allow it, or the claim is malformed.
	ErrRefused = fault.New(codes.PermissionDenied, "ClaimRefused", "the claim is refused")
)

// metadataOwner is where an ErrCollision has the owner.
const metadataOwner = "owner"

// heldBy is the ErrCollision of a claim that owner has.
func heldBy(owner string) error {
	return ErrCollision.WithMetadata(map[string]string{metadataOwner: owner}, "held by %q", owner)
}

// HolderIn returns the owner whose claim is in the way, if err is an ErrCollision that tells it, or "".
func HolderIn(err error) string {
	if !errors.Is(err, ErrCollision) {
		return ""
	}
	return fault.Metadata(err)[metadataOwner]
}

// Type tells locks from presences. Both live in one space of keys.
type Type int

// The types of claims.
const (
	TypeLock Type = iota + 1
	TypePresence
)

// Claim is what a holder asks for. Asking again with the same Key and Owner renews it.
type Claim struct {
	Key   string
	Owner string // unique for each run of a process
	Type  Type
	Value []byte // UTF-8 text, at most 64 KiB
	TTL   time.Duration
	// Incarnation lets a presence be taken over from an earlier run of the same identity, whose
	// incarnation was lower. 0 takes over nothing.
	Incarnation int64
}

// Held is a claim as the store has it.
type Held struct {
	Claim
	// Token grows with every acquisition, so of two holders of a key the later has the higher one.
	Token int64
	// AcquiredAt and ExpiresAt are for display, not for decisions: by the clock of locket's database; in
	// Consul by that of the holder, and ExpiresAt is zero because Consul does not tell.
	AcquiredAt time.Time
	ExpiresAt  time.Time
}

// EventKind says what happened to a claim.
type EventKind int

// The kinds of events of a watch.
const (
	// Acquired: somebody holds the key who did not before, or held it when the watch began.
	Acquired EventKind = iota + 1
	// Updated: the holder published another value.
	Updated
	// Released: the holder gave it up.
	Released
	// Expired: the holder let it run out.
	Expired
	// Synced: all claims that were held when the watch began have been told. It has no Held.
	Synced
)

// String returns the kind as it is written in logs.
func (k EventKind) String() string {
	switch k {
	case Acquired:
		return "acquired"
	case Updated:
		return "updated"
	case Released:
		return "released"
	case Expired:
		return "expired"
	case Synced:
		return "synced"
	default:
		return "unknown"
	}
}

// Event is one change of a claim. For Released and Expired, Held is the claim as it was before.
type Event struct {
	Kind EventKind
	Held Held
}

// Filter chooses the claims of a watch: those of one type whose key starts with Prefix.
type Filter struct {
	Type   Type
	Prefix string
}

// Backend is a store of claims with leases. It is safe for concurrent use, and every method returns
// soon after its context ends.
type Backend interface {
	// Claim acquires or renews. It returns an error for which errors.Is holds ErrCollision if
	// another owner holds the key, or ErrRefused if asking again is no use.
	Claim(ctx context.Context, claim Claim) (Held, error)
	// Release frees the key if owner holds it; a key that nobody holds is no error. It returns
	// ErrCollision if another owner holds it.
	Release(ctx context.Context, key, owner string) error
	// Fetch returns the present holder, or ErrNotHeld.
	Fetch(ctx context.Context, key string) (Held, error)
	// Watch calls handle, one event at a time and in order: Acquired for each claim held now, one
	// Synced, then every change as it happens. It blocks until ctx ends or the stream breaks or
	// falls silent, and always returns an error; after that a new Watch starts from what is held
	// then.
	Watch(ctx context.Context, filter Filter, handle func(Event)) error
}

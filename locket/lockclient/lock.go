package lockclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/lifecycle"
)

// ErrLost says that the holder must stop at once: another process may get the lock, or has it. A
// process that ends with it has exit code lifecycle.ExitLockLost.
var ErrLost = lifecycle.WithExitCode(errors.New("the lock is lost"), lifecycle.ExitLockLost)

// releaseTimeout bounds the release of a claim when its holder stops. If it fails, the claim ends
// by itself after its TTL.
const releaseTimeout = 2 * time.Second

// LockConfig says which lock to take.
type LockConfig struct {
	// Key is the name of the lock: "bbs", "auctioneer", "route_emitter".
	Key string
	// Owner names this instance among its peers, for people. Every Acquire adds a random part, so
	// that no two runs of a process are ever taken for one.
	Owner string
	// Value is published with the lock: UTF-8, at most 64 KiB. Optional.
	Value []byte
	// TTL is how long the lock outlives a holder that died, from 3 s to 300 s; 0 is 5 s.
	TTL     time.Duration
	Backend Backend
	Log     *slog.Logger
	// Metrics shows lock_held{lock}: 1 while this process holds it, 0 while it waits. Optional.
	Metrics prometheus.Registerer
	// Readiness shows in /readyz who holds the lock, as check "lock": telemetry.AddReadiness. A process that waits for
	// its lock counts as not ready. Optional.
	Readiness func(name string, check func() (detail any, err error))
}

// Lock is a held lock. Its methods are safe for concurrent use.
type Lock struct {
	backend Backend
	log     *slog.Logger
	claim   Claim
	token   atomic.Int64
	keeper  *lease.Keeper
	// acquired is set after keeper, for readers that were there before it.
	acquired atomic.Bool
	// holder is who else held the lock when we last asked, nil if nobody did.
	holder atomic.Pointer[string]
}

// Acquire blocks until the lock is held or ctx ends, which returns the cause of ctx. It returns an
// error that wraps ErrRefused at once if waiting is no use, and an error without it for a bad
// LockConfig.
//
// While another process holds the lock it watches, and asks at once when the lock is released or
// expires; it also asks every second, in case the watch does not tell. The lease counts from the
// moment of success: call Hold soon.
func Acquire(ctx context.Context, cfg LockConfig) (*Lock, error) {
	l, err := newLock(cfg)
	if err != nil {
		return nil, fmt.Errorf("acquiring lock %q: %w", cfg.Key, err)
	}
	if err := showHeld(cfg.Metrics, l); err != nil {
		return nil, fmt.Errorf("acquiring lock %q: %w", cfg.Key, err)
	}
	if cfg.Readiness != nil {
		cfg.Readiness("lock", l.readiness)
	}
	if err := l.acquire(ctx); err != nil {
		return nil, fmt.Errorf("acquiring lock %q: %w", cfg.Key, err)
	}
	l.acquired.Store(true)
	l.log.InfoContext(ctx, "lock-acquired", "token", l.Token())
	return l, nil
}

func newLock(cfg LockConfig) (*Lock, error) {
	if cfg.TTL == 0 {
		cfg.TTL = lease.DefaultTTL
	}
	if err := checkTTL(cfg.TTL); err != nil {
		return nil, err
	}
	if cfg.Key == "" || cfg.Backend == nil || cfg.Log == nil {
		return nil, errors.New("key, backend and log are required")
	}
	owner := ownerOfThisRun(cfg.Owner)
	return &Lock{
		backend: cfg.Backend,
		log:     cfg.Log.With("lock", cfg.Key, "owner", owner),
		claim:   Claim{Key: cfg.Key, Owner: owner, Type: TypeLock, Value: cfg.Value, TTL: cfg.TTL},
	}, nil
}

// Hold renews the lock every third of its TTL until ctx ends; then it releases the lock and returns
// nil. End ctx only when the work that the lock protects has stopped.
//
// It returns an error that wraps ErrLost, without releasing, when the lock is lost: another process
// has it, or no renewal succeeded before the deadline. Valid is false by then, and work has to stop
// at once. Call it once.
func (l *Lock) Hold(ctx context.Context) error {
	if err := l.keeper.Run(ctx); err != nil {
		l.log.WarnContext(ctx, "lock-lost", "error", err)
		if errors.Is(err, errReacquired) {
			release(ctx, l.backend, l.claim, l.log)
		}
		return fmt.Errorf("%w: holding lock %q: %w", ErrLost, l.claim.Key, err)
	}
	l.keeper.GiveUp()
	release(ctx, l.backend, l.claim, l.log)
	return nil
}

// Token is the fencing token: whoever gets the lock later has a higher one.
func (l *Lock) Token() int64 { return l.token.Load() }

// Owner is the owner under which the lock is held: the configured one and a random part.
func (l *Lock) Owner() string { return l.claim.Owner }

// Valid reports whether this process may act as the holder at this moment, by its own monotonic
// clock. It costs some ten nanoseconds; ask before every write.
func (l *Lock) Valid() bool { return l.keeper.Valid() }

// Deadline is when Valid ends unless a renewal succeeds before.
func (l *Lock) Deadline() time.Time { return l.keeper.Deadline() }

// acquire asks until the lock is ours.
func (l *Lock) acquire(ctx context.Context) error {
	terms := lease.Terms{TTL: l.claim.TTL}
	waiter := newWaiter(l.backend, l.claim, l.log)
	defer waiter.stop()
	for {
		sentAt, err := lease.Attempt(ctx, terms, lease.Attempts{Try: l.ask, Final: final, Observe: l.observe(ctx)})
		switch {
		case err == nil:
			l.keeper = lease.NewKeeper(terms, sentAt, lease.Attempts{Try: l.renew, Final: demoting, Observe: l.observe(ctx)})
			if l.keeper.Valid() {
				return nil
			}
			// Suspended on the way; ask again, which renews.
		case errors.Is(err, ErrCollision):
			holder := HolderIn(err)
			l.holder.Store(&holder)
			if err := waiter.wait(ctx, err); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// ask is one request for a lock that is not ours yet. When two were under way at once, the later
// one renewed what the earlier had acquired, so both were told the same token.
func (l *Lock) ask(ctx context.Context) error {
	held, err := l.backend.Claim(ctx, l.claim)
	if err != nil {
		return err
	}
	l.token.Store(held.Token)
	return nil
}

// renew is one request for the lock that we hold.
func (l *Lock) renew(ctx context.Context) error {
	held, err := l.backend.Claim(ctx, l.claim)
	if err != nil {
		return err
	}
	if held.Token != l.token.Load() {
		return errReacquired
	}
	return nil
}

func (l *Lock) observe(ctx context.Context) func(error) {
	return func(err error) { l.log.DebugContext(ctx, "lock-request-failed", "error", err) }
}

// errReacquired says that the claim was gone from the store when we renewed it, before its time:
// released by an operator, or lost with a database that was restored. Another process may have had
// it in between, so what we hold now is not the lock that we held.
var errReacquired = errors.New("the claim was gone and has been acquired anew")

// demoting reports the answers that end a held lock at once. A refusal does not: while a certificate
// is being exchanged, the next server may think otherwise.
func demoting(err error) bool { return errors.Is(err, ErrCollision) || errors.Is(err, errReacquired) }

// final reports the answers after which asking again at once is no use.
func final(err error) bool { return errors.Is(err, ErrCollision) || errors.Is(err, ErrRefused) }

// release frees a claim although ctx has ended.
func release(ctx context.Context, backend Backend, claim Claim, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	err := backend.Release(ctx, claim.Key, claim.Owner)
	switch {
	case err == nil:
		log.InfoContext(ctx, "claim-released")
	case errors.Is(err, ErrCollision):
		log.InfoContext(ctx, "claim-already-taken-over")
	default:
		// Nothing is lost but time: the claim ends by itself.
		log.WarnContext(ctx, "claim-not-released", "error", err)
	}
}

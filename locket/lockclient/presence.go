package lockclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"diego.internal/locket/internal/lease"
)

// PresenceConfig says what to register.
type PresenceConfig struct {
	// Key is the id of what is present: for a cell, its cell id.
	Key string
	// Owner names this run, for people; a random part is added. Optional.
	Owner string
	// Value returns what is published: UTF-8, at most 64 KiB. It is called before every request, from
	// goroutines of the Presence, and must be quick. Optional.
	Value func() []byte
	// TTL is how long the presence outlives its holder, from 3 s to 300 s; 0 is 5 s.
	TTL time.Duration
	// Incarnation counts the runs of this identity; the time of the start in nanoseconds does. It
	// has to be higher than that of any earlier run, whose presence is then taken over at once.
	Incarnation int64
	// ReleaseOnStop makes the end of Run release the presence. Without it the presence ends after its
	// TTL, or is taken over by the next run before that. See also SetReleaseOnStop.
	ReleaseOnStop bool
	Backend       Backend
	Log           *slog.Logger
}

// Presence keeps something registered for as long as Run runs. Its methods are safe for concurrent
// use.
type Presence struct {
	cfg     PresenceConfig
	terms   lease.Terms
	owner   string
	release atomic.Bool

	mu     sync.Mutex
	keeper *lease.Keeper // nil until held; replaced at each acquisition
	held   chan struct{} // closed when held for the first time
}

// NewPresence returns a Presence that is not registered before Run. An invalid config is an error
// of Run.
func NewPresence(cfg PresenceConfig) *Presence {
	if cfg.TTL == 0 {
		cfg.TTL = lease.DefaultTTL
	}
	p := &Presence{
		cfg:   cfg,
		terms: lease.Terms{TTL: cfg.TTL},
		owner: ownerOfThisRun(cfg.Owner),
		held:  make(chan struct{}),
	}
	p.release.Store(cfg.ReleaseOnStop)
	return p
}

// Run registers the presence and renews it every third of its TTL. It never gives up: a presence
// that was lost is registered again as soon as the store lets us. When ctx ends it releases the
// presence if it shall, and returns nil; it returns an error only for an invalid config. Call it
// once.
func (p *Presence) Run(ctx context.Context) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("keeping presence %q: %w", p.cfg.Key, err)
	}
	log := p.cfg.Log.With("presence", p.cfg.Key, "owner", p.owner)
	for ctx.Err() == nil {
		keeper, err := p.acquire(ctx, log)
		if err != nil {
			break // only the end of ctx does this
		}
		if err := keeper.Run(ctx); err != nil {
			log.WarnContext(ctx, "presence-lost", "error", err)
		}
	}
	if !p.release.Load() {
		return nil
	}
	if keeper := p.current(); keeper != nil {
		keeper.GiveUp()
	}
	// Also when it was never held: a request that we gave up may have been granted.
	release(ctx, p.cfg.Backend, Claim{Key: p.cfg.Key, Owner: p.owner}, log)
	return nil
}

// Held reports whether the presence is registered, by the monotonic clock of this process.
func (p *Presence) Held() bool {
	keeper := p.current()
	return keeper != nil && keeper.Valid()
}

// WaitHeld blocks until the presence has been registered for the first time, or returns the cause of
// ctx.
func (p *Presence) WaitHeld(ctx context.Context) error {
	select {
	case <-p.held:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Refresh publishes the present Value now instead of with the next renewal. It does not block.
func (p *Presence) Refresh() {
	if keeper := p.current(); keeper != nil {
		keeper.Hurry()
	}
}

// SetReleaseOnStop changes what PresenceConfig.ReleaseOnStop said, for example when an evacuation
// has emptied a cell that is to disappear at once.
func (p *Presence) SetReleaseOnStop(release bool) { p.release.Store(release) }

// Owner is the owner under which the presence is registered: the configured one and a random part.
func (p *Presence) Owner() string { return p.owner }

func (p *Presence) check() error {
	if p.cfg.Key == "" || p.cfg.Backend == nil || p.cfg.Log == nil {
		return errors.New("key, backend and log are required")
	}
	return checkTTL(p.cfg.TTL)
}

func (p *Presence) current() *lease.Keeper {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keeper
}

// acquire asks until the presence is ours. An earlier run of ours that has not expired yet, or a
// refusal, is asked again like any failure.
func (p *Presence) acquire(ctx context.Context, log *slog.Logger) (*lease.Keeper, error) {
	complained := false
	sentAt, err := lease.Attempt(ctx, p.terms, lease.Attempts{Try: p.try, Observe: func(err error) {
		// The first failure is news, the others are the same news.
		if !complained {
			log.WarnContext(ctx, "presence-not-registered", "error", err)
		}
		complained = true
	}})
	if err != nil {
		return nil, err
	}
	keeper := lease.NewKeeper(p.terms, sentAt, lease.Attempts{
		Try:     p.try,
		Final:   func(err error) bool { return errors.Is(err, ErrCollision) },
		Observe: func(err error) { log.DebugContext(ctx, "presence-not-renewed", "error", err) },
	})
	p.mu.Lock()
	first := p.keeper == nil
	p.keeper = keeper
	p.mu.Unlock()
	if first {
		close(p.held)
	}
	log.InfoContext(ctx, "presence-registered")
	return keeper, nil
}

func (p *Presence) try(ctx context.Context) error {
	claim := Claim{
		Key: p.cfg.Key, Owner: p.owner, Type: TypePresence,
		TTL: p.cfg.TTL, Incarnation: p.cfg.Incarnation,
	}
	if p.cfg.Value != nil {
		claim.Value = p.cfg.Value()
	}
	_, err := p.cfg.Backend.Claim(ctx, claim)
	return err
}

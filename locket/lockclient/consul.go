package lockclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// consul is the Backend that keeps claims in Consul.
//
// A claim is one key, <prefix>claims/<key>, held by a session of its own: the value is an entry, the
// session is the proof. Every change of hands is one transaction that fails if anything it was
// decided upon has changed, so no crash leaves a half. A session is destroyed only when it holds
// nothing; whatever becomes of its owner, its time to live ends it.
//
// Consul ends a session not before its time to live, which is at least ten seconds, and not before
// twice that in fact; and a new leader starts all of them anew. For holders this changes nothing:
// they trust the lease of their own Keeper, which is shorter. For those who wait it would be long.
// So a lock is also renewed by a write, to <prefix>renewals/<key>, and a contender that has seen no
// write for the whole TTL by its own monotonic clock takes the lock over: no clocks are compared, and
// a slow contender only comes later. Presences, which nobody contends for and which are many, cost no
// write when renewed and end with their session.
type consul struct {
	cfg    ConsulConfig
	client *api.Client
	// markerAge is how long a watch leaves the entry of a released presence in place.
	markerAge time.Duration

	mu       sync.Mutex
	observed map[string]observation // of locks that others hold
}

// observation is what a contender saw of a lock, and since when it has not changed.
type observation struct {
	index, renewal uint64
	since          time.Time
}

const (
	// consulTimeout bounds a call whose caller sets no deadline.
	consulTimeout = 10 * time.Second
	// sessionCleanup bounds the destruction of a session that holds nothing.
	sessionCleanup = 2 * time.Second
	// shortestLockDelay is what stands for none: Consul takes 0 for its default of 15 s.
	shortestLockDelay = time.Nanosecond
)

// NewConsul returns the Backend that keeps claims in Consul, and a function that closes its idle
// connections. It does not connect: an agent that is down is an error of each call.
//
// Consul's ACLs do not bind keys to certificates as locket does: whoever may write the prefix may take
// any claim. ExpiresAt of its claims is zero, because Consul does not tell.
func NewConsul(cfg ConsulConfig) (Backend, func(), error) {
	cfg = cfg.withDefaults()
	client, closeIdle, err := cfg.client()
	if err != nil {
		return nil, nil, err
	}
	return &consul{cfg: cfg, client: client, markerAge: markerAge, observed: map[string]observation{}}, closeIdle, nil
}

func (c *consul) claimKey(key string) string   { return c.cfg.Prefix + "claims/" + key }
func (c *consul) renewalKey(key string) string { return c.cfg.Prefix + "renewals/" + key }

// read returns what the key holds and when its lock was last renewed, both of one moment.
func (c *consul) read(ctx context.Context, key string) (now record, renewal uint64, err error) {
	ok, resp, _, err := c.client.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: c.claimKey(key)}},
		{KV: &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: c.renewalKey(key)}},
	}, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	switch {
	case err != nil:
		return record{}, 0, fmt.Errorf("reading %q in consul: %w", key, err)
	case !ok:
		return record{}, 0, fmt.Errorf("reading %q in consul: %w", key, refusedTxn(resp))
	case len(resp.Results) != 2:
		// Consul leaves out what the token may not read.
		return record{}, 0, ErrRefused.With("the consul token may not read %q", c.claimKey(key))
	}
	for _, result := range resp.Results {
		// A key that does not exist comes with index 0.
		if pair := result.KV; pair.Key == c.renewalKey(key) {
			renewal = pair.ModifyIndex
		} else if pair.ModifyIndex != 0 {
			now = decodeRecord(key, pair)
		}
	}
	now.key = key
	return now, renewal, nil
}

// Fetch implements Backend.
func (c *consul) Fetch(ctx context.Context, key string) (Held, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	now, _, err := c.read(ctx, key)
	switch {
	case err != nil:
		return Held{}, err
	case !now.held():
		return Held{}, ErrNotHeld.With("%q", key)
	default:
		return now.asHeld(), nil
	}
}

// Release implements Backend. The entry stays, marked, so that watches can tell a release from the end
// of a session; that of a presence is removed later by a watch.
func (c *consul) Release(ctx context.Context, key, owner string) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	var refusal error
	for range maxRounds {
		now, _, err := c.read(ctx, key)
		switch {
		case err != nil:
			return err
		case !now.held():
			return nil
		case now.Owner != owner:
			return heldBy(now.Owner)
		}
		released := now.entry
		released.Released = true
		value, err := released.encode()
		if err != nil {
			return err
		}
		_, refusal, err = c.apply(ctx, key, api.TxnOps{
			{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: c.claimKey(key), Index: now.index}},
			{KV: &api.KVTxnOp{Verb: api.KVUnlock, Key: c.claimKey(key), Session: now.session, Value: value}},
		})
		if err != nil {
			return err
		}
		if refusal == nil {
			c.destroy(ctx, now.session)
			return nil
		}
	}
	return fmt.Errorf("releasing %q: it changes all the time: %w", key, refusal)
}

// apply runs a transaction. It returns what it wrote, or as refusal why Consul did not apply it.
func (c *consul) apply(ctx context.Context, key string, ops api.TxnOps) (result []*api.KVPair, refusal, err error) {
	ok, resp, _, err := c.client.Txn().Txn(ops, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("changing %q in consul: %w", key, err)
	}
	if !ok {
		if refusal = refusedTxn(resp); errors.Is(refusal, ErrRefused) {
			return nil, nil, fmt.Errorf("changing %q in consul: %w", key, refusal)
		}
		return nil, refusal, nil
	}
	for _, r := range resp.Results {
		result = append(result, r.KV)
	}
	return result, nil, nil
}

// deniedText is how a transaction says that the token may not do this; it has no code for it.
const deniedText = "Permission denied"

// refusedTxn is the reason why a transaction was not applied.
func refusedTxn(resp *api.TxnResponse) error {
	text := "no reason given"
	if len(resp.Errors) > 0 {
		text = resp.Errors[0].What
	}
	if strings.Contains(text, deniedText) {
		return ErrRefused.With("%s", text)
	}
	return fmt.Errorf("consul did not apply the transaction: %s", text)
}

// destroy ends a session that holds nothing. If that fails its time to live does it.
func (c *consul) destroy(ctx context.Context, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionCleanup)
	defer cancel()
	_, _ = c.client.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx)) // see above
}

// withDeadline gives a call a deadline if it has none.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, consulTimeout, fmt.Errorf("consul did not answer within %v", consulTimeout))
}

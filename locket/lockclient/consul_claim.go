package lockclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"diego.internal/locket/internal/lease"
)

// maxRounds is how often a claim is decided anew because the key changed meanwhile.
const maxRounds = 5

// Limits of a claim, the same as those of locket.
const (
	maxKey   = 255
	maxValue = 64 << 10
)

// Claim implements Backend. It reads the key and then does one of three things: renew what the owner
// holds, refuse, or acquire; the last two by a transaction upon exactly what was read.
func (c *consul) Claim(ctx context.Context, claim Claim) (Held, error) {
	if err := checkClaim(claim); err != nil {
		return Held{}, err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	var refusal error
	var lastFree uint64
	for round := range maxRounds {
		now, renewal, err := c.read(ctx, claim.Key)
		if err != nil {
			return Held{}, err
		}
		var held Held
		switch {
		case now.held() && now.Owner == claim.Owner && now.claimType() == claim.Type:
			held, refusal, err = c.renew(ctx, now, claim)
		case now.held() && !c.mayReplace(now, renewal, claim):
			return Held{}, heldBy(now.Owner)
		case round > 0 && !now.held() && now.index == lastFree:
			// Nobody has it and nothing has changed, but Consul refused: the lock delay.
			return Held{}, ErrCollision.With("held by nobody, but it cannot be taken: %w", refusal)
		default:
			lastFree = now.index
			held, refusal, err = c.acquire(ctx, acquisition{claim: claim, before: now, renewal: renewal})
		}
		if err != nil || refusal == nil {
			return held, err
		}
	}
	return Held{}, ErrCollision.With("it changes hands all the time: %w", refusal)
}

func checkClaim(claim Claim) error {
	switch {
	case claim.Key == "" || len(claim.Key) > maxKey || !cleanKey(claim.Key):
		return ErrRefused.With("the key %q is no path of 1 to %d characters", claim.Key, maxKey)
	case claim.Owner == "" || len(claim.Owner) > maxKey:
		return ErrRefused.With("an owner must have 1 to %d characters", maxKey)
	case claim.Type != TypeLock && claim.Type != TypePresence:
		return ErrRefused.With("there is no type %d", claim.Type)
	case claim.TTL <= 0 || claim.TTL > lease.MaxTTL:
		return ErrRefused.With("a ttl must be above 0s and at most %v, is %v", lease.MaxTTL, claim.TTL)
	case len(claim.Value) > maxValue || !utf8.Valid(claim.Value):
		return ErrRefused.With("a value must be UTF-8 of at most %d bytes", maxValue)
	default:
		return nil
	}
}

// mayReplace reports whether claim may have a key that another owner holds: as a later run of the same
// presence, or as the contender for a lock whose holder has been silent for too long.
func (c *consul) mayReplace(now record, renewal uint64, claim Claim) bool {
	switch {
	case !now.readable || now.claimType() != claim.Type:
		return false
	case claim.Type == TypePresence:
		return claim.Incarnation > now.Incarnation
	default:
		return c.silent(now, renewal)
	}
}

// silent notes what is seen of a lock, and reports whether it has been the same for its TTL and the
// lock delay. The time counts from after the answer: the last renewal was sent before that.
func (c *consul) silent(now record, renewal uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, known := c.observed[now.key]
	if !known || seen.index != now.index || seen.renewal != renewal {
		c.observed[now.key] = observation{index: now.index, renewal: renewal, since: time.Now()}
		return false
	}
	return time.Since(seen.since) >= now.TTL+c.cfg.LockDelay
}

func (c *consul) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.observed, key)
}

// renew extends the session, and then proves that the key is still held by it, in that order. It
// returns a refusal if the key has to be read again.
func (c *consul) renew(ctx context.Context, now record, claim Claim) (held Held, refusal, err error) {
	session, _, err := c.client.Session().Renew(now.session, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return Held{}, nil, fmt.Errorf("renewing the consul session of %q: %w", claim.Key, err)
	}
	if session == nil {
		return Held{}, fmt.Errorf("the consul session of %q has ended", claim.Key), nil
	}
	key, next := c.claimKey(claim.Key), now.renewed(claim)
	ops := api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: key, Index: now.index}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: key, Session: now.session}},
	}
	if !now.says(next) {
		value, err := next.encode()
		if err != nil {
			return Held{}, nil, err
		}
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVLock, Key: key, Session: now.session, Value: value}})
	}
	if claim.Type == TypeLock {
		ops = append(ops, c.signOfLife(claim.Key))
	}
	if _, refusal, err = c.apply(ctx, claim.Key, ops); refusal != nil || err != nil {
		return Held{}, refusal, err
	}
	now.entry = next
	return now.asHeld(), nil, nil
}

// signOfLife writes something new: Consul does not count a write that changes nothing.
func (c *consul) signOfLife(key string) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: c.renewalKey(key), Value: []byte(rand.Text())}}
}

// acquisition is a claim and what was read before it.
type acquisition struct {
	claim   Claim
	before  record
	renewal uint64
}

// acquire makes a session and takes the key with it, from its present holder if there is one. It
// returns a refusal if anything has changed since a.before was read.
func (c *consul) acquire(ctx context.Context, a acquisition) (held Held, refusal, err error) {
	session, err := c.newSession(ctx, a.claim)
	if err != nil {
		return Held{}, nil, err
	}
	next := newEntry(a.claim, time.Now())
	next.After = a.before.ended()
	value, err := next.encode()
	if err != nil {
		return Held{}, nil, err
	}
	result, refusal, err := c.apply(ctx, a.claim.Key, c.acquiring(a, session, value))
	switch {
	case errors.Is(err, ErrRefused):
		c.destroy(ctx, session)
		return Held{}, nil, err
	case err != nil:
		// It may have been applied, and then another request of ours may have renewed it already. A
		// session that holds nothing ends by itself.
		return Held{}, nil, err
	case refusal != nil:
		c.destroy(ctx, session)
		return Held{}, refusal, nil
	}
	if a.before.held() {
		c.destroy(ctx, a.before.session)
	}
	c.forget(a.claim.Key)
	for _, pair := range slices.Backward(result) { // the checks tell the key as it was before
		if pair.Key == c.claimKey(a.claim.Key) {
			pair.Value = value // writes come back without their values
			return decodeRecord(a.claim.Key, pair).asHeld(), nil, nil
		}
	}
	return Held{}, nil, fmt.Errorf("claiming %q: consul does not tell what it wrote", a.claim.Key)
}

// acquiring is the transaction that gives the key to session.
func (c *consul) acquiring(a acquisition, session string, value []byte) api.TxnOps {
	key := c.claimKey(a.claim.Key)
	var ops api.TxnOps
	if a.before.index == 0 {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: key}})
	} else {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: key, Index: a.before.index}})
	}
	if a.before.held() {
		if a.claim.Type == TypeLock {
			ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: c.renewalKey(a.claim.Key), Index: a.renewal}})
		}
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVUnlock, Key: key, Session: a.before.session, Value: value}})
	}
	ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVLock, Key: key, Session: session, Value: value}})
	if a.claim.Type == TypeLock {
		ops = append(ops, c.signOfLife(a.claim.Key))
	}
	return ops
}

// newSession makes a session without any check of node health: the agent of the holder may be lost and
// found again as long as renewals arrive through some way.
func (c *consul) newSession(ctx context.Context, claim Claim) (string, error) {
	entry := &api.SessionEntry{
		Name: claim.Owner, TTL: max(claim.TTL, c.cfg.SessionTTLMin).String(),
		Behavior: api.SessionBehaviorDelete, LockDelay: shortestLockDelay,
	}
	if claim.Type == TypeLock {
		entry.Behavior, entry.LockDelay = api.SessionBehaviorRelease, max(c.cfg.LockDelay, shortestLockDelay)
	}
	id, _, err := c.client.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("making a consul session for %q: %w", claim.Key, err)
	}
	return id, nil
}

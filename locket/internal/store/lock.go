package store

import (
	"context"
	"fmt"
	"time"

	"diego.internal/locket/internal/lease"
)

// groupLimit bounds how many requests share one statement; with values of the largest size it also
// bounds the statement, to 16 MiB.
const groupLimit = 256

// request is a lease.Request under way.
type request struct {
	lease.Request
	ctx    context.Context //nolint:containedctx // the request's own, to drop it if its caller has gone
	answer chan answer     // of one element, so that nobody waits for a caller that has gone
}

type answer struct {
	granted lease.Granted
	err     error
}

// Lock acquires or renews a claim. It returns lease.ErrCollision, naming the owner, if another owner
// holds the key, and ErrUnavailable if the database could not be asked.
//
// Requests that wait at the same moment share their statements: while one group is with the database,
// the next one gathers, so the cost of a renewal falls as their number rises.
func (s *Store) Lock(ctx context.Context, req lease.Request) (lease.Granted, error) {
	r := &request{Request: req, ctx: ctx, answer: make(chan answer, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return lease.Granted{}, fmt.Errorf("waiting to claim %q: %w", req.Key, ctx.Err())
	case <-s.stopped:
		return lease.Granted{}, ErrUnavailable.With("claiming %q: the server is stopping", req.Key)
	}
	select {
	case a := <-r.answer:
		if a.err != nil {
			return lease.Granted{}, fmt.Errorf("claiming %q: %w", req.Key, a.err)
		}
		return a.granted, nil
	case <-ctx.Done():
		return lease.Granted{}, fmt.Errorf("waiting for the claim of %q: %w", req.Key, ctx.Err())
	}
}

// groupEvery is the shortest time from one group to the next. Under load, requests wait up to this
// long for company, which divides the cost of a thousand cells by the size of the groups; a single
// request in a quiet moment does not wait.
const groupEvery = 10 * time.Millisecond

// group serves Lock until ctx ends.
func (s *Store) group(ctx context.Context) {
	defer close(s.stopped)
	var left []*request // had a key that the last group had too
	company := time.NewTimer(0)
	defer company.Stop()
	for {
		waiting := left
		if len(waiting) == 0 {
			select {
			case <-ctx.Done():
				return
			case r := <-s.requests:
				waiting = append(waiting, r)
			}
		}
		waiting = s.gather(waiting, company.C)
		company.Reset(groupEvery)
		var now []*request
		now, left = distinct(waiting)
		s.metrics.groupSize.Observe(float64(len(now)))
		s.serve(ctx, now)
	}
}

// gather adds to those it is given what comes until company, and what waits then.
func (s *Store) gather(waiting []*request, company <-chan time.Time) []*request {
	for len(waiting) < groupLimit {
		select {
		case r := <-s.requests:
			waiting = append(waiting, r)
			continue
		case <-company:
		}
		break
	}
	for len(waiting) < groupLimit {
		select {
		case r := <-s.requests:
			waiting = append(waiting, r)
		default:
			return waiting
		}
	}
	return waiting
}

// distinct takes the first request for each key, because one statement may not write a row twice,
// and drops those whose caller has gone: a claim for nobody would only be in the way.
func distinct(waiting []*request) (now, later []*request) {
	taken := make(map[string]bool, len(waiting))
	for _, r := range waiting {
		switch {
		case r.ctx.Err() != nil:
			r.answer <- answer{err: r.ctx.Err()}
		case taken[r.Key]:
			later = append(later, r)
		default:
			taken[r.Key] = true
			now = append(now, r)
		}
	}
	return now, later
}

// serve answers each request of a group that has no key twice: first by one renewal for all, then,
// for those that were none, by one acquisition for all that have a chance.
func (s *Store) serve(ctx context.Context, group []*request) {
	if len(group) == 0 {
		return
	}
	renewed, err := s.renew(ctx, group)
	if err != nil {
		refuseAll(group, err)
		return
	}
	var rest []*request
	for _, r := range group {
		held, ok := renewed[r.Key]
		if !ok {
			rest = append(rest, r)
			continue
		}
		held.Value = r.Value
		r.answer <- answer{granted: lease.Granted{Held: held}}
	}
	s.serveAcquisitions(ctx, rest)
}

func (s *Store) serveAcquisitions(ctx context.Context, group []*request) {
	if len(group) == 0 {
		return
	}
	holders, err := s.holders(ctx, group)
	if err != nil {
		refuseAll(group, err)
		return
	}
	var chances []*request
	for _, r := range group {
		if held, inTheWay := holders[r.Key]; inTheWay && !r.MayReplace(held) {
			s.refuse(r, held)
			continue
		}
		chances = append(chances, r)
	}
	if len(chances) == 0 {
		return
	}
	out, err := s.acquire(ctx, chances)
	if err != nil {
		refuseAll(chances, err)
		return
	}
	s.countExpired(ctx, out.expired)
	for _, r := range chances {
		granted, ok := out.taken[r.Key]
		if !ok {
			s.refuse(r, out.holders[r.Key])
			continue
		}
		if granted.Acquired {
			s.log.InfoContext(r.ctx, "claim-acquired", //nolint:contextcheck // the line belongs to the request, not to the group
				"key", r.Key, "type", r.Type.String(),
				"owner", r.Owner, "holder", r.Holder, "token", granted.Held.Token)
		}
		r.answer <- answer{granted: granted}
	}
}

func (s *Store) refuse(r *request, held lease.Held) {
	s.metrics.collisions.WithLabelValues(r.Type.String()).Inc()
	r.answer <- answer{err: lease.CollisionWith(held)}
}

func refuseAll(group []*request, err error) {
	for _, r := range group {
		r.answer <- answer{err: err}
	}
}

package registry

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Reasons why a pool has no endpoint to offer.
var (
	// ErrNoEndpoints means that the pool is empty.
	ErrNoEndpoints = errors.New("no endpoints")
	// ErrNoMatch means that no endpoint of the pool satisfies Criteria.Match.
	ErrNoMatch = errors.New("no such instance")
	// ErrLimit means that every eligible endpoint is at its connection limit.
	ErrLimit = errors.New("connection limit reached")
	// ErrExhausted means that every eligible endpoint is in Criteria.Tried.
	ErrExhausted = errors.New("all endpoints tried")
)

// backend is what all routes to one instance's address share.
type backend struct {
	routes      map[string]struct{} // URIs that lead here; guarded by Registry.mu
	open        atomic.Int64        // requests in flight
	failedUntil atomic.Int64        // Unix nanoseconds until which it is passed over; 0 if it is not
}

func (b *backend) failed(now time.Time) bool {
	return b.failedUntil.Load() > now.UnixNano()
}

// acquire counts one more request unless that would exceed limit (0: none).
func (b *backend) acquire(limit int) bool {
	if n := b.open.Add(1); limit > 0 && n > int64(limit) {
		b.open.Add(-1)
		return false
	}
	return true
}

// member is an endpoint in one pool.
type member struct {
	Endpoint
	backend   *backend
	refreshed time.Time
}

// Pool holds the endpoints of one URI.
type Pool struct {
	name string
	cfg  Config

	mu         sync.Mutex
	members    []*member // in order of arrival
	next       int       // position of the round robin
	balancing  Algorithm // as the last registration asked; empty for the default
	emptySince time.Time // meaningful while members is empty
}

func newPool(name string, cfg Config) *Pool {
	return &Pool{name: name, cfg: cfg, next: -1}
}

// Name is the canonical URI of the pool.
func (p *Pool) Name() string { return p.name }

// Len is the number of endpoints.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}

// RouteServiceURL is the route service that must see requests of this pool first, empty if there is none.
func (p *Pool) RouteServiceURL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if m.RouteServiceURL != "" {
			return m.RouteServiceURL
		}
	}
	return ""
}

// Criteria narrows a choice. The zero value accepts every endpoint.
type Criteria struct {
	// Match restricts the choice to certain endpoints; nil accepts all.
	Match func(Endpoint) bool
	// Prefer names the instance (Endpoint.ID) to take if it is there and not marked failed.
	Prefer string
	// Tried holds the addresses that this request has tried already.
	Tried map[string]bool
	// Zone restricts the choice to endpoints of this zone if there are any; empty is no restriction.
	Zone string
}

// Lease is an endpoint chosen for one request. Release must be called once when the request is over.
type Lease struct {
	Endpoint
	backend *backend
	penalty time.Duration
}

// Release ends the request.
func (l *Lease) Release() { l.backend.open.Add(-1) }

// MarkFailed passes the endpoint over for a while, on all its routes.
func (l *Lease) MarkFailed(now time.Time) {
	l.backend.failedUntil.Store(now.Add(l.penalty).UnixNano())
}

// Pick chooses an endpoint. It returns ErrNoEndpoints, ErrNoMatch, ErrExhausted or ErrLimit if there is none.
func (p *Pool) Pick(c Criteria, now time.Time) (*Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.members) == 0 {
		return nil, ErrNoEndpoints
	}
	candidates, err := p.candidates(c)
	if err != nil {
		return nil, err
	}
	if l := p.preferred(candidates, c.Prefer, now); l != nil {
		return l, nil
	}
	for _, m := range p.ordered(healthy(candidates, now)) {
		if m.backend.acquire(p.cfg.MaxConnections) {
			return p.lease(m), nil
		}
	}
	return nil, ErrLimit
}

// candidates are the members that c admits. The caller holds mu.
func (p *Pool) candidates(c Criteria) ([]*member, error) {
	var matching, left, local []*member
	for _, m := range p.members {
		if c.Match != nil && !c.Match(m.Endpoint) {
			continue
		}
		matching = append(matching, m)
		if c.Tried[m.Address()] {
			continue
		}
		left = append(left, m)
		if c.Zone != "" && m.Zone == c.Zone {
			local = append(local, m)
		}
	}
	switch {
	case len(matching) == 0:
		return nil, ErrNoMatch
	case len(left) == 0:
		return nil, ErrExhausted
	case len(local) > 0:
		return local, nil
	default:
		return left, nil
	}
}

// preferred leases the instance called id if it is among the candidates and can be used.
func (p *Pool) preferred(candidates []*member, id string, now time.Time) *Lease {
	if id == "" {
		return nil
	}
	for _, m := range candidates {
		if m.ID() == id && !m.backend.failed(now) && m.backend.acquire(p.cfg.MaxConnections) {
			return p.lease(m)
		}
	}
	return nil
}

// healthy leaves out the members marked as failed. If all are, the marks are cleared and all stay: a route with
// only doubtful endpoints is better tried than refused.
func healthy(members []*member, now time.Time) []*member {
	var good []*member
	for _, m := range members {
		if !m.backend.failed(now) {
			good = append(good, m)
		}
	}
	if len(good) > 0 {
		return good
	}
	for _, m := range members {
		m.backend.failedUntil.Store(0)
	}
	return members
}

// ordered returns the members in the order in which they are to be tried. The caller holds mu.
func (p *Pool) ordered(members []*member) []*member {
	algorithm := p.balancing
	if algorithm == "" {
		algorithm = p.cfg.Balancing
	}
	if algorithm == LeastConnection {
		return p.byOpenRequests(members)
	}
	return p.inTurn(members)
}

// inTurn rotates members so that the first one at or after the pool's position leads, and moves the position on.
// The position counts places of the whole pool, so the turn is fair when some members are left out.
func (p *Pool) inTurn(members []*member) []*member {
	if p.next < 0 {
		p.next = p.cfg.Rand(len(p.members))
	}
	p.next %= len(p.members)
	chosen := make(map[*member]bool, len(members))
	for _, m := range members {
		chosen[m] = true
	}
	out := make([]*member, 0, len(members))
	next := p.next
	for i := range p.members {
		at := (p.next + i) % len(p.members)
		if !chosen[p.members[at]] {
			continue
		}
		if len(out) == 0 {
			next = at + 1
		}
		out = append(out, p.members[at])
	}
	p.next = next
	return out
}

func (p *Pool) byOpenRequests(members []*member) []*member {
	type counted struct {
		m    *member
		open int64
		tie  int
	}
	list := make([]counted, len(members))
	for i, m := range members {
		list[i] = counted{m, m.backend.open.Load(), p.cfg.Rand(1 << 30)}
	}
	slices.SortFunc(list, func(a, b counted) int {
		if a.open != b.open {
			return int(a.open - b.open)
		}
		return a.tie - b.tie
	})
	out := make([]*member, len(list))
	for i, c := range list {
		out[i] = c.m
	}
	return out
}

func (p *Pool) lease(m *member) *Lease {
	return &Lease{Endpoint: m.Endpoint, backend: m.backend, penalty: p.cfg.DialFailurePenalty}
}

// put stores e, over the member with the same address if there is one, which is returned if it was another
// instance.
func (p *Pool) put(e Endpoint, b *backend, now time.Time) (*member, Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.balancing = e.Balancing
	m := &member{Endpoint: e, backend: b, refreshed: now}
	i := p.position(e.Address())
	if i < 0 {
		p.members = append(p.members, m)
		return nil, Added
	}
	old := p.members[i]
	p.members[i] = m
	if old.InstanceID != e.InstanceID {
		return old, Replaced
	}
	return nil, Refreshed
}

// take removes the member with this address unless it is known to be another instance.
func (p *Pool) take(address, instanceID string, now time.Time) (*member, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.position(address)
	if i < 0 {
		return nil, false
	}
	m := p.members[i]
	if instanceID != "" && m.InstanceID != "" && instanceID != m.InstanceID {
		return nil, false
	}
	p.removeAt(i, now)
	return m, true
}

// takeStale removes the plain members older than their threshold.
func (p *Pool) takeStale(now time.Time) []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var stale []*member
	for i, m := range slices.Backward(p.members) {
		if m.TLS || now.Sub(m.refreshed) <= m.StaleAfter {
			continue
		}
		p.removeAt(i, now)
		stale = append(stale, m)
	}
	return stale
}

func (p *Pool) removeAt(i int, now time.Time) {
	p.members = slices.Delete(p.members, i, i+1)
	if i < p.next {
		p.next-- // the turn stays with the same member
	}
	if len(p.members) == 0 {
		p.emptySince = now
	}
}

// position returns the place of an address, or -1. The caller holds mu.
func (p *Pool) position(address string) int {
	return slices.IndexFunc(p.members, func(m *member) bool { return m.Address() == address })
}

func (p *Pool) freshen(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		m.refreshed = now
	}
}

func (p *Pool) expired(now time.Time, retention time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members) == 0 && now.Sub(p.emptySince) >= retention
}

func (p *Pool) endpoints() []Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Endpoint, len(p.members))
	for i, m := range p.members {
		out[i] = m.Endpoint
	}
	return out
}

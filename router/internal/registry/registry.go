package registry

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// ErrBadURI is returned for a URI without a host.
var ErrBadURI = errors.New("uri has no host")

// Config holds the rules of a Registry. Zero values mean the default named with each field.
type Config struct {
	// StaleThreshold is the longest a plain endpoint lives without being registered again; 120 s.
	StaleThreshold time.Duration
	// DialFailurePenalty is how long a plain endpoint is passed over after a failed connect; a quarter of
	// StaleThreshold.
	DialFailurePenalty time.Duration
	// MaxConnections limits the open requests of one backend over all its routes; 0 is no limit.
	MaxConnections int
	// Balancing is the algorithm of routes that name none; RoundRobin.
	Balancing Algorithm
	// EmptyPoolRetention keeps a route known after its last endpoint left; 0 forgets it at once.
	EmptyPoolRetention time.Duration
	// Rand returns a number in [0,n); the default is math/rand/v2. It must be safe for concurrent use.
	Rand func(n int) int
}

func (c Config) withDefaults() Config {
	if c.StaleThreshold <= 0 {
		c.StaleThreshold = 120 * time.Second
	}
	if c.DialFailurePenalty <= 0 {
		c.DialFailurePenalty = c.StaleThreshold / 4
	}
	if c.Balancing == "" {
		c.Balancing = RoundRobin
	}
	if c.Rand == nil {
		c.Rand = rand.IntN
	}
	return c
}

// Registry maps URIs to pools of endpoints.
type Registry struct {
	cfg Config

	mu         sync.RWMutex
	hosts      map[string]*node
	pools      map[string]*Pool        // by canonical URI: the same pools as in hosts, empty ones included
	backends   map[backendKey]*backend // what is known of an address, whatever the routes to it
	lastUpdate time.Time
	suspended  bool
}

// backendKey tells a backend by address and instance: a reused address is a new backend without the old one's
// failures and open requests.
type backendKey struct {
	address    string
	instanceID string
}

// New returns an empty registry.
func New(cfg Config) *Registry {
	return &Registry{
		cfg:      cfg.withDefaults(),
		hosts:    map[string]*node{},
		pools:    map[string]*Pool{},
		backends: map[backendKey]*backend{},
	}
}

// Outcome says what a registration did.
type Outcome int

const (
	// Refreshed means that the endpoint was known; its record was overwritten and its age is zero again.
	Refreshed Outcome = iota
	// Added means that the address was not known under this URI.
	Added
	// Replaced means that the address was known for another instance, which has left.
	Replaced
)

// Register adds e under uri or refreshes it. A known address gets the new record whatever instance it had before,
// because an address has one owner at a time and the latest registration names it. It returns ErrBadURI for a
// URI without host.
func (r *Registry) Register(uri string, e Endpoint, now time.Time) (Outcome, error) {
	rt, ok := parseRoute(uri)
	if !ok {
		return Refreshed, ErrBadURI
	}
	if e.StaleAfter <= 0 || e.StaleAfter > r.cfg.StaleThreshold {
		e.StaleAfter = r.cfg.StaleThreshold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastUpdate = now
	name := rt.String()
	pool := r.poolFor(rt, name)
	key := backendKey{e.Address(), e.InstanceID}
	b := r.backends[key]
	if b == nil {
		b = &backend{routes: map[string]struct{}{}}
		r.backends[key] = b
	}
	b.routes[name] = struct{}{}
	old, outcome := pool.put(e, b, now)
	if outcome == Replaced {
		r.forget(old, name)
	}
	return outcome, nil
}

// Unregister removes the endpoint with e's address from uri, and reports whether there was one. If both sides
// name an instance and the names differ nothing is removed: a late or repeated message about a former owner of
// the address must not take the route from the new one.
func (r *Registry) Unregister(uri string, e Endpoint, now time.Time) bool {
	rt, ok := parseRoute(uri)
	if !ok {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pool := r.pools[rt.String()]
	if pool == nil {
		return false
	}
	removed, ok := pool.take(e.Address(), e.InstanceID, now)
	if !ok {
		return false
	}
	r.lastUpdate = now
	r.forget(removed, rt.String())
	r.dropIfEmpty(rt, now)
	return true
}

// Evict removes an endpoint from every route that leads to it and returns their number. It is for endpoints
// whose address is proven to belong to somebody else.
func (r *Registry) Evict(e Endpoint, now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.backends[backendKey{e.Address(), e.InstanceID}]
	if b == nil {
		return 0
	}
	names := slices.Collect(maps.Keys(b.routes))
	for _, name := range names {
		if removed, ok := r.pools[name].take(e.Address(), e.InstanceID, now); ok {
			r.forget(removed, name)
		}
		rt, _ := parseRoute(name)
		r.dropIfEmpty(rt, now)
	}
	return len(names)
}

// Lookup returns the pool that answers a request for host (a port in it is ignored) and path: the longest path
// prefix that has endpoints, then the same under "*" in place of the first label, and so on. It returns nil if
// the route is unknown.
func (r *Registry) Lookup(host, path string) *Pool {
	rt, ok := newRoute(host, path)
	if !ok {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	var empty *Pool
	for host, ok := rt.host, true; ok; host, ok = nextWildcard(host) {
		n := r.hosts[host]
		if n == nil {
			continue
		}
		pool := n.match(rt.segments)
		if pool == nil {
			continue
		}
		if pool.Len() > 0 {
			return pool
		}
		if empty == nil {
			empty = pool
		}
	}
	return empty
}

// Prune drops the plain endpoints that were not refreshed within their threshold and the empty pools whose
// retention ended. It returns the number of endpoints dropped; while pruning is suspended it drops none.
func (r *Registry) Prune(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.suspended {
		return 0
	}
	pruned := 0
	for name, pool := range r.pools {
		for _, stale := range pool.takeStale(now) {
			r.forget(stale, name)
			pruned++
		}
		rt, _ := parseRoute(name)
		r.dropIfEmpty(rt, now)
	}
	return pruned
}

// Suspend stops pruning: without a link to the senders, silence says nothing about an endpoint.
func (r *Registry) Suspend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspended = true
}

// Resume starts pruning again and gives every endpoint a full threshold from now, in which its sender can refresh
// it. Without a preceding Suspend it does nothing.
func (r *Registry) Resume(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.suspended {
		return
	}
	r.suspended = false
	for _, pool := range r.pools {
		pool.freshen(now)
	}
}

// Routes is the number of URIs that have endpoints.
func (r *Registry) Routes() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	for _, p := range r.pools {
		if p.Len() > 0 {
			n++
		}
	}
	return n
}

// LastUpdate is the time of the last accepted registration or removal; zero if there was none.
func (r *Registry) LastUpdate() time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.lastUpdate
}

// Snapshot returns all endpoints by URI. The map belongs to the caller.
func (r *Registry) Snapshot() map[string][]Endpoint {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[string][]Endpoint, len(r.pools))
	for name, p := range r.pools {
		all[name] = p.endpoints()
	}
	return all
}

// poolFor finds or makes the pool of a route. The caller holds mu.
func (r *Registry) poolFor(rt route, name string) *Pool {
	if pool := r.pools[name]; pool != nil {
		return pool
	}
	root := r.hosts[rt.host]
	if root == nil {
		root = &node{}
		r.hosts[rt.host] = root
	}
	pool := root.insert(rt.segments, func() *Pool { return newPool(name, r.cfg) })
	r.pools[name] = pool
	return pool
}

// forget notes that a member left the pool called name. The caller holds mu.
func (r *Registry) forget(m *member, name string) {
	delete(m.backend.routes, name)
	if len(m.backend.routes) == 0 {
		delete(r.backends, backendKey{m.Address(), m.InstanceID})
	}
}

// dropIfEmpty deletes the pool of rt if it has been empty for long enough. The caller holds mu.
func (r *Registry) dropIfEmpty(rt route, now time.Time) {
	pool := r.pools[rt.String()]
	if pool == nil || !pool.expired(now, r.cfg.EmptyPoolRetention) {
		return
	}
	delete(r.pools, rt.String())
	if root := r.hosts[rt.host]; root != nil && root.remove(rt.segments) {
		delete(r.hosts, rt.host)
	}
}

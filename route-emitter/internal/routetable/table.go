package routetable

import (
	"cmp"
	"maps"
	"slices"
)

// Config holds the rules that an installation chooses.
type Config struct {
	// DirectInstanceRoutes sends traffic to containers, not to their cells, where an instance has no preference.
	DirectInstanceRoutes bool
	// InternalRoutes also makes messages for service discovery.
	InternalRoutes bool
}

// Table holds the routes of processes and the endpoints of their instances. At any time what is registered is: for
// each instance with an index below the desired count, each route of its process, unless another, newer instance has
// the same address.
type Table struct {
	cfg       Config
	processes map[string]*process
	claims    map[claim]map[ref]bool // which instances say that an address is theirs
	size      int                    // number of messages in all instances
	internal  int                    // how many of them are on the internal plane
}

// process is one entry; it exists while it has routes or instances.
type process struct {
	desired   Desired
	known     bool // routes were set and not removed since
	instances map[string]*instance
}

// instance is one container life. Its ordinary and its evacuating record count as one endpoint.
type instance struct {
	records map[bool]Endpoint // by Evacuating
	emitted map[Key]Message
}

// ref names an instance.
type ref struct{ process, instance string }

type claim struct {
	plane   Plane
	address string
}

// Collision says that two instances have the same address: a cell gave it away before the record of the former owner
// vanished. Only the newer one is registered.
type Collision struct {
	Address                     string
	WinnerProcess, LoserProcess string
	Winner, Loser               string // instance guids
}

// Changes is what a change of the table means for listeners. Register, Unregister and Withdraw have no key in common, so
// their order does not matter.
type Changes struct {
	Register   []Message
	Unregister []Message
	// Withdraw are unregistrations of instances that were evacuated: they serve on for a moment, and their replacements are
	// registered by another emitter at this very time. Sent too early they would leave a route with no endpoint at all.
	Withdraw   []Message
	Collisions []Collision
}

// Empty tells whether there is nothing to send.
func (c Changes) Empty() bool {
	return len(c.Register) == 0 && len(c.Unregister) == 0 && len(c.Withdraw) == 0
}

// New returns an empty table.
func New(cfg Config) *Table {
	return &Table{cfg: cfg, processes: map[string]*process{}, claims: map[claim]map[ref]bool{}}
}

// SetRoutes stores the routes of a process if their tag is newer than the stored one. Instances with an index that is
// no longer desired lose their routes at once; they are kept, so that scaling up again needs no other event.
func (t *Table) SetRoutes(d Desired) Changes {
	p := t.processes[d.ProcessGUID]
	if p != nil && !d.Tag.Newer(p.desired.Tag) {
		return Changes{}
	}
	u := newUpdate(t)
	if p == nil {
		p = &process{instances: map[string]*instance{}}
		t.processes[d.ProcessGUID] = p
	}
	p.desired, p.known = d, true
	u.touchProcess(d.ProcessGUID)
	return u.finish()
}

// RemoveRoutes forgets the routes of a process unless the stored ones are newer than tag.
func (t *Table) RemoveRoutes(processGUID string, tag ModificationTag) Changes {
	p := t.processes[processGUID]
	if p == nil || tag.stale(p.desired.Tag) {
		return Changes{}
	}
	u := newUpdate(t)
	p.desired, p.known = Desired{ProcessGUID: processGUID, Tag: tag}, false
	u.touchProcess(processGUID)
	return u.finish()
}

// AddEndpoint stores an endpoint if its tag is newer than that of the same record. Its first registrations carry the
// time since which it is there.
func (t *Table) AddEndpoint(e Endpoint) Changes {
	u := newUpdate(t)
	u.add(e)
	return u.finish()
}

// RemoveEndpoint forgets the record of an endpoint unless the stored one is newer. The instance keeps its routes if its
// other record, ordinary or evacuating, remains.
func (t *Table) RemoveEndpoint(e Endpoint) Changes {
	u := newUpdate(t)
	u.remove(e)
	return u.finish()
}

// ReplaceEndpoint adds one record and removes another in one step, so that an instance that changes from ordinary to
// evacuating causes no message.
func (t *Table) ReplaceEndpoint(add, remove Endpoint) Changes {
	u := newUpdate(t)
	u.add(add)
	u.remove(remove)
	return u.finish()
}

// Swap replaces the content by that of next, which must not be used any more, and returns the difference. Routes that
// next lacks are kept if their domain is not fresh: then the desired state may be incomplete, and its gaps must not
// take traffic from instances that run. Endpoints are always those of next.
func (t *Table) Swap(next *Table, fresh func(domain string) bool) Changes {
	before := t.all()
	for guid, old := range t.processes {
		if !old.known || fresh(old.desired.Domain) {
			continue
		}
		if p := next.processes[guid]; p == nil || !p.known {
			next.adopt(guid, old.desired)
		}
	}
	t.processes, t.claims, t.size, t.internal = next.processes, next.claims, next.size, next.internal
	return diff(before, t.all())
}

func (t *Table) adopt(guid string, d Desired) {
	u := newUpdate(t)
	p := t.processes[guid]
	if p == nil {
		p = &process{instances: map[string]*instance{}}
		t.processes[guid] = p
	}
	p.desired, p.known = d, true
	u.touchProcess(guid)
	u.finish()
}

// Knows tells whether the routes of a process are in the table.
func (t *Table) Knows(processGUID string) bool {
	p := t.processes[processGUID]
	return p != nil && p.known
}

// Messages returns everything that is registered, ordered by key so that emissions are alike.
func (t *Table) Messages() []Message {
	out := make([]Message, 0, t.size)
	for _, p := range t.processes {
		for _, i := range p.instances {
			for _, m := range i.emitted {
				out = append(out, m)
			}
		}
	}
	sortMessages(out)
	return out
}

// Size counts what is registered, by plane.
func (t *Table) Size() (http, internal int) {
	return t.size - t.internal, t.internal
}

func (t *Table) all() map[Key]Message {
	out := make(map[Key]Message, t.size)
	for _, p := range t.processes {
		for _, i := range p.instances {
			maps.Copy(out, i.emitted)
		}
	}
	return out
}

// diff compares what was registered with what shall be.
func diff(before, after map[Key]Message) Changes {
	var c Changes
	for k, m := range after {
		if old, ok := before[k]; !ok || old != m {
			c.Register = append(c.Register, m)
		}
	}
	for k, m := range before {
		if _, ok := after[k]; !ok {
			c.Unregister = append(c.Unregister, m)
		}
	}
	sortMessages(c.Register)
	sortMessages(c.Unregister)
	return c
}

func sortMessages(ms []Message) {
	slices.SortFunc(ms, func(a, b Message) int {
		return cmp.Or(cmp.Compare(a.Key.Plane, b.Key.Plane), cmp.Compare(a.Key.URI, b.Key.URI), cmp.Compare(a.Key.Address, b.Key.Address))
	})
}

// HasInstances tells whether the table holds an instance of the process.
func (t *Table) HasInstances(processGUID string) bool {
	p := t.processes[processGUID]
	return p != nil && len(p.instances) > 0
}

package routetable

// update is one change of a table: it collects the instances whose registrations may be affected, and finds out at the
// end what became of them.
type update struct {
	t          *Table
	touched    map[ref]map[Key]Message // what each had registered before
	processes  map[string]bool         // to be deleted if they are empty at the end
	fresh      map[ref]int64           // instances not seen before: since when they are there, in Unix nanoseconds
	evacuated  map[string]bool         // guids of instances whose last record was an evacuating one
	collisions []Collision
}

func newUpdate(t *Table) *update {
	return &update{t: t, touched: map[ref]map[Key]Message{}, processes: map[string]bool{}, fresh: map[ref]int64{}, evacuated: map[string]bool{}}
}

// touch notes what an instance has registered, before anything changes.
func (u *update) touch(r ref) {
	u.processes[r.process] = true
	if _, ok := u.touched[r]; ok {
		return
	}
	var before map[Key]Message
	if i := u.t.instance(r); i != nil {
		before = i.emitted
	}
	u.touched[r] = before
}

func (u *update) touchProcess(guid string) {
	u.processes[guid] = true
	if p := u.t.processes[guid]; p != nil {
		for id := range p.instances {
			u.touch(ref{guid, id})
		}
	}
}

func (u *update) add(e Endpoint) {
	r := ref{e.ProcessGUID, e.InstanceGUID}
	p := u.t.processes[e.ProcessGUID]
	if p == nil {
		p = &process{instances: map[string]*instance{}}
		u.t.processes[e.ProcessGUID] = p
	}
	i := p.instances[e.InstanceGUID]
	if i != nil {
		if old, ok := i.records[e.Evacuating]; ok && !e.Tag.Newer(old.Tag) {
			return
		}
	}
	u.touch(r)
	if i == nil {
		i = &instance{records: map[bool]Endpoint{}}
		p.instances[e.InstanceGUID] = i
		u.fresh[r] = e.Since.UnixNano()
	}
	u.unclaim(r)
	i.records[e.Evacuating] = e
	u.claim(r)
}

func (u *update) remove(e Endpoint) {
	r := ref{e.ProcessGUID, e.InstanceGUID}
	i := u.t.instance(r)
	if i == nil {
		return
	}
	old, ok := i.records[e.Evacuating]
	if !ok || e.Tag.stale(old.Tag) {
		return
	}
	u.touch(r)
	u.unclaim(r)
	delete(i.records, e.Evacuating)
	if len(i.records) == 0 {
		delete(u.t.processes[r.process].instances, r.instance)
		if old.Evacuating {
			u.evacuated[r.instance] = true
		}
		return
	}
	u.claim(r)
}

// claim enters the addresses of an instance and reports other instances that have them too.
func (u *update) claim(r ref) {
	e := u.t.instance(r).endpoint()
	for _, c := range u.t.addresses(e) {
		others := u.t.claims[c]
		if others == nil {
			others = map[ref]bool{}
			u.t.claims[c] = others
		}
		for other := range others {
			u.touch(other)
			if c.plane == PlaneHTTP {
				u.collide(c, r, other)
			}
		}
		others[r] = true
	}
}

func (u *update) unclaim(r ref) {
	i := u.t.instance(r)
	if len(i.records) == 0 {
		return
	}
	for _, c := range u.t.addresses(i.endpoint()) {
		delete(u.t.claims[c], r)
		for other := range u.t.claims[c] {
			u.touch(other) // it may get the address back
		}
		if len(u.t.claims[c]) == 0 {
			delete(u.t.claims, c)
		}
	}
}

func (u *update) collide(c claim, a, b ref) {
	if u.t.owner(a, b) != a {
		a, b = b, a
	}
	u.collisions = append(u.collisions, Collision{
		Address: c.address, WinnerProcess: a.process, Winner: a.instance, LoserProcess: b.process, Loser: b.instance,
	})
}

// finish computes the registrations of all touched instances anew and returns the difference.
func (u *update) finish() Changes {
	before, after := map[Key]Message{}, map[Key]Message{}
	for r, had := range u.touched {
		for k, m := range had {
			before[k] = m
			u.t.count(k, -1)
		}
		i := u.t.instance(r)
		if i == nil {
			continue
		}
		i.emitted = u.t.registrations(r, i)
		for k, m := range i.emitted {
			after[k] = m
			u.t.count(k, 1)
		}
	}
	for guid := range u.processes {
		if p := u.t.processes[guid]; p != nil && !p.known && len(p.instances) == 0 {
			delete(u.t.processes, guid)
		}
	}
	c := diff(before, after)
	for i, m := range c.Register {
		c.Register[i].UpdatedAtNs = max(0, u.fresh[ref{m.ProcessGUID, m.InstanceGUID}])
	}
	c.Unregister, c.Withdraw = u.split(c.Unregister)
	c.Collisions = u.collisions
	return c
}

// split parts the unregistrations of evacuated instances from the others.
func (u *update) split(all []Message) (unregister, withdraw []Message) {
	for _, m := range all {
		if u.evacuated[m.InstanceGUID] {
			withdraw = append(withdraw, m)
		} else {
			unregister = append(unregister, m)
		}
	}
	return unregister, withdraw
}

func (t *Table) instance(r ref) *instance {
	p := t.processes[r.process]
	if p == nil {
		return nil
	}
	return p.instances[r.instance]
}

// endpoint is the record that speaks for the instance.
func (i *instance) endpoint() Endpoint {
	if e, ok := i.records[false]; ok {
		return e
	}
	return i.records[true]
}

// registrations are the messages of an instance as the table is now.
func (t *Table) registrations(r ref, i *instance) map[Key]Message {
	p := t.processes[r.process]
	e := i.endpoint()
	if !p.known || e.Index >= p.desired.Instances {
		return nil
	}
	return t.messages(p.desired, e, func(plane Plane, address string) bool {
		for other := range t.claims[claim{plane, address}] {
			if other != r && t.owner(r, other) != r {
				return false
			}
		}
		return true
	})
}

// owner decides which of two instances has an address: the one that came later, because a cell gives an address out
// again only after its former owner is gone.
func (t *Table) owner(a, b ref) ref {
	ea, eb := t.instance(a).endpoint(), t.instance(b).endpoint()
	switch {
	case ea.Since.After(eb.Since):
		return a
	case eb.Since.After(ea.Since):
		return b
	case a.instance > b.instance: // any order will do, as long as it is one
		return a
	default:
		return b
	}
}

// addresses are all that an instance occupies, whether or not a route leads there.
func (t *Table) addresses(e Endpoint) []claim {
	var out []claim
	for _, p := range e.Ports {
		if where, ok := e.target(p, t.cfg.DirectInstanceRoutes); ok {
			out = append(out, claim{PlaneHTTP, where.address()})
		}
	}
	if t.cfg.InternalRoutes && e.ContainerAddress != "" {
		out = append(out, claim{PlaneInternal, e.ContainerAddress})
	}
	return out
}

func (t *Table) count(k Key, n int) {
	t.size += n
	if k.Plane == PlaneInternal {
		t.internal += n
	}
}

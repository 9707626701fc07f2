package auction

// sparseLimit is the number of cells up to which the instances of a process are kept
// as a list. A search may visit that many cells in vain; beyond, a tree of its own
// over all nodes pays off.
const sparseLimit = 24

// process is where the live instances of one process are.
type process struct {
	zones  []int32 // instances by zone, over all cells that count
	leaves []leafCount
	// tree has for each node of Auction.nodes the smallest number of instances on
	// any leaf below; nil while there are few.
	tree []int32
}

type leafCount struct {
	leaf  int32
	count int32
}

// on returns the number of instances on a leaf.
func (p *process) on(leaf int) int32 {
	if p.tree != nil {
		return p.tree[leaf]
	}
	for i := range p.leaves {
		if int(p.leaves[i].leaf) == leaf {
			return p.leaves[i].count
		}
	}
	return 0
}

// lowerBound returns a number that no leaf at or below a node falls short of.
func (p *process) lowerBound(at int) int32 {
	if p.tree == nil {
		return 0
	}
	return p.tree[at]
}

// add counts n more instances on a cell.
func (p *process) add(a *Auction, c *cell, n int32) {
	p.zones[c.zone] += n
	if c.pool == nil {
		return
	}
	if p.tree != nil {
		p.tree[c.leaf] += n
		p.lift(c.pool, c.leaf)
		return
	}
	for i := range p.leaves {
		if int(p.leaves[i].leaf) == c.leaf {
			p.leaves[i].count += n
			return
		}
	}
	p.leaves = append(p.leaves, leafCount{leaf: int32(c.leaf), count: n}) //nolint:gosec // a leaf is below four times the number of cells
	if len(p.leaves) > sparseLimit {
		p.grow(a)
	}
}

// grow turns the list into a tree.
func (p *process) grow(a *Auction) {
	p.tree = make([]int32, len(a.nodes))
	for _, l := range p.leaves {
		p.tree[l.leaf] = l.count
	}
	for i := range a.pools {
		pl := &a.pools[i]
		// Padding leaves must not hold the minimum down; they fit nothing, and a
		// large count keeps searches away from them.
		for leaf := len(pl.members); leaf < pl.leaves; leaf++ {
			p.tree[pl.base+pl.leaves+leaf] = 1 << 30
		}
		for n := pl.leaves - 1; n >= 1; n-- {
			p.tree[pl.base+n] = min(p.tree[pl.base+2*n], p.tree[pl.base+2*n+1])
		}
	}
	p.leaves = nil
}

// lift renews the minimums above a leaf.
func (p *process) lift(pl *pool, leaf int) {
	for i := (leaf - pl.base) / 2; i >= 1; i /= 2 {
		smallest := min(p.tree[pl.base+2*i], p.tree[pl.base+2*i+1])
		if p.tree[pl.base+i] == smallest {
			return
		}
		p.tree[pl.base+i] = smallest
	}
}

// countInstances finds the instances that the processes of the items have on the
// cells already. Processes known from an earlier call are up to date.
func (a *Auction) countInstances(items []Item) {
	fresh := map[string]*process{}
	for i := range items {
		guid := items[i].GUID
		if items[i].Kind != LRP || a.processes[guid] != nil {
			continue
		}
		p := &process{zones: make([]int32, len(a.zones))}
		a.processes[guid], fresh[guid] = p, p
	}
	for i := range a.cells {
		a.countOn(&a.cells[i], fresh)
	}
}

// countOn goes through the shorter of the two lists: a batch of one looks up one
// process on each cell, a batch of thousands goes through what the cell has.
func (a *Auction) countOn(c *cell, fresh map[string]*process) {
	if c.Condition == Evacuating {
		return
	}
	if len(fresh) < len(c.Instances) {
		for guid, p := range fresh {
			if n := c.Instances[guid]; n > 0 {
				p.add(a, c, int32(n)) //nolint:gosec // instances of one process on one cell
			}
		}
		return
	}
	for guid, n := range c.Instances {
		if p := fresh[guid]; p != nil && n > 0 {
			p.add(a, c, int32(n)) //nolint:gosec // instances of one process on one cell
		}
	}
}

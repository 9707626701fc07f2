package auction

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Texts of refusals that do not depend on the item. The prefixes "insufficient
// resources" and "found no compatible cell" are parsed by clients.
const (
	TextCommunication   = "unable to communicate to compatible cells"
	TextInFlightLimit   = "waiting to start instance: reached in-flight start limit"
	TextInsufficient    = "insufficient resources"
	TextNoRootFS        = "found no compatible cell for required rootfs"
	TextNoVolumeDrivers = "found no compatible cell with required volume drivers"
	TextCellMismatch    = "cell mismatch"
)

// stage is how far a cell gets through the hard constraints; they are checked in
// this order.
type stage uint8

const (
	stageNone          stage = iota // fails at the root filesystem
	stageRootFS                     // fails at the volume drivers
	stageVolumeDrivers              // fails at the tags
	stageAll
)

// constraint is the distinct set of hard constraints of some requests, matched once
// against each profile rather than once per item.
type constraint struct {
	stages     []stage // by number of profile
	pools      [][]int // numbers of the compatible pools, by zone
	compatible bool
	furthest   stage // over all open cells, so independent of the order of zones
}

// constraintKey is equal for requests that the same cells satisfy.
type constraintKey struct {
	rootFS string
	// rest has the lists as sets, order and duplicates do not matter; empty for the
	// great majority, so that no text is built for it.
	rest string
}

func keyOf(r *Request) constraintKey {
	key := constraintKey{rootFS: r.RootFS}
	if len(r.VolumeDrivers) == 0 && len(r.PlacementTags) == 0 && !r.Constrained {
		return key
	}
	var b strings.Builder
	writeSet(&b, r.VolumeDrivers)
	if r.Constrained {
		b.WriteString("=")
		writeSet(&b, folded(r.Require))
	} else {
		writeSet(&b, r.PlacementTags)
	}
	key.rest = b.String()
	return key
}

func writeSet(b *strings.Builder, names []string) {
	b.WriteByte('[')
	for _, n := range set(names) {
		b.WriteString(strconv.Quote(n))
	}
	b.WriteByte(']')
}

// set returns the distinct names in order.
func set(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	s := slices.Clone(names)
	slices.Sort(s)
	return slices.Compact(s)
}

func folded(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToLower(n)
	}
	return out
}

// profileKey is equal for profiles that satisfy the same constraints.
func profileKey(p *Profile) string {
	var b strings.Builder
	writeSet(&b, p.ArbitraryRootFS)
	schemes := make([]string, 0, len(p.FixedRootFS))
	for s := range p.FixedRootFS {
		schemes = append(schemes, s)
	}
	slices.Sort(schemes)
	for _, s := range schemes {
		b.WriteString(strconv.Quote(s))
		writeSet(&b, p.FixedRootFS[s])
	}
	writeSet(&b, p.VolumeDrivers)
	writeSet(&b, p.RequiredTags)
	writeSet(&b, p.OptionalTags)
	return b.String()
}

// match returns how far a cell with the profile gets.
func match(r *Request, p *Profile) stage {
	switch {
	case !matchesRootFS(r.RootFS, p):
		return stageNone
	case !subset(r.VolumeDrivers, p.VolumeDrivers):
		return stageRootFS
	case !matchesTags(r, p):
		return stageVolumeDrivers
	default:
		return stageAll
	}
}

// matchesRootFS checks the URL's scheme, and for a fixed set its opaque part.
func matchesRootFS(rootFS string, p *Profile) bool {
	scheme, opaque, ok := splitRootFS(rootFS)
	if !ok {
		return false
	}
	if slices.Contains(p.ArbitraryRootFS, scheme) {
		return true
	}
	return opaque != "" && slices.Contains(p.FixedRootFS[scheme], opaque)
}

// matchesTags is one rule for both forms: the cell has every tag that is asked for,
// and each required tag of the cell is asked for.
func matchesTags(r *Request, p *Profile) bool {
	asked, required, optional := r.PlacementTags, p.RequiredTags, p.OptionalTags
	if r.Constrained {
		asked, required, optional = folded(r.Require), folded(required), folded(optional)
	}
	for _, t := range asked {
		if !slices.Contains(required, t) && !slices.Contains(optional, t) {
			return false
		}
	}
	return subset(required, asked)
}

func subset(names, of []string) bool {
	for _, n := range names {
		if !slices.Contains(of, n) {
			return false
		}
	}
	return true
}

// mismatchText is the placement error when no open cell satisfies the constraints of
// the request and the best gets as far as furthest.
func mismatchText(r *Request, furthest stage) string {
	switch furthest {
	case stageNone:
		return TextNoRootFS
	case stageRootFS:
		return TextNoVolumeDrivers
	case stageVolumeDrivers, stageAll:
	}
	if r.Constrained {
		return TextCellMismatch
	}
	quoted := set(r.PlacementTags)
	for i := range quoted {
		quoted[i] = `"` + quoted[i] + `"`
	}
	switch n := len(quoted); n {
	case 0:
		return "found no compatible cell with no placement tags"
	case 1:
		return "found no compatible cell with placement tag " + quoted[0]
	default:
		return fmt.Sprintf("found no compatible cell with placement tags %s and %s", strings.Join(quoted[:n-1], ", "), quoted[n-1])
	}
}

// classKey groups items that every cell takes or refuses alike.
type classKey struct {
	kind         Kind
	proxy        bool
	memory, disk int64
	constraint   *constraint
}

// class is what equal items share: their demand, and the answer to the last of them
// that was refused.
type class struct {
	key          classKey
	constraint   *constraint
	memory, disk float64

	refused  *Refusal
	placedAt int // Auction.placed when refused was made
}

// classPair is the class of a request as an instance and as a task.
type classPair [2]*class

// classOf finds the class of an item. Requests are shared by many items, so that the
// pointer almost always settles it.
func (a *Auction) classOf(item *Item) *class {
	pair, ok := a.requests[item.Request]
	if !ok {
		pair = &classPair{}
		a.requests[item.Request] = pair
	}
	slot := &pair[0]
	if item.Kind == Task {
		slot = &pair[1]
	}
	if *slot == nil {
		*slot = a.internClass(item)
	}
	return *slot
}

func (a *Auction) internClass(item *Item) *class {
	r := item.Request
	key := classKey{
		kind: item.Kind, proxy: chargesProxy(r),
		memory: r.MemoryMB, disk: r.DiskMB, constraint: a.internConstraint(r),
	}
	cl, ok := a.classes[key]
	if !ok {
		cl = &class{key: key, constraint: key.constraint, memory: float64(r.MemoryMB), disk: float64(r.DiskMB)}
		a.classes[key] = cl
	}
	return cl
}

func (a *Auction) internConstraint(r *Request) *constraint {
	key := keyOf(r)
	if c, ok := a.constraints[key]; ok {
		return c
	}
	c := &constraint{stages: make([]stage, a.profiles), pools: make([][]int, len(a.zones))}
	for p := range a.pools {
		pool := &a.pools[p]
		reached := match(r, pool.profile)
		c.stages[pool.profileNumber] = reached
		c.furthest = max(c.furthest, reached)
		if reached == stageAll {
			c.compatible = true
			c.pools[pool.zone] = append(c.pools[pool.zone], p)
		}
	}
	a.constraints[key] = c
	return c
}

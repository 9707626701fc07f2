package effect

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"diego.internal/bbs/internal/converge"
)

// attention knows which LRPs the next look of convergence has to look at. All others are settled: the look before found that
// nothing is to be done about them until their records change or a cell that holds them is no longer present, at whatever time
// (see converge.View), and neither has happened. docs/decisions/0010-look-at-what-is-unsettled.md tells why nothing is missed.
//
// It is safe for concurrent use.
type attention struct {
	mu sync.Mutex
	// guids are those LRPs, unless everything is to be looked at.
	guids      map[string]struct{}
	everything bool
	// state is the committed one in which all changes are among guids, and no other is: the hook of the commit sets both.
	state Snapshot
	// limit is for how many LRPs to look at each of them is worth it. It also bounds what is kept under load.
	limit int
}

// leastLimit is the limit of a small state, of which everything is looked at in no time.
const leastLimit = 1024

func newAttention() *attention {
	return &attention{guids: map[string]struct{}{}, everything: true, limit: leastLimit}
}

// begin gives the first state, unless a commit has.
func (a *attention) begin(state Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		a.state = state
	}
}

// committed notes what a commit touched. state is the one that it led to.
func (a *attention) committed(state Snapshot, c *Changes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = state
	for _, row := range c.Actuals {
		a.add(row.ProcessGUID)
	}
	for _, key := range c.Gone {
		a.add(key.ProcessGUID)
	}
	for _, d := range c.Desireds {
		a.add(d.ProcessGUID)
	}
	for _, guid := range c.DesiredsGone {
		a.add(guid)
	}
}

// cell notes the LRPs of which a cell holds an instance.
func (a *attention) cell(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for row := range a.state.RecordsOnCell(id) {
		a.add(row.ProcessGUID)
	}
}

// all has the next look look at everything.
func (a *attention) all() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.overflow()
}

func (a *attention) overflow() { a.guids, a.everything = map[string]struct{}{}, true }

// add is called with the lock held.
func (a *attention) add(guid string) {
	if a.everything {
		return
	}
	if _, ok := a.guids[guid]; ok {
		return
	}
	if len(a.guids) >= a.limit {
		a.overflow()
		return
	}
	a.guids[strings.Clone(guid)] = struct{}{} // the text is part of a record, which may be long gone by the next look
}

// take returns what to look at, in order, or that it is everything, and the state to look at. From then on changes are noted for
// the look after this one, which keep completes.
func (a *attention) take() (state Snapshot, guids []string, everything bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tally, known := a.state.Tally()
	a.limit = max(leastLimit, tally.LRPs/8)
	guids, everything = slices.Sorted(maps.Keys(a.guids)), a.everything || !known
	a.guids, a.everything = map[string]struct{}{}, false
	return a.state, guids, everything
}

// keep adds what a look found unsettled.
func (a *attention) keep(plan *converge.Plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if plan.TooMany {
		a.overflow()
		return
	}
	for _, guid := range plan.Unsettled {
		a.add(guid)
	}
}

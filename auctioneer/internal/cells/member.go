package cells

import (
	"errors"
	"maps"
	"reflect"
	"time"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

var (
	errStateTimeout   = errors.New("the cell did not tell its state in time")
	errPerformTimeout = errors.New("the cell did not answer Perform in time")
	errOtherCell      = errors.New("another cell answers at its address")
)

// member is one cell as far as it is known. Its fields are guarded by Fleet.mu, except
// the connection and identity, which never change.
type member struct {
	id, address, zone string
	since             time.Time // of its incarnation
	conn              Connection

	// known is the last state, with what was handed over since; nil before the
	// first. The maps in it are replaced, never changed.
	known *auction.Cell
	// trueAt is a time at which known was true.
	trueAt time.Time
	// fetched are the parts of the last answer that an answer "unchanged" refers to, and the inventory that the next one may tell
	// the differences to.
	fetched struct {
		version   uint64
		inventory inventory
		instances map[string]int
		tasks     int
	}
	// reserved are its entries in Fleet.reserved.
	reserved []work.Key

	fetching     chan struct{} // closed at the end of the State call under way; nil if there is none
	fetchStarted time.Time
	performing   int // Perform calls under way
	// handovers counts beginnings and ends of Perform calls: a state fetched across
	// one may or may not contain its work, so it is not used.
	handovers int

	slow     bool // missed the soft deadline the last time
	failures int  // in a row
	err      error
	retryAt  time.Time
}

// question asks for what is new since the last answer.
func (m *member) question() *repv1.StateRequest {
	if m.known == nil {
		return &repv1.StateRequest{}
	}
	return &repv1.StateRequest{KnownVersion: m.fetched.version, KnownContainers: m.fetched.inventory.version}
}

func (m *member) recovered(inTime bool) {
	m.failures, m.err, m.retryAt = 0, nil, time.Time{}
	m.slow = !inTime
}

// cell is what an auction sees of the member.
func (m *member) cell(now time.Time, staleLimit time.Duration) auction.Cell {
	if m.known == nil {
		return auction.Cell{ID: m.id, Zone: m.zone, Condition: auction.Unreachable, StartSlots: auction.NoStartLimit}
	}
	c := *m.known
	stale := m.slow && now.Sub(m.trueAt) > staleLimit
	switch {
	case m.performing > 0:
		c.Condition = auction.Busy
	case m.failures > 0 || stale:
		c.Condition = auction.Unreachable
	}
	return c
}

// learn takes over a state that the cell told in answer to a question and that was true at the given time.
func (m *member) learn(s *repv1.StateResponse, question *repv1.StateRequest, at time.Time) (reserved []work.Key, news bool) {
	if !s.GetUnchanged() || m.known == nil {
		if !m.fetched.inventory.take(s, question.GetKnownContainers()) {
			return nil, false
		}
		m.fetched.instances, m.fetched.tasks, reserved = m.fetched.inventory.count()
		news = true
	}
	m.fetched.version = s.GetVersion()
	c := stateOf(s)
	c.ID = m.id
	c.Instances, c.Tasks = m.fetched.instances, m.fetched.tasks
	if m.known != nil && reflect.DeepEqual(m.known.Profile, c.Profile) {
		c.Profile = m.known.Profile // shared by pointer, auctions compare it faster
	}
	m.known, m.trueAt = &c, at
	if c.Condition != auction.Open {
		reserved = nil // a cell that takes no work may be about to lose what it holds, so nothing of it counts
	}
	return reserved, news
}

// hand reserves work on the copy before the cell has answered, so that nobody else
// counts on the same room.
func (m *member) hand(works []*work.Work) {
	if m.known == nil {
		return
	}
	c := *m.known
	c.Instances = maps.Clone(c.Instances)
	if c.Instances == nil {
		c.Instances = map[string]int{}
	}
	for _, w := range works {
		m.apply(&c, w, 1)
	}
	m.known = &c
}

// takeBack undoes hand for work that the cell refused.
func (m *member) takeBack(works []*work.Work) {
	if m.known == nil || len(works) == 0 {
		return
	}
	c := *m.known
	c.Instances = maps.Clone(c.Instances)
	for _, w := range works {
		m.apply(&c, w, -1)
	}
	m.known = &c
}

// apply adds (sign 1) or removes (sign -1) one piece of work.
func (m *member) apply(c *auction.Cell, w *work.Work, sign int) {
	n := int64(sign)
	c.Available.MemoryMB -= n * auction.Charge(w.Request, c.ProxyMemoryMB)
	c.Available.DiskMB -= n * w.Request.DiskMB
	c.Available.Containers -= n
	c.Starting += sign
	if c.StartSlots != auction.NoStartLimit {
		c.StartSlots = max(0, c.StartSlots-sign)
	}
	if w.Kind == auction.Task {
		c.Tasks += sign
		return
	}
	c.Instances[w.GUID] += sign
	if c.Instances[w.GUID] <= 0 {
		delete(c.Instances, w.GUID)
	}
}

// stateOf converts all but the lists of work.
func stateOf(s *repv1.StateResponse) auction.Cell {
	c := auction.Cell{
		Zone: s.GetZone(), Index: int(s.GetCellIndex()),
		Profile:       profileOf(s),
		Total:         resources(s.GetTotalResources()),
		Available:     resources(s.GetAvailableResources()),
		ProxyMemoryMB: int64(s.GetProxyMemoryAllocationMb()),
		Starting:      int(s.GetStartingContainerCount()),
		StartSlots:    auction.NoStartLimit,
	}
	if limit := s.GetStartingContainerLimit(); limit > 0 {
		c.StartSlots = int(max(0, limit-s.GetStartingContainerCount()))
	}
	c.Condition = conditionOf(s)
	return c
}

func conditionOf(s *repv1.StateResponse) auction.Condition {
	switch {
	case s.GetEvacuating():
		return auction.Evacuating
	case !s.GetHealthy() || s.GetReason() != "":
		return auction.Unhealthy
	default:
		return auction.Open
	}
}

func resources(c *workloadv1.CellCapacity) auction.Resources {
	return auction.Resources{
		MemoryMB: int64(c.GetMemoryMb()), DiskMB: int64(c.GetDiskMb()), Containers: int64(c.GetContainers()),
	}
}

func profileOf(s *repv1.StateResponse) *auction.Profile {
	p := &auction.Profile{
		VolumeDrivers: s.GetVolumeDrivers(),
		RequiredTags:  s.GetPlacementTags(), OptionalTags: s.GetOptionalPlacementTags(),
	}
	for _, provider := range s.GetRootfsProviders() {
		if !provider.GetFixedSet() {
			p.ArbitraryRootFS = append(p.ArbitraryRootFS, provider.GetScheme())
			continue
		}
		if p.FixedRootFS == nil {
			p.FixedRootFS = map[string][]string{}
		}
		p.FixedRootFS[provider.GetScheme()] = append(p.FixedRootFS[provider.GetScheme()], provider.GetNames()...)
	}
	return p
}

// Package holdings keeps what the cell holds in the form in which it is looked up and told. The containers are the executor's;
// of those that have changed since the last look this package makes its entries anew, so that to ask often costs as much as
// has changed and not as much as there is.
package holdings

import (
	"iter"
	"maps"
	"slices"
	"sync"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// Entry is what there is to know of one container. It is never changed: a change makes a new one.
type Entry struct {
	GUID string
	// Identity is what may be on the cell only once. See translate.Identity.
	Identity string
	State    executor.State
	// Ending says that the container has ended or has been told to.
	Ending bool
	// LRP or Task is the container as an auctioneer is told of it. Of a container with tags that cannot be read the LRP has no key.
	LRP  *repv1.LRP
	Task *repv1.Task
}

// live says whether the container stands for its identity: another one of it is not to be made beside it.
func (e *Entry) live() bool { return e.State != executor.StateCompleted }

// starting says whether the container does not run yet.
func (e *Entry) starting() bool {
	switch e.State {
	case executor.StateReserved, executor.StateInitializing, executor.StateCreated:
		return true
	case executor.StateRunning, executor.StateCompleted:
	}
	return false
}

// Executor is what this package needs of the executor.
type Executor interface {
	Changes(since uint64) (guids []string, number uint64, partial bool)
	GetContainer(guid string) (executor.Container, error)
}

// Holdings of one cell. Its methods are safe for concurrent use, and know of everything that had happened when they were called.
type Holdings struct {
	executor Executor

	mu sync.Mutex
	// number is the executor's as of which the rest is true; guarded by mu, as all of the rest is.
	number   uint64
	entries  map[string]*Entry // by guid
	live     map[string]int    // containers by identity
	starting int
	// placements are by the texts that they were read from: most containers of a cell ask for the same.
	placements translate.Placements
}

// New makes the holdings of the cell whose executor it is.
func New(e Executor) *Holdings {
	return &Holdings{executor: e, entries: map[string]*Entry{}, live: map[string]int{}, placements: translate.Placements{}}
}

// Look tells how many containers do not run yet, and a number that grows with every change of a container.
func (h *Holdings) Look() (number uint64, starting int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	return h.number, h.starting
}

// Holds says whether the cell has a container for an identity that has not ended.
func (h *Holdings) Holds(identity string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	return h.live[identity] > 0
}

// All goes through the entries in no order.
func (h *Holdings) All() iter.Seq[*Entry] {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	return slices.Values(slices.Collect(maps.Values(h.entries)))
}

// News is what is different since a number that somebody knows.
type News struct {
	// Number as of which this is so, at least.
	Number uint64
	// Partial says that Changed and Gone are the difference to what was known; otherwise Changed is all that there is.
	Partial bool
	Changed []*Entry
	Gone    []string // guids
}

// Since tells what is different since a number that Look or Since returned; everything for 0, or if it was long ago.
func (h *Holdings) Since(known uint64) News {
	h.mu.Lock()
	defer h.mu.Unlock()
	guids, number, partial := h.executor.Changes(known)
	h.refresh() // so that no entry is older than the number
	news := News{Number: number, Partial: partial}
	for _, guid := range guids {
		if e, found := h.entries[guid]; found {
			news.Changed = append(news.Changed, e)
		} else if partial {
			news.Gone = append(news.Gone, guid)
		}
	}
	return news
}

// refresh takes over what has changed. The caller holds the lock.
func (h *Holdings) refresh() {
	guids, number, partial := h.executor.Changes(h.number)
	if !partial {
		clear(h.entries)
		clear(h.live)
		h.starting = 0
	}
	for _, guid := range guids {
		h.remove(guid)
		if c, err := h.executor.GetContainer(guid); err == nil { // all others are gone
			h.add(h.entry(c))
		}
	}
	h.number = number
	if len(h.placements) > 2*len(h.entries)+16 {
		clear(h.placements)
	}
}

func (h *Holdings) add(e *Entry) {
	h.entries[e.GUID] = e
	if e.live() {
		h.live[e.Identity]++
	}
	if e.starting() {
		h.starting++
	}
}

func (h *Holdings) remove(guid string) {
	e, found := h.entries[guid]
	if !found {
		return
	}
	delete(h.entries, guid)
	if e.starting() {
		h.starting--
	}
	if e.live() {
		if h.live[e.Identity]--; h.live[e.Identity] == 0 {
			delete(h.live, e.Identity)
		}
	}
}

func (h *Holdings) entry(c executor.Container) *Entry {
	e := &Entry{
		GUID: c.GUID, Identity: translate.Identity(c.Tags), State: c.State,
		Ending: c.State == executor.StateCompleted || c.Result.Stopped,
	}
	resources, placement, state := translate.ResourcesMessage(c.Resources), h.placements.Of(c), translate.State(c)
	if c.Tags[translate.TagLifecycle] == translate.LifecycleTask {
		e.Task = &repv1.Task{
			TaskGuid: c.Tags[translate.TagTaskGUID], Domain: c.Tags[translate.TagDomain], Resources: resources, Placement: placement, State: state,
			ContainerGuid: c.GUID,
		}
		return e
	}
	var key *workloadv1.ActualLRPKey
	if read, _, err := translate.LRPOf(c, ""); err == nil {
		key = read
	}
	e.LRP = &repv1.LRP{InstanceGuid: c.Tags[translate.TagInstanceGUID], Key: key, Resources: resources, Placement: placement, State: state}
	return e
}

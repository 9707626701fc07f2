package executor

import (
	"container/list"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxForgotten is how many containers that are gone the changelog remembers. Who looks every second or every minute is far from
// missing one; who has missed one reads all containers anew.
const maxForgotten = 1024

// changelog remembers in which order containers changed last, so that who has seen them at an earlier number need look only at
// those that have changed since. It is safe for concurrent use.
type changelog struct {
	mu sync.Mutex
	// number of the newest change; guarded by mu. It begins with the time in nanoseconds, so that no two clients of a cell, one after
	// the other, use the same numbers.
	number uint64
	// oldest is the number since which nothing is missing; guarded by mu.
	oldest uint64
	order  *list.List               // of lastChange, by number; guarded by mu
	at     map[string]*list.Element // by guid; guarded by mu
	gone   int                      // of those in order; guarded by mu
}

// lastChange of one container.
type lastChange struct {
	guid   string
	number uint64
	gone   bool
}

func newChangelog() *changelog {
	start := uint64(time.Now().UnixNano())
	return &changelog{number: start, oldest: start, order: list.New(), at: map[string]*list.Element{}}
}

// changed notes that something of a container, or of what is reserved for it, is different now.
func (l *changelog) changed(guid string) { l.note(guid, false) }

// forgotten notes that a container is gone.
func (l *changelog) forgotten(guid string) { l.note(guid, true) }

func (l *changelog) note(guid string, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	now := lastChange{guid: guid, number: l.number, gone: gone}
	element, known := l.at[guid]
	if known && element.Value.(lastChange).gone { //nolint:forcetypeassert // the list has nothing else
		l.gone--
	}
	if known {
		element.Value = now
		l.order.MoveToBack(element)
	} else {
		l.at[guid] = l.order.PushBack(now)
	}
	if gone {
		l.gone++
		l.limit()
	}
}

// limit drops the older half of what is gone when there is too much of it. The caller holds the lock.
func (l *changelog) limit() {
	if l.gone <= maxForgotten {
		return
	}
	for element := l.order.Front(); element != nil && l.gone > maxForgotten/2; {
		next, change := element.Next(), element.Value.(lastChange) //nolint:forcetypeassert // the list has nothing else
		if change.gone {
			l.order.Remove(element)
			delete(l.at, change.guid)
			l.gone--
			l.oldest = change.number
		}
		element = next
	}
}

// since returns the guids of all that has changed or gone after a number, and the number as of which that is so. All is false if
// more may have gone than is remembered.
func (l *changelog) since(known uint64) (guids []string, number uint64, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known < l.oldest || known > l.number {
		return slices.Collect(maps.Keys(l.at)), l.number, false
	}
	for element := l.order.Back(); element != nil; element = element.Prev() {
		change := element.Value.(lastChange) //nolint:forcetypeassert // the list has nothing else
		if change.number <= known {
			break
		}
		guids = append(guids, change.guid)
	}
	return guids, l.number, true
}

// Changes tells which containers have changed since an earlier call returned the number since; 0 before the first. A container
// of these guids that is not found any more is gone. If partial is false the guids are those of all containers, and one that is
// not among them is gone. Containers that are read after the call are at least as new as the number.
func (c *Client) Changes(since uint64) (guids []string, number uint64, partial bool) {
	return c.changes.since(since)
}

package backendtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"diego.internal/locket/lockclient"
)

// Memory is a store of claims in memory, for tests: all its callers are one identity. It runs on the
// time of package time, so it works inside testing/synctest. It can be made to fail.
type Memory struct {
	mu       sync.Mutex
	claims   map[string]*entry
	token    int64
	watchers map[*watcher]struct{}
	fail     error         // what every call returns, if not nil
	frozen   chan struct{} // while not nil, calls wait until it is closed or their context ends
}

type entry struct {
	held  lockclient.Held
	timer *time.Timer
}

type watcher struct {
	filter lockclient.Filter
	events []lockclient.Event
	signal chan struct{}
	end    error
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{claims: map[string]*entry{}, watchers: map[*watcher]struct{}{}}
}

// Fail makes every call return err and ends every watch with it, until it is called with nil. Claims
// go on to expire.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
	if err != nil {
		for w := range m.watchers {
			w.end = err
			w.wake()
		}
	}
}

// Freeze makes every call hang; watches stay open and silent.
func (m *Memory) Freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen == nil {
		m.frozen = make(chan struct{})
	}
}

// Thaw ends Freeze: the calls that hang are served.
func (m *Memory) Thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		close(m.frozen)
		m.frozen = nil
	}
}

// Drop removes a claim without a trace, as the restore of an old backup does.
func (m *Memory) Drop(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.claims[key]; ok {
		e.timer.Stop()
		delete(m.claims, key)
	}
}

// enter waits while the store is frozen, and locks it. The caller unlocks it if there is no error.
func (m *Memory) enter(ctx context.Context) error {
	for {
		m.mu.Lock()
		frozen := m.frozen
		if frozen == nil && m.fail == nil && ctx.Err() == nil {
			return nil
		}
		fail := m.fail
		m.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case frozen == nil:
			return fail
		}
		select {
		case <-frozen:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Claim implements lockclient.Backend.
func (m *Memory) Claim(ctx context.Context, c lockclient.Claim) (lockclient.Held, error) {
	if c.Key == "" || c.Owner == "" || c.Type == 0 || c.TTL <= 0 {
		return lockclient.Held{}, lockclient.ErrRefused.With("%+v", c)
	}
	if err := m.enter(ctx); err != nil {
		return lockclient.Held{}, err
	}
	defer m.mu.Unlock()
	now := time.Now()
	before, taken := m.claims[c.Key]
	held := lockclient.Held{Claim: c, AcquiredAt: now, ExpiresAt: now.Add(c.TTL)}
	switch {
	case !taken:
	case before.held.Type == c.Type && before.held.Owner == c.Owner:
		held.Token, held.AcquiredAt, held.Incarnation = before.held.Token, before.held.AcquiredAt, before.held.Incarnation
	case before.held.Type == lockclient.TypePresence && c.Type == lockclient.TypePresence && c.Incarnation > before.held.Incarnation:
	default:
		return lockclient.Held{}, collision(before.held.Owner)
	}
	if taken {
		before.timer.Stop()
	}
	acquired := held.Token == 0
	if acquired {
		m.token++
		held.Token = m.token
	}
	e := &entry{held: held}
	e.timer = time.AfterFunc(c.TTL, func() { m.expire(e) })
	m.claims[c.Key] = e
	switch {
	case acquired:
		m.tell(lockclient.Acquired, held)
	case string(before.held.Value) != string(held.Value):
		m.tell(lockclient.Updated, held)
	}
	return held, nil
}

func (m *Memory) expire(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims[e.held.Key] == e {
		delete(m.claims, e.held.Key)
		m.tell(lockclient.Expired, e.held)
	}
}

// Release implements lockclient.Backend.
func (m *Memory) Release(ctx context.Context, key, owner string) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	e, taken := m.claims[key]
	switch {
	case !taken:
		return nil
	case e.held.Owner != owner:
		return collision(e.held.Owner)
	}
	e.timer.Stop()
	delete(m.claims, key)
	m.tell(lockclient.Released, e.held)
	return nil
}

// Fetch implements lockclient.Backend.
func (m *Memory) Fetch(ctx context.Context, key string) (lockclient.Held, error) {
	if err := m.enter(ctx); err != nil {
		return lockclient.Held{}, err
	}
	defer m.mu.Unlock()
	if e, taken := m.claims[key]; taken {
		return e.held, nil
	}
	return lockclient.Held{}, lockclient.ErrNotHeld.With("%q", key)
}

// Watch implements lockclient.Backend.
func (m *Memory) Watch(ctx context.Context, filter lockclient.Filter, handle func(lockclient.Event)) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	w := &watcher{filter: filter, signal: make(chan struct{}, 1)}
	for _, key := range slices.Sorted(maps.Keys(m.claims)) {
		w.add(lockclient.Event{Kind: lockclient.Acquired, Held: m.claims[key].held})
	}
	w.events = append(w.events, lockclient.Event{Kind: lockclient.Synced})
	w.wake()
	m.watchers[w] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("watching: %w", context.Cause(ctx))
		case <-w.signal:
		}
		m.mu.Lock()
		events, end := w.events, w.end
		w.events = nil
		m.mu.Unlock()
		for _, e := range events {
			handle(e)
		}
		if end != nil {
			return end
		}
	}
}

// tell gives an event to every watcher. The caller holds mu.
func (m *Memory) tell(kind lockclient.EventKind, held lockclient.Held) {
	for w := range m.watchers {
		w.add(lockclient.Event{Kind: kind, Held: held})
	}
}

func (w *watcher) add(e lockclient.Event) {
	if e.Held.Type == w.filter.Type && strings.HasPrefix(e.Held.Key, w.filter.Prefix) {
		w.events = append(w.events, e)
		w.wake()
	}
}

func (w *watcher) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Held returns what is held, in key order.
func (m *Memory) Held() []lockclient.Held {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []lockclient.Held
	for _, e := range m.claims {
		all = append(all, e.held)
	}
	slices.SortFunc(all, func(a, b lockclient.Held) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

func collision(owner string) error {
	return lockclient.ErrCollision.WithMetadata(map[string]string{"owner": owner}, "held by %q", owner)
}

// Package applog finds the containers whose log somebody wants to read and merges their lines: those that live, and those
// that were deleted a short while ago, because the log of an instance that has just crashed is the one people ask for.
package applog

import (
	"slices"
	"sync"
	"time"

	"diego.internal/executor"
	"diego.internal/rep/internal/translate"
)

// retired is a container that is gone while its log is still kept.
type retired struct {
	container executor.Container
	at        time.Time
}

// Finder knows whose logs are where. Its methods may be called concurrently.
type Finder struct {
	// List returns the containers that live.
	List func() []executor.Container
	// Keep is how long a deleted container is remembered, Most how many are.
	Keep time.Duration
	Most int

	mu   sync.Mutex
	gone []retired // guarded by mu; oldest first
}

// Retire remembers a container that is about to be deleted.
func (f *Finder) Retire(c executor.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A deletion that failed is tried again.
	f.gone = slices.DeleteFunc(f.gone, func(r retired) bool { return r.container.GUID == c.GUID })
	f.gone = append(f.gone, retired{container: c, at: time.Now()})
	oldest := time.Now().Add(-f.Keep)
	drop := max(len(f.gone)-f.Most, 0)
	for drop < len(f.gone) && !f.gone[drop].at.After(oldest) {
		drop++
	}
	f.gone = slices.Delete(f.gone, 0, drop)
}

// Find returns the containers that carry the tag with that value, deleted ones first.
func (f *Finder) Find(tag, value string) []executor.Container {
	var out []executor.Container
	seen := map[string]bool{}
	living := f.List()
	for _, c := range living {
		seen[c.GUID] = true
	}
	f.mu.Lock()
	for _, r := range f.gone {
		if r.container.Tags[tag] == value && !seen[r.container.GUID] && time.Since(r.at) < f.Keep {
			seen[r.container.GUID] = true
			out = append(out, r.container)
		}
	}
	f.mu.Unlock()
	for _, c := range living {
		if c.Tags[tag] == value {
			out = append(out, c)
		}
	}
	return out
}

// Tag that a request selects by.
const (
	ByProcess  = translate.TagProcessGUID
	ByInstance = translate.TagInstanceGUID
	ByTask     = translate.TagTaskGUID
)

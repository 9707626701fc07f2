package containerd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// layers knows who needs which layers, so that the others can be collected when all of them take more than their bound.
type layers struct {
	wake chan struct{}

	mu       sync.Mutex
	held     map[string]int       // by creations that are under way, for as long as no container refers to the layer
	keep     map[string]bool      // of preloaded root filesystems
	lastUsed map[string]time.Time // last use by this program
	sizes    map[string]uint64    // of layers that are there
}

func newLayers() *layers {
	return &layers{wake: make(chan struct{}, 1), held: map[string]int{}, keep: map[string]bool{}, lastUsed: map[string]time.Time{}, sizes: map[string]uint64{}}
}

// hold keeps layers from the collector until release is called; it may be called twice.
func (l *layers) hold(keys []string, keep bool) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.held[key]++
		l.lastUsed[key] = time.Now()
		if keep {
			l.keep[key] = true
		}
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range keys {
			if l.held[key]--; l.held[key] == 0 {
				delete(l.held, key)
			}
		}
	})
}

// size of a layer that is known to be there, because it was found or made by this program and not collected since.
func (l *layers) size(key string) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, ok := l.sizes[key]
	return size, ok
}

func (l *layers) setSize(key string, size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes[key] = size
}

// forget is for layers that somebody else has removed.
func (l *layers) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.sizes)
}

// due asks for a look at the sizes.
func (l *layers) due() { raise(l.wake) }

// storedLayer is a layer as containerd has it.
type storedLayer struct {
	key, parent string
	bytes       uint64
	used        time.Time
}

// collect serves due until the Backend is closed.
func (b *Backend) collect() {
	for {
		select {
		case <-b.layers.wake:
		case <-b.ctx.Done():
			return
		}
		if err := b.collectOnce(b.ctx); err != nil && b.ctx.Err() == nil {
			b.cfg.Log.WarnContext(b.ctx, "images-not-collected", "error", err)
		}
	}
}

// collectOnce removes layers that nothing needs, those first whose last use is longest ago, until the rest is within the
// bound or all that is left is needed.
func (b *Backend) collectOnce(ctx context.Context) error {
	stored, needed, err := b.storedLayers(ctx)
	if err != nil {
		return err
	}
	var total, freed uint64
	for _, l := range stored {
		total += l.bytes
	}
	removed := 0
	for total-freed > b.cfg.ImageCacheBytes {
		at := slices.IndexFunc(stored, func(l storedLayer) bool { return needed[l.key] == 0 })
		if at < 0 {
			break
		}
		victim := stored[at]
		stored = slices.Delete(stored, at, at+1)
		gone, err := b.removeLayer(ctx, victim.key)
		if err != nil {
			return err
		}
		if !gone {
			continue
		}
		needed[victim.parent]--
		freed += victim.bytes
		removed++
	}
	if removed > 0 {
		b.cfg.Log.InfoContext(ctx, "images-collected", "layers", removed, "bytes", freed, "left_bytes", total-freed)
	}
	return nil
}

// storedLayers lists the layers of this cell, the one unused for longest first, and how many snapshots stand on each.
func (b *Backend) storedLayers(ctx context.Context) ([]storedLayer, map[string]int, error) {
	var stored []storedLayer
	needed := map[string]int{}
	err := b.snapshots().Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		needed[info.Parent]++
		if info.Kind == snapshots.KindCommitted {
			stored = append(stored, storedLayer{key: info.Name, parent: info.Parent, used: info.Updated})
		}
		return nil
	}, fmt.Sprintf("labels.%q==%q", cellLabel, b.cfg.tag()))
	if err != nil {
		return nil, nil, fmt.Errorf("listing layers: %w", err)
	}
	for at := range stored {
		usage, err := b.snapshots().Usage(ctx, stored[at].key)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, nil, fmt.Errorf("measuring layer: %w", err)
		}
		stored[at].bytes = uint64(max(usage.Size, 0))
		stored[at].used = b.layers.lastUse(stored[at].key, stored[at].used)
	}
	slices.SortFunc(stored, func(x, y storedLayer) int {
		return cmp.Or(x.used.Compare(y.used), cmp.Compare(x.key, y.key))
	})
	return stored, needed, nil
}

func (l *layers) lastUse(key string, made time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if used, ok := l.lastUsed[key]; ok {
		return used
	}
	return made
}

// removeLayer removes a layer unless somebody has begun to use it.
func (b *Backend) removeLayer(ctx context.Context, key string) (bool, error) {
	b.layers.mu.Lock()
	defer b.layers.mu.Unlock() // nobody can begin to use it while it is removed
	if b.layers.held[key] > 0 || b.layers.keep[key] {
		return false, nil
	}
	err := b.snapshots().Remove(ctx, key)
	if errdefs.IsFailedPrecondition(err) {
		return false, nil // something stands on it since we looked
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return false, fmt.Errorf("removing layer: %w", err)
	}
	delete(b.layers.lastUsed, key)
	delete(b.layers.sizes, key)
	return true, nil
}

package cache

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// block is the least that a file takes on disk; small files are counted so.
const block = 4096

func onDisk(bytes int64) int64 { return (bytes + block - 1) / block * block }

// reserve makes room for a part of a version that is being made, and counts it. Entries that nobody uses go, oldest use
// first. If that would not be enough nothing goes and the error is ErrFull.
func (c *Cache) reserve(v *version, bytes int64) error {
	if bytes < 0 {
		return fmt.Errorf("a file of %d bytes: %w", bytes, ErrFull)
	}
	bytes = max(onDisk(bytes), block)
	c.mu.Lock()
	defer c.mu.Unlock()
	var idle int64
	for _, other := range c.versions {
		if other.idle() {
			idle += other.size
		}
	}
	if c.used-idle+bytes > c.cfg.Limit {
		return fmt.Errorf("%d of %d bytes in use, %d more wanted: %w", c.used-idle, c.cfg.Limit, bytes, ErrFull)
	}
	evicted := false
	for c.used+bytes > c.cfg.Limit {
		c.dropLocked(c.oldestIdleLocked())
		evicted = true
	}
	if evicted {
		c.saveLocked()
	}
	v.size += bytes
	c.used += bytes
	return nil
}

func (c *Cache) oldestIdleLocked() *version {
	var oldest *version
	for _, v := range c.versions {
		if v.idle() && (oldest == nil || v.lastUse.Before(oldest.lastUse)) {
			oldest = v
		}
	}
	return oldest
}

// giveBack forgets a version that was never committed.
func (c *Cache) giveBack(v *version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= v.size
	v.size = 0
}

// commit makes a version the current one of its entry. What it replaces lives on while it is used.
func (c *Cache) commit(v *version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retireLocked(v.entry)
	c.versions[v.name], c.current[v.entry] = v, v
	c.saveLocked()
}

// retire ends the currency of an entry: the next call receives it anew.
func (c *Cache) retire(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retireLocked(e) {
		c.saveLocked()
	}
}

func (c *Cache) retireLocked(e entry) bool {
	old := c.current[e]
	if old == nil {
		return false
	}
	delete(c.current, e)
	if old.idle() {
		c.dropLocked(old)
	}
	return true
}

// dropLocked deletes a version. A folder may take long to delete, so it only goes aside here. If the process ends before
// it is gone, the next one removes it: it is in no index then.
func (c *Cache) dropLocked(v *version) {
	delete(c.versions, v.name)
	if c.current[v.entry] == v {
		delete(c.current, v.entry)
	}
	c.used -= v.size
	aside := filepath.Join(c.cfg.Dir, asideDir, "old-"+v.name)
	if err := os.Rename(c.path(v.name), aside); err != nil {
		if !os.IsNotExist(err) {
			c.cfg.Log.Warn("removing-cached-download-failed", slog.String("entry", v.name), slog.Any("error", err))
		}
		return
	}
	c.removals.Go(func() {
		if err := os.RemoveAll(aside); err != nil {
			c.cfg.Log.Warn("removing-cached-download-failed", slog.String("entry", v.name), slog.Any("error", err))
		}
	})
}

// pinCurrent keeps the current version of an entry from being evicted. A version that somebody else has deleted from the
// disk is none any more.
func (c *Cache) pinCurrent(e entry) *version {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.current[e]
	if v == nil {
		return nil
	}
	if _, err := os.Lstat(c.path(v.name)); err != nil {
		c.cfg.Log.Warn("cached-download-lost", slog.String("entry", v.name), slog.Any("error", err))
		c.retireLocked(e)
		c.saveLocked()
		return nil
	}
	v.pins++
	return v
}

func (c *Cache) unpin(v *version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v.pins--
	c.dropIfDoneLocked(v)
}

func (c *Cache) touch(v *version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v.lastUse = time.Now()
}

// dropIfDoneLocked deletes a version that has been replaced and that nobody uses any more.
func (c *Cache) dropIfDoneLocked(v *version) {
	if v.idle() && c.versions[v.name] == v && c.current[v.entry] != v {
		c.dropLocked(v)
		c.saveLocked()
	}
}

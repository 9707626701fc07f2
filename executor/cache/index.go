package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"diego.internal/executor/transfer"
)

// Names below the cache's folder.
const (
	entriesDir = "entries"
	usesDir    = "uses"
	asideDir   = "aside" // what is being made or deleted; emptied at start
	indexFile  = "saved_cache.json"
)

// indexVersion is raised when an older process could not read what we write.
const indexVersion = 1

// bootFile changes with every start of the machine.
const bootFile = "/proc/sys/kernel/random/boot_id"

// index is what the next process believes. Entries are written to disk without waiting for the disk, which survives the
// end of a process but not that of the machine; so an index of another boot counts only if it was written behind a sync.
type index struct {
	Version int          `json:"version"`
	Boot    string       `json:"boot"`
	Synced  bool         `json:"synced"`
	Entries []indexEntry `json:"entries"`
}

type indexEntry struct {
	Name         string    `json:"name"`
	Key          string    `json:"key"`
	Form         form      `json:"form"`
	Current      bool      `json:"current"`
	Size         int64     `json:"size"`
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Checksum     string    `json:"checksum,omitempty"`
	LastUse      time.Time `json:"last_use"`
}

// Open takes up the cache that an earlier process left: what its index names and is there, and what an owner that keep
// answers for still uses. Everything else below the folder is deleted.
func Open(cfg Config, keep map[string]bool) (*Cache, error) {
	c := &Cache{cfg: cfg, versions: make(map[string]*version), current: make(map[entry]*version)}
	if c.cfg.Log == nil {
		c.cfg.Log = slog.New(slog.DiscardHandler)
	}
	if boot, err := os.ReadFile(bootFile); err == nil {
		c.boot = strings.TrimSpace(string(boot))
	}
	if cfg.Memory {
		if err := os.RemoveAll(cfg.Dir); err != nil {
			return nil, fmt.Errorf("emptying the cache: %w", err)
		}
	}
	if err := c.makeFolders(); err != nil {
		return nil, err
	}
	c.loadIndex()
	if err := c.loadUses(keep); err != nil {
		return nil, err
	}
	if err := c.removeStrays(); err != nil {
		return nil, err
	}
	for _, v := range c.versions {
		c.used += v.size
	}
	// From here on the disk may be behind the index again. A limit that was lowered is met by the next reserve.
	c.saveLocked()
	return c, nil
}

func (c *Cache) makeFolders() error {
	if err := os.RemoveAll(filepath.Join(c.cfg.Dir, asideDir)); err != nil {
		return fmt.Errorf("emptying the cache's temporary folder: %w", err)
	}
	for _, dir := range []string{entriesDir, usesDir, asideDir} {
		// Users of containers pass through on the way to what is mounted.
		if err := os.MkdirAll(filepath.Join(c.cfg.Dir, dir), 0o711); err != nil { //nolint:gosec // see above
			return fmt.Errorf("making the cache: %w", err)
		}
	}
	return nil
}

// loadIndex takes over what is named and there. An index that cannot be believed is an empty one.
func (c *Cache) loadIndex() {
	var saved index
	encoded, err := os.ReadFile(filepath.Join(c.cfg.Dir, indexFile))
	if err == nil {
		err = json.Unmarshal(encoded, &saved)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil, saved.Version != indexVersion, saved.Boot != c.boot && !saved.Synced:
		c.cfg.Log.Warn("cache-of-downloads-dropped", slog.Bool("synced", saved.Synced), slog.Any("error", err))
		return
	}
	for _, e := range saved.Entries {
		if !validName(e.Name) || c.versions[e.Name] != nil || !c.whole(e) {
			continue
		}
		v := &version{
			name:       e.Name,
			entry:      entry{key: e.Key, form: e.Form},
			size:       e.Size,
			validators: transfer.Validators{ETag: e.ETag, LastModified: e.LastModified},
			checksum:   e.Checksum,
			lastUse:    e.LastUse,
			owners:     make(map[string]bool),
		}
		c.versions[v.name] = v
		if e.Current {
			c.current[v.entry] = v
		}
	}
}

// validName says whether a name can be that of a file in a folder of ours: no path, and neither the folder nor its parent.
func validName(name string) bool {
	return name != "." && name != ".." && name != string(filepath.Separator) && filepath.Base(name) == name
}

// maxSize is more than any disk has; sums of sizes below it do not overflow.
const maxSize = 1 << 50

// whole compares an entry with the disk as far as that is cheap. Entries appear under their names only when complete.
func (c *Cache) whole(e indexEntry) bool {
	info, err := os.Lstat(c.path(e.Name))
	if err != nil || e.Size < 0 || e.Size > maxSize {
		return false
	}
	if e.Form == formFolder {
		return info.IsDir()
	}
	return e.Form == formArchive && info.Mode().IsRegular() && max(onDisk(info.Size()), block) == e.Size
}

// loadUses reads who uses what, and forgets owners that are gone. A folder in use that no index names stays for its
// owners, and is nobody else's.
func (c *Cache) loadUses(keep map[string]bool) error {
	owners, err := os.ReadDir(filepath.Join(c.cfg.Dir, usesDir))
	if err != nil {
		return fmt.Errorf("listing uses of the cache: %w", err)
	}
	for _, owner := range owners {
		if !keep[owner.Name()] {
			if err := os.RemoveAll(c.usesOf(owner.Name())); err != nil {
				return fmt.Errorf("forgetting uses of the cache: %w", err)
			}
			continue
		}
		uses, err := os.ReadDir(c.usesOf(owner.Name()))
		if err != nil {
			return fmt.Errorf("listing uses of the cache: %w", err)
		}
		for _, use := range uses {
			if err := c.loadUse(owner.Name(), use.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cache) loadUse(owner, name string) error {
	v := c.versions[name]
	if v == nil {
		size, err := sizeOf(c.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		v = &version{name: name, entry: entry{form: formFolder}, size: size, lastUse: time.Now(), owners: make(map[string]bool)}
		c.versions[name] = v
	}
	v.owners[owner] = true
	return nil
}

// removeStrays deletes what is neither current nor in use.
func (c *Cache) removeStrays() error {
	for name, v := range c.versions {
		if v.idle() && c.current[v.entry] != v {
			delete(c.versions, name)
		}
	}
	found, err := os.ReadDir(filepath.Join(c.cfg.Dir, entriesDir))
	if err != nil {
		return fmt.Errorf("listing the cache: %w", err)
	}
	for _, e := range found {
		if c.versions[e.Name()] != nil {
			continue
		}
		if err := os.RemoveAll(c.path(e.Name())); err != nil {
			return fmt.Errorf("deleting a stray of the cache: %w", err)
		}
	}
	top, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return fmt.Errorf("listing the cache: %w", err)
	}
	for _, e := range top {
		switch e.Name() {
		case entriesDir, usesDir, asideDir, indexFile:
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.cfg.Dir, e.Name())); err != nil {
			return fmt.Errorf("deleting a stray of the cache: %w", err)
		}
	}
	return nil
}

// Close waits for deletions under way and, so that the entries are still believed after a restart of the machine, for the
// disk. No other call may follow.
func (c *Cache) Close() error {
	c.removals.Wait()
	if c.cfg.Memory {
		return nil
	}
	dir, err := os.Open(c.cfg.Dir)
	if err != nil {
		return fmt.Errorf("closing the cache: %w", err)
	}
	err = unix.Syncfs(int(dir.Fd()))
	if err := errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("closing the cache: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writeIndex(true)
}

// saveLocked writes the index. A failure costs the next process some downloads and is only logged.
func (c *Cache) saveLocked() {
	if err := c.writeIndex(false); err != nil {
		c.cfg.Log.Warn("saving-cache-index-failed", slog.Any("error", err))
	}
}

func (c *Cache) writeIndex(synced bool) error {
	if c.cfg.Memory {
		return nil
	}
	out := index{Version: indexVersion, Boot: c.boot, Synced: synced, Entries: []indexEntry{}}
	for _, v := range c.versions {
		out.Entries = append(out.Entries, indexEntry{
			Name: v.name, Key: v.entry.key, Form: v.entry.form, Current: c.current[v.entry] == v, Size: v.size,
			ETag: v.validators.ETag, LastModified: v.validators.LastModified, Checksum: v.checksum, LastUse: v.lastUse,
		})
	}
	encoded, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encoding the cache's index: %w", err)
	}
	path := filepath.Join(c.cfg.Dir, indexFile)
	aside := filepath.Join(c.cfg.Dir, asideDir, indexFile)
	if err := os.WriteFile(aside, encoded, 0o600); err != nil {
		return fmt.Errorf("writing the cache's index: %w", err)
	}
	if err := os.Rename(aside, path); err != nil {
		return fmt.Errorf("replacing the cache's index: %w", err)
	}
	return nil
}

// sizeOf measures as reserve counts.
func sizeOf(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += max(onDisk(info.Size()), block)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measuring %q: %w", dir, err)
	}
	return sum, nil
}

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A use is an empty file uses/<owner>/<version>. It is there before the owner can see the folder and goes after the owner
// is gone, so that whoever finds the folders later knows which of them must stay.

// use notes that an owner has a version.
func (c *Cache) use(v *version, owner string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cfg.Memory {
		dir := c.usesOf(owner)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("noting the use of a cached download: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, v.name), nil, 0o600); err != nil {
			return fmt.Errorf("noting the use of a cached download: %w", err)
		}
	}
	v.owners[owner] = true
	return nil
}

// Release gives back every folder that an owner has. It may be repeated.
func (c *Cache) Release(owner string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var problems []error
	for name, v := range c.versions {
		if v.owners[owner] {
			problems = append(problems, c.releaseLocked(owner, name))
		}
	}
	if err := os.RemoveAll(c.usesOf(owner)); err != nil {
		problems = append(problems, fmt.Errorf("forgetting the uses of cached downloads: %w", err))
	}
	return errors.Join(problems...)
}

// ReleaseFolder gives one folder back. It returns ErrNotFound if there is none at path and ErrReleased if the owner does
// not have it.
func (c *Cache) ReleaseFolder(owner, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := filepath.Base(path)
	if c.path(name) != filepath.Clean(path) {
		return fmt.Errorf("%q: %w", path, ErrNotFound)
	}
	return c.releaseLocked(owner, name)
}

func (c *Cache) releaseLocked(owner, name string) error {
	v := c.versions[name]
	if v == nil {
		return fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	if !v.owners[owner] {
		return fmt.Errorf("%q: %w", name, ErrReleased)
	}
	if !c.cfg.Memory {
		if err := os.Remove(filepath.Join(c.usesOf(owner), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forgetting the use of a cached download: %w", err)
		}
	}
	delete(v.owners, owner)
	v.lastUse = time.Now()
	c.dropIfDoneLocked(v)
	return nil
}

func (c *Cache) usesOf(owner string) string { return filepath.Join(c.cfg.Dir, usesDir, owner) }

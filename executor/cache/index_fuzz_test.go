package cache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzIndex opens a cache behind an index that may say anything, and has everything that it believes in evicted. Nothing but
// entries may go, and the cache's own folders must be there afterwards.
func FuzzIndex(f *testing.F) {
	seed := func(entries ...indexEntry) {
		encoded, err := json.Marshal(index{Version: indexVersion, Synced: true, Entries: entries})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	folder := indexEntry{Key: "k", Form: formFolder, Current: true, Size: block}
	for _, name := range []string{"folder", ".", "..", "", "/", "../uses", "folder/..", "a/b"} {
		e := folder
		e.Name = name
		seed(e)
	}
	seed(indexEntry{Name: "archive", Key: "k", Form: formArchive, Current: true, Size: block}, indexEntry{Name: "archive", Key: "l", Form: formArchive, Size: block})
	f.Add([]byte(`{"version":1,"synced":true,"entries":[{"name":"folder","form":"folder","current":true,"size":9223372036854775807}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, saved []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "cache")
		keep := filepath.Join(parent, "somebody-else")
		entries := filepath.Join(dir, entriesDir)
		for _, path := range []string{filepath.Join(entries, "folder"), filepath.Join(dir, usesDir), keep} {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for path, content := range map[string][]byte{filepath.Join(entries, "archive"): []byte("a"), filepath.Join(dir, indexFile): saved} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Open(Config{Dir: dir, Limit: 10 * block}, nil)
		if err != nil {
			t.Fatalf("opening: %v", err)
		}
		for name, v := range c.versions {
			if name != v.name || filepath.Dir(c.path(name)) != entries || v.size < 0 {
				t.Fatalf("believed in %q (%+v)", name, v)
			}
		}
		if c.used < 0 {
			t.Fatalf("%d bytes are used", c.used)
		}
		// As much as fits only when all is gone.
		if err := c.reserve(&version{}, 10*block); err != nil {
			t.Fatalf("making room: %v", err)
		}
		if len(c.versions) != 0 || c.used != 10*block {
			t.Fatalf("%d versions and %d bytes after making room", len(c.versions), c.used)
		}
		if err := c.Close(); err != nil {
			t.Fatalf("closing: %v", err)
		}
		for _, path := range []string{entries, filepath.Join(dir, usesDir), keep, filepath.Join(dir, indexFile)} {
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("%s is gone: %v", path, err)
			}
		}
	})
}

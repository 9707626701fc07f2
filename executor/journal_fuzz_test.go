package executor

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzJournal loads what may be left in the journal of a container. What is accepted names a container,
// and survives being saved.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"record":{"guid":"g"}}`), []byte(`{"processes":{"a":{}},"done":{"b":true},"since":{"c":"2026-01-01T00:00:00Z"}}`))
	f.Add([]byte(`{"version":1,"record":{}}`), []byte(`null`))
	f.Add([]byte(`{"version":2,"record":{"guid":"g"}}`), []byte(``))
	f.Add([]byte(`[`), []byte(`{"since":{"c":"never"}}`))
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, record, progress []byte) {
		j := journal{dir: folder}
		for name, content := range map[string][]byte{recordFile: record, progressFile: progress} {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		loaded, _, err := j.load()
		if err != nil {
			return
		}
		if loaded.GUID == "" {
			t.Fatal("a container without guid")
		}
		if err := j.save(loaded); err != nil {
			t.Fatalf("saving what was loaded: %v", err)
		}
		if again, _, err := j.load(); err != nil || again.GUID != loaded.GUID {
			t.Fatalf("loading what was saved: %v, %q", err, again.GUID)
		}
	})
}

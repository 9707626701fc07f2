package volume

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/volume/volumetest"
)

// bed is a folder of descriptions with one driver "local", and a folder of uses.
type bed struct {
	t      *testing.T
	plugin *volumetest.Driver
	cfg    Config
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, plugin: volumetest.New(t, false)}
	b.cfg = Config{
		Dir: filepath.Join(t.TempDir(), "volumes"), Folders: []string{t.TempDir()}, Interval: 5 * time.Millisecond, Timeout: 5 * time.Second, ID: "cell-1",
	}
	b.plugin.Describe(b.cfg.Folders[0], "local.spec", "tcp://%s")
	return b
}

// open is what a process does at start; what it does not close is what a kill leaves.
func (b *bed) open(keep ...string) *Volumes {
	b.t.Helper()
	kept := map[string]bool{}
	for _, name := range keep {
		kept[name] = true
	}
	v, err := Open(b.t.Context(), b.cfg, kept)
	require.NoError(b.t, err)
	return v
}

// run runs until the end of the test.
func (b *bed) run(v *Volumes) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		require.NoError(b.t, <-ended)
	})
}

func (b *bed) eventually(what string, condition func() bool) {
	b.t.Helper()
	require.Eventually(b.t, condition, 10*time.Second, 5*time.Millisecond, what)
}

// uses are the files of owners that are on disk.
func (b *bed) uses() []string {
	b.t.Helper()
	found, err := filepath.Glob(filepath.Join(b.cfg.Dir, "*"))
	require.NoError(b.t, err)
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

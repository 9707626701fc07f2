package executor

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/logs"
)

// TestEphemeralWritesNothing: a container goes through its whole life and leaves no file behind on the way.
func TestEphemeralWritesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil)
		c.cfg.Ephemeral = true
		c.open()
		defer c.stop()
		c.run("one", RunInfo{Action: &Action{Run: &RunAction{Path: "server", User: "vcap"}}})
		synctest.Wait()
		require.Equal(t, StateRunning, c.get("one").State)
		require.Empty(t, filesBelow(t, c.cfg.StateDir))
		for _, err := range c.client.Logs(t.Context(), "one", logs.Request{}) {
			require.ErrorIs(t, err, logs.ErrNotFound)
		}
		require.NoError(t, c.client.StopContainer(t.Context(), "one"))
		synctest.Wait()
		require.Equal(t, StateCompleted, c.get("one").State)
		require.NoError(t, c.client.DeleteContainer(t.Context(), "one"))
		require.Equal(t, c.client.TotalResources(), c.client.RemainingResources())
	})
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

package executor

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What the cache does not take back holds up the deletion, which can be repeated: what tells of the use must not be lost.
func TestDeletionWaitsForTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil).open()
		defer c.stop()
		c.run("i", RunInfo{Action: new(process("/app", "APP"))})
		synctest.Wait()
		// A use that cannot be forgotten: where uses are kept there is a file.
		uses := filepath.Join(c.cfg.StateDir, "dependencies", "uses")
		require.NoError(t, os.RemoveAll(uses))
		require.NoError(t, os.WriteFile(uses, nil, 0o600))
		err := c.client.DeleteContainer(t.Context(), "i")
		require.ErrorContains(t, err, "failed to cleanup bindmount artifacts")
		require.Less(t, c.client.RemainingResources().MemoryMB, c.client.TotalResources().MemoryMB, "its resources stay taken")
		require.NoError(t, os.Remove(uses))
		require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
		require.Equal(t, c.client.TotalResources(), c.client.RemainingResources())
		time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
	})
}

func TestVolumeMountedFilesAreChecked(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"file", "/file", "a/b/c", "a/", "/a/", "../x", "a/.."} {
		err := writeFiles(filepath.Join(t.TempDir(), "files"), []File{{Path: path, Content: "x"}})
		require.Error(t, err, path)
	}
	dir := filepath.Join(t.TempDir(), "files")
	require.ErrorContains(t, writeFiles(dir, []File{{Path: "file"}}), "failed to extract volume-mounted-files directory. format is: /serviceName/fileName")
	require.NoError(t, writeFiles(dir, []File{{Path: "/service/file", Content: "x"}, {Path: "service/other"}}))
	content, err := os.ReadFile(filepath.Join(dir, "service", "file"))
	require.NoError(t, err)
	require.Equal(t, "x", string(content))
}

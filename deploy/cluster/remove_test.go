package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRemoveRefusesWhatIsNotAClustersFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "precious")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, Remove(t.Context(), folder, "bin"), "not the folder of a cluster")
	require.FileExists(t, file)
}

func TestRemoveRefusesARunningCluster(t *testing.T) {
	t.Parallel()
	p := &plan{Options: Options{Folder: t.TempDir()}}
	require.NoError(t, p.record())
	require.ErrorContains(t, Remove(t.Context(), p.Folder, "bin"), "a cluster is running in ")
}

func TestRemoveOfNothingSucceeds(t *testing.T) {
	t.Parallel()
	require.NoError(t, Remove(t.Context(), filepath.Join(t.TempDir(), "missing"), "bin"))
}

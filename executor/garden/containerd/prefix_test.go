package containerd

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// A handle may begin with another handle: the end of one container takes nothing away from the other.
func TestDestroyLeavesLongerHandlesAlone(t *testing.T) {
	t.Parallel()
	backend, err := New(t.Context(), shared.cell(t))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, backend.Clean(context.Background()))
		require.NoError(t, backend.Close())
	})
	var kept garden.Container
	for _, handle := range []string{"app-1", "app-12"} {
		kept, err = backend.Create(t.Context(), garden.ContainerSpec{Handle: handle, Image: garden.Image{URI: "preloaded:busybox"}})
		require.NoError(t, err)
	}
	require.NoError(t, backend.Destroy(t.Context(), "app-1"))
	mounts, err := containerMounts(func(id string) bool { return id == backend.cfg.containerID("app-12") })
	require.NoError(t, err)
	require.Len(t, mounts, 1, "the root file system of the other one is still mounted for it")
	process, err := kept.Run(t.Context(), shell("p", "test -x /bin/sh"), garden.ProcessIO{})
	require.NoError(t, err)
	status, err := process.Wait(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Code)
}

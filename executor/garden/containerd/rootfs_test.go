package containerd

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// packRootFS writes a root filesystem as a tarball.
func packRootFS(t *testing.T, rootfs string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	file, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, archive.WriteDiff(t.Context(), file, "", rootfs))
	require.NoError(t, file.Close())
	return path
}

func TestImages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	path := packRootFS(t, shared.rootfs)
	hub := newRegistryServer(t)
	b.trust(t, hub)
	layer, err := tarball.LayerFromFile(path)
	require.NoError(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	require.NoError(t, err)
	hub.push(t, "library/busybox:v1", image)
	reference := hub.host + "/library/busybox"
	for sentence, image := range map[string]garden.Image{
		"a folder":                  {URI: shared.rootfs},
		"a tarball":                 {URI: path},
		"an image of a registry":    {URI: "docker://" + reference + ":v1", Username: "me", Password: "secret"},
		"with its tag behind a '#'": {URI: "docker://" + reference + "#v1", Username: "me", Password: "secret"},
	} {
		c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: image})
		require.NoError(t, err, sentence)
		var out bytes.Buffer
		spec := shell("p", "stat -c '%U %a' /home/vcap /tmp; readlink /bin/sh")
		p, err := c.Run(t.Context(), spec, garden.ProcessIO{Stdout: &out})
		require.NoError(t, err)
		_, err = p.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, "vcap 755\nroot 1777\n/bin/busybox\n", out.String(), sentence)
		require.NoError(t, b.backend.Destroy(t.Context(), "h"))
	}
}

// TestImageIsUnpackedOnce has many containers ask for a new image at the same time, and for a changed one later.
func TestImageIsUnpackedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	path := packRootFS(t, shared.rootfs)
	unpacked := func() int {
		count := 0
		require.NoError(t, b.backend.snapshots().Walk(b.backend.within(t.Context()), func(_ context.Context, info snapshots.Info) error {
			if strings.HasPrefix(info.Name, b.backend.cfg.rootFSPrefix()) {
				count++
			}
			return nil
		}))
		return count
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path}, UserRange{}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.Equal(t, 1, unpacked())
	require.NoError(t, os.Truncate(path, 10<<20))
	_, err := b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path}, UserRange{})
	require.NoError(t, err)
	require.Equal(t, 2, unpacked())

	require.NoError(t, os.WriteFile(path, []byte("not a tarball"), 0o600))
	_, err = b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path}, UserRange{})
	require.Error(t, err)
	keys, err := b.backend.snapshotKeys(b.backend.within(t.Context()))
	require.NoError(t, err)
	require.Len(t, keys, 2, "what failed leaves nothing")
}

package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
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

// serveImage puts a tarball into a registry that asks for a password and returns its reference.
func serveImage(t *testing.T, path string) string {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	open := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if open || (user == "me" && password == "secret") {
			handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	layer, err := tarball.LayerFromFile(path)
	require.NoError(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	require.NoError(t, err)
	reference := strings.TrimPrefix(server.URL, "http://") + "/library/busybox"
	parsed, err := name.ParseReference(reference + ":v1")
	require.NoError(t, err)
	open = true
	require.NoError(t, remote.Write(parsed, image, remote.WithContext(t.Context())))
	open = false
	return reference
}

func TestImages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	path := packRootFS(t, shared.rootfs)
	reference := serveImage(t, path)
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
	_, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: garden.Image{URI: "docker://" + reference + ":v1"}})
	_, ok := errors.AsType[*garden.RootFSError](err)
	require.True(t, ok, "without password: %v", err)
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
			if _, err := b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.Equal(t, 1, unpacked())
	require.NoError(t, os.Truncate(path, 10<<20))
	_, err := b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path})
	require.NoError(t, err)
	require.Equal(t, 2, unpacked())

	require.NoError(t, os.WriteFile(path, []byte("not a tarball"), 0o600))
	_, err = b.backend.rootFS(b.backend.within(t.Context()), garden.Image{URI: path})
	require.Error(t, err)
	keys, err := b.backend.snapshotKeys(b.backend.within(t.Context()))
	require.NoError(t, err)
	require.Len(t, keys, 2, "what failed leaves nothing")
}

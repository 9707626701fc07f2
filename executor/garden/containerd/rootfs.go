package containerd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

const (
	preloadedScheme = "preloaded:"
	dockerScheme    = "docker://"
)

// errUnknownRootFS is the spec's text for a name that the configuration does not have.
var errUnknownRootFS = errors.New("preloaded rootfs path not found")

func (c *Config) rootFSPrefix() string { return c.tag() + "-rootfs-" }

// rootFS returns the key of the committed snapshot with the content of an image, unpacking it if it is new. The same
// content is unpacked once, however many containers ask for it at the same time and under whatever name.
func (b *Backend) rootFS(ctx context.Context, image garden.Image) (string, error) {
	key, err := b.findRootFS(ctx, image)
	if err != nil {
		return "", &garden.RootFSError{URI: image.URI, Err: err}
	}
	return key, nil
}

// source is an image that can be unpacked.
type source struct {
	digest string // of the content, or of what tells it from other content
	open   func(context.Context) (io.ReadCloser, error)
}

func (b *Backend) findRootFS(ctx context.Context, image garden.Image) (string, error) {
	from, err := b.source(ctx, image)
	if err != nil {
		return "", err
	}
	key := b.cfg.rootFSPrefix() + from.digest
	if _, err := b.snapshots().Stat(ctx, key); err == nil {
		return key, nil
	} else if !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("looking for snapshot: %w", err)
	}
	// The work is shared, so it must not end because the first who asked went away.
	result := b.images.DoChan(key, func() (any, error) {
		return nil, b.unpack(b.ctx, key, from)
	})
	select {
	case done := <-result:
		return key, done.Err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (b *Backend) source(ctx context.Context, image garden.Image) (source, error) {
	if reference, ok := strings.CutPrefix(image.URI, dockerScheme); ok {
		return registrySource(ctx, reference, image)
	}
	path := image.URI
	if stack, ok := strings.CutPrefix(image.URI, preloadedScheme); ok {
		if path = b.cfg.RootFS[stack]; path == "" {
			return source{}, fmt.Errorf("%w: %q", errUnknownRootFS, stack)
		}
	}
	if !filepath.IsAbs(path) {
		return source{}, fmt.Errorf("%w: unknown form of image", garden.ErrInvalidSpec)
	}
	return localSource(path)
}

// localSource is a folder or a tarball. Its digest covers names, sizes, owners and times, not content: reading a
// gigabyte for each container would cost more than the rest of its creation.
func localSource(path string) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return source{}, fmt.Errorf("looking at image: %w", err)
	}
	if !info.IsDir() {
		sum := sha256.Sum256(fmt.Append(nil, describe(path, info)))
		return source{digest: hex.EncodeToString(sum[:]), open: func(context.Context) (io.ReadCloser, error) {
			file, err := os.Open(path) //nolint:gosec // the operator named it
			if err != nil {
				return nil, fmt.Errorf("opening image: %w", err)
			}
			return file, nil
		}}, nil
	}
	hash := sha256.New()
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("looking at %s: %w", name, err)
		}
		_, _ = io.WriteString(hash, describe(name, info))
		return nil
	})
	if err != nil {
		return source{}, fmt.Errorf("walking image: %w", err)
	}
	return source{digest: hex.EncodeToString(hash.Sum(nil)), open: func(ctx context.Context) (io.ReadCloser, error) {
		// The difference to nothing is everything.
		return archive.Diff(ctx, "", path), nil
	}}, nil
}

func describe(name string, info fs.FileInfo) string {
	owner := ""
	if stat, ok := info.Sys().(*unix.Stat_t); ok {
		owner = fmt.Sprint(stat.Uid, ":", stat.Gid, ":", stat.Ino)
	}
	return fmt.Sprintln(name, info.Mode(), info.Size(), info.ModTime().UnixNano(), owner)
}

// registrySource asks a registry which content a reference means; layers are fetched when they are unpacked.
func registrySource(ctx context.Context, reference string, image garden.Image) (source, error) {
	// Garden writes the tag behind '#', everybody else behind ':'.
	parsed, err := name.ParseReference(strings.TrimPrefix(strings.Replace(reference, "#", ":", 1), "/"))
	if err != nil {
		return source{}, fmt.Errorf("parsing reference: %w", err)
	}
	credentials := authn.Anonymous
	if image.Username != "" {
		credentials = authn.FromConfig(authn.AuthConfig{Username: image.Username, Password: image.Password})
	}
	found, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithAuth(credentials))
	if err != nil {
		return source{}, fmt.Errorf("asking the registry: %w", err)
	}
	digest, err := found.Digest()
	if err != nil {
		return source{}, fmt.Errorf("reading digest: %w", err)
	}
	return source{digest: digest.Hex, open: func(context.Context) (io.ReadCloser, error) { return mutate.Extract(found), nil }}, nil
}

// unpack fills a snapshot and commits it under its key. What is left of a failure has our label and no record, so that
// the next start removes it.
func (b *Backend) unpack(ctx context.Context, key string, from source) (err error) {
	working := b.cfg.tag() + "-unpack-" + rand.Text()
	labels := snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339), cellLabel: b.cfg.tag()})
	mounts, err := b.snapshots().Prepare(ctx, working, "", labels)
	if err != nil {
		return fmt.Errorf("preparing snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			cleanup, cancel := b.cleanup(ctx)
			defer cancel()
			err = errors.Join(err, b.removeSnapshot(cleanup, working))
		}
	}()
	if err := b.fill(ctx, mounts, from); err != nil {
		return err
	}
	if err := b.snapshots().Commit(ctx, key, working, labels); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("committing snapshot: %w", err)
	}
	return nil
}

func (b *Backend) fill(ctx context.Context, mounts []mount.Mount, from source) error {
	stream, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	plain, err := compression.DecompressStream(stream)
	if err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	defer func() { _ = plain.Close() }()
	err = mount.WithTempMount(ctx, mounts, func(root string) error {
		_, err := archive.Apply(ctx, root, plain)
		return err
	})
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	return nil
}

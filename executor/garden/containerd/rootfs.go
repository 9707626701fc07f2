package containerd

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// Images are kept as committed snapshots, one for each layer over its parent, so that images share what they have in
// common and containers share all of it. Owners are shifted while a layer is unpacked: the snapshots of unprivileged
// containers belong to their users, and those of privileged ones are others, made when one is wanted.

func (c *Config) rootFSPrefix() string { return c.tag() + "-rootfs-" }

// rootFS is an image ready for containers.
type rootFS struct {
	key    string // of the topmost snapshot
	bytes  uint64 // of all layers
	config imageConfig
	// release lets the collector have the layers, once something else holds them or nobody wants them any more.
	release func()
}

// rootFS unpacks what is new of an image. A layer is unpacked once, however many containers ask for it at the same time
// and whatever image it belongs to.
func (b *Backend) rootFS(ctx context.Context, wanted garden.Image, users UserRange) (rootFS, error) {
	found, err := b.unpackImage(ctx, wanted, users)
	if err != nil {
		return rootFS{}, &garden.RootFSError{URI: wanted.URI, Err: diskFull(err)}
	}
	return found, nil
}

func (b *Backend) unpackImage(ctx context.Context, wanted garden.Image, users UserRange) (_ rootFS, err error) {
	from, err := b.findImage(ctx, wanted)
	if err != nil {
		return rootFS{}, err
	}
	keys := b.cfg.layerKeys(from, users)
	release := b.layers.hold(keys, from.keep)
	defer func() {
		if err != nil {
			release()
		}
	}()
	ready := rootFS{config: from.config, release: release}
	for at, key := range keys {
		size, err := b.ensureLayer(ctx, unpacking{key: key, parent: ready.key, layer: from.layers[at], users: users})
		if err != nil {
			return rootFS{}, err
		}
		ready.key, ready.bytes = key, ready.bytes+size
	}
	return ready, nil
}

// layerKeys names the snapshots of an image: each name depends on the content of the layer and of all below it, and on whom
// the files belong to.
func (c *Config) layerKeys(from image, users UserRange) []string {
	owner := ""
	if users.Size > 0 {
		owner = "-u" + strconv.FormatUint(uint64(users.First), 10) + "." + strconv.FormatUint(uint64(users.Size), 10)
	}
	var keys []string
	for at, l := range from.layers {
		chain := l.digest
		if at > 0 {
			sum := sha256.Sum256([]byte(keys[at-1] + " " + l.digest))
			chain = hex.EncodeToString(sum[:])
		}
		keys = append(keys, c.rootFSPrefix()+chain+owner)
	}
	return keys
}

// unpacking is the work of making one snapshot.
type unpacking struct {
	key, parent string
	layer       layer
	users       UserRange
}

// ensureLayer makes a layer unless it is there, and returns its size.
func (b *Backend) ensureLayer(ctx context.Context, work unpacking) (uint64, error) {
	if size, ok := b.layers.size(work.key); ok {
		return size, nil
	}
	_, err := b.snapshots().Stat(ctx, work.key)
	if errdefs.IsNotFound(err) {
		err = b.makeLayer(ctx, work)
	}
	if err != nil {
		return 0, err
	}
	usage, err := b.snapshots().Usage(ctx, work.key)
	if err != nil {
		return 0, fmt.Errorf("measuring image: %w", err)
	}
	size := uint64(max(usage.Size, 0))
	b.layers.setSize(work.key, size)
	return size, nil
}

func (b *Backend) makeLayer(ctx context.Context, work unpacking) error {
	// The work is shared, so it must not end because the first who asked went away.
	result := b.images.DoChan(work.key, func() (any, error) {
		return nil, b.unpack(b.ctx, work)
	})
	select {
	case done := <-result:
		b.layers.due()
		return done.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unpack fills a snapshot and commits it under its key. What is left of a failure has our label and no record, so that
// the next start removes it.
func (b *Backend) unpack(ctx context.Context, work unpacking) (err error) {
	working := b.cfg.tag() + "-unpack-" + rand.Text()
	labels := snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339), cellLabel: b.cfg.tag()})
	mounts, err := b.snapshots().Prepare(ctx, working, work.parent, labels)
	if err != nil {
		return fmt.Errorf("preparing snapshot: %w", err)
	}
	defer func() {
		cleanup, cancel := b.cleanup(ctx)
		defer cancel()
		err = errors.Join(err, b.removeHelperMounts(working))
		if err != nil {
			err = errors.Join(err, b.removeSnapshot(cleanup, working))
		}
	}()
	if err := b.fill(ctx, working, mounts, work); err != nil {
		return err
	}
	if err := b.removeHelperMounts(working); err != nil {
		return err
	}
	if err := b.snapshots().Commit(ctx, work.key, working, labels); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("committing snapshot: %w", err)
	}
	return nil
}

func (b *Backend) fill(ctx context.Context, working string, mounts []mount.Mount, work unpacking) error {
	stream, err := work.layer.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	plain, err := compression.DecompressStream(stream)
	if err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	defer func() { _ = plain.Close() }()
	root, err := b.mountPoint(working, "root", true)
	if err != nil {
		return err
	}
	if err := mount.All(mounts, root); err != nil {
		return fmt.Errorf("mounting snapshot: %w", err)
	}
	sum := sha256.New()
	content := io.TeeReader(plain, sum)
	if err := work.users.apply(ctx, root, content); err != nil {
		return err
	}
	// What comes after the end of the archive belongs to the digests; that of the stream is compared by the stream.
	for _, rest := range []io.Reader{content, stream} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
	}
	if found := hex.EncodeToString(sum.Sum(nil)); work.layer.hashed && found != work.layer.digest {
		return fmt.Errorf("%w: layer %s unpacks to %s", garden.ErrImageDigest, work.layer.digest, found)
	}
	return nil
}

// apply unpacks a layer with its owners shifted into the range, on a thread that makes files for root of the range: folders
// that the archive does not name are made too.
func (r UserRange) apply(ctx context.Context, root string, archived io.Reader) error {
	owner := identity{name: "root", users: r}
	if r.Size > 0 {
		if err := os.Chown(root, int(r.First), int(r.First)); err != nil {
			return fmt.Errorf("giving the root folder to its users: %w", err)
		}
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its changed identity
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unsharing the root folder: %w", err)
			}
			unix.Umask(0o022)
			return owner.as(func() error {
				if _, err := archive.Apply(ctx, root, archived, archive.WithFilter(r.shift)); err != nil {
					return fmt.Errorf("unpacking: %w", err)
				}
				return nil
			})
		}()
	}()
	return <-result
}

// shift makes an entry of an archive belong to the range.
func (r UserRange) shift(header *tar.Header) (bool, error) {
	if header.Uid < 0 || header.Gid < 0 || header.Uid > math.MaxUint32 || header.Gid > math.MaxUint32 {
		return false, fmt.Errorf("%w: %s belongs to %d:%d", garden.ErrInvalidSpec, header.Name, header.Uid, header.Gid)
	}
	header.Uid, header.Gid = int(r.host(uint32(header.Uid))), int(r.host(uint32(header.Gid)))
	return true, nil
}

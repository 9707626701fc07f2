package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/logs"
	"diego.internal/executor/step"
	"diego.internal/executor/transfer"
)

var errDepotFull = errors.New("no room for unpacked dependencies")

// depot keeps the unpacked dependencies of containers on the host, one folder per container, within one bound.
type depot struct {
	dir       string
	limit     int64
	transfers *transfer.Client

	mu   sync.Mutex
	used map[string]int64 // by handle
	sum  int64
}

// newDepot finds what an earlier process left and removes the folders of containers that are gone.
func newDepot(dir string, limit int64, transfers *transfer.Client, keep map[string]bool) (*depot, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // users of containers pass through it
		return nil, fmt.Errorf("making depot: %w", err)
	}
	d := &depot{dir: dir, limit: limit, transfers: transfers, used: make(map[string]int64)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing depot: %w", err)
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("emptying depot: %w", err)
			}
			continue
		}
		size, err := sizeOf(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		d.used[e.Name()], d.sum = size, d.sum+size
	}
	return d, nil
}

func sizeOf(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measuring %q: %w", dir, err)
	}
	return sum, nil
}

// fetch downloads and unpacks all dependencies side by side and returns them as read-only mounts. Whatever it made goes
// with release.
func (d *depot) fetch(ctx context.Context, handle string, dependencies []container.CachedDependency, log step.Log) ([]garden.BindMount, error) {
	mounts := make([]garden.BindMount, len(dependencies))
	group, ctx := errgroup.WithContext(ctx)
	for i, dependency := range dependencies {
		dir := filepath.Join(d.dir, handle, strconv.Itoa(i))
		mounts[i] = garden.BindMount{SrcPath: dir, DstPath: dependency.To, ReadOnly: true}
		group.Go(func() error { return d.fetchOne(ctx, handle, dir, dependency, log) })
	}
	return mounts, group.Wait()
}

func (d *depot) fetchOne(ctx context.Context, handle, dir string, dependency container.CachedDependency, log step.Log) (err error) {
	tell := func(stream logs.Stream, message string) {
		if dependency.Name != "" {
			log.Emit(dependency.LogSource, stream, message)
		}
	}
	tell(logs.Out, "Downloading "+dependency.Name+"...")
	defer func() {
		if err != nil && ctx.Err() == nil {
			tell(logs.Err, "Downloading "+dependency.Name+" failed")
		}
	}()
	archive, err := d.transfers.Download(ctx, transfer.Source{
		URL:               dependency.From,
		ChecksumAlgorithm: dependency.ChecksumAlgorithm,
		ChecksumValue:     dependency.ChecksumValue,
	})
	if err != nil {
		return fmt.Errorf("dependency %q: %w", dependency.Name, err)
	}
	defer func() { err = errors.Join(err, archive.Remove()) }()
	if err := d.unpack(handle, dir, archive); err != nil {
		return fmt.Errorf("dependency %q: %w", dependency.Name, err)
	}
	tell(logs.Out, fmt.Sprintf("Downloaded %s (%s)", dependency.Name, step.Bytes(archive.Size)))
	return nil
}

func (d *depot) unpack(handle, dir string, archive *transfer.Archive) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // read by users of containers
		return fmt.Errorf("making folder: %w", err)
	}
	stream, err := archive.Tar()
	if err != nil {
		return err
	}
	_, err = transfer.Extract(dir, stream, func(bytes int64) error { return d.reserve(handle, bytes) })
	return errors.Join(err, stream.Close())
}

func (d *depot) reserve(handle string, bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if bytes < 0 || d.sum+bytes > d.limit {
		return fmt.Errorf("%d of %d bytes taken, %d more wanted: %w", d.sum, d.limit, bytes, errDepotFull)
	}
	d.used[handle] += bytes
	d.sum += bytes
	return nil
}

// release removes what a container had. It may be repeated.
func (d *depot) release(handle string) error {
	if err := os.RemoveAll(filepath.Join(d.dir, handle)); err != nil {
		return fmt.Errorf("failed to cleanup bindmount artifacts: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum -= d.used[handle]
	delete(d.used, handle)
	return nil
}

package executor

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor/cache"
	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/logs"
	"diego.internal/executor/step"
	"diego.internal/executor/transfer"
)

// transfers is what steps fetch and send through.
type transfers struct {
	*cache.Cache
	*transfer.Client
}

var _ step.Transfers = transfers{}

// openCache takes up the cache of an earlier process; the containers of keep still use what they used.
func (c *Client) openCache(keep map[string]bool) (*cache.Cache, error) {
	opened, err := cache.Open(cache.Config{
		Dir:       filepath.Join(c.cfg.StateDir, "dependencies"),
		Limit:     c.cfg.CacheSizeBytes,
		Transfers: c.transfers,
		Memory:    c.cfg.Ephemeral,
		Log:       c.log,
	}, keep)
	if err != nil {
		return nil, fmt.Errorf("opening the cache of downloads: %w", err)
	}
	return opened, nil
}

// fetchDependencies gets all dependencies side by side and returns them as read-only mounts of folders that containers
// share. The container has them until the cache is told to release them.
func (c *Client) fetchDependencies(ctx context.Context, handle string, dependencies []container.CachedDependency, log step.Log) ([]garden.BindMount, error) {
	mounts := make([]garden.BindMount, len(dependencies))
	group, ctx := errgroup.WithContext(ctx)
	for i, dependency := range dependencies {
		group.Go(func() error {
			path, err := c.fetchDependency(ctx, handle, dependency, log)
			if err != nil {
				return fmt.Errorf("dependency %q: %w", dependency.Name, err)
			}
			mounts[i] = garden.BindMount{SrcPath: path, DstPath: dependency.To, ReadOnly: true}
			return nil
		})
	}
	return mounts, group.Wait()
}

func (c *Client) fetchDependency(ctx context.Context, handle string, dependency container.CachedDependency, log step.Log) (string, error) {
	tell := func(stream logs.Stream, message string) {
		if dependency.Name != "" {
			log.Emit(dependency.LogSource, stream, message)
		}
	}
	tell(logs.Out, "Downloading "+dependency.Name+"...")
	folder, err := c.cache.Folder(ctx, handle, dependency.CacheKey, transfer.Source{
		URL:               dependency.From,
		ChecksumAlgorithm: dependency.ChecksumAlgorithm,
		ChecksumValue:     dependency.ChecksumValue,
	})
	if err != nil {
		if ctx.Err() == nil {
			tell(logs.Err, "Downloading "+dependency.Name+" failed")
		}
		return "", err
	}
	tell(logs.Out, step.Downloaded(dependency.Name, folder.Size))
	return folder.Path, nil
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"diego.internal/executor/garden/containerd/network"
)

// start compares the records with what runs: a container that was created and whose init lives is taken up, all else
// of this cell is removed. What cannot be removed now stays listed as half-created.
func (b *Backend) start(ctx context.Context) error {
	if err := b.removeAllHelperMounts(); err != nil {
		return err
	}
	// They were not flushed to the disk: a crash of the machine may have left their names and not their content.
	if err := os.RemoveAll(b.cfg.templatesFolder()); err != nil {
		return fmt.Errorf("removing formatted disks: %w", err)
	}
	if err := errors.Join(b.prepareUsers(ctx), b.prepareDisks(ctx)); err != nil {
		return err
	}
	running, err := b.runningTasks(ctx)
	if err != nil {
		return engineError(err)
	}
	records, err := b.cfg.loadRecords()
	if err != nil {
		return err
	}
	var keep []network.Attachment
	for _, r := range records {
		c := b.newContainer(r)
		b.containers[c.handle] = c
		if b.network.Pool().Adopt(r.Lease) != nil {
			// The lease is cut off, or somebody else's since the pool was changed: nothing of it may be given back.
			// Its interface goes with Restore below.
			r.Lease, r.Phase = network.Lease{}, phaseDestroying
		}
		if r.Phase == phaseCreated && running[r.ID] == r.Pid {
			keep = append(keep, r.attachment())
			continue
		}
		r.Phase = phaseDestroying
	}
	if err := b.network.Restore(keep); err != nil {
		return fmt.Errorf("restoring network: %w", err)
	}
	b.destroyLeftovers(ctx)
	if err := b.removeStrangers(ctx); err != nil {
		return err
	}
	b.wait.Go(b.collect)
	b.layers.due()
	if b.disks {
		b.wait.Go(b.watchDisks)
	}
	return nil
}

// runningTasks are the tasks of the namespace that run, with the process ids of their inits.
func (b *Backend) runningTasks(ctx context.Context) (map[string]int, error) {
	response, err := b.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing tasks: %w", errgrpc.ToNative(err))
	}
	running := map[string]int{}
	for _, task := range response.GetTasks() {
		if task.GetStatus() == tasktypes.Status_RUNNING {
			running[task.GetID()] = int(task.GetPid())
		}
	}
	return running, nil
}

// destroyLeftovers removes containers that are not whole.
func (b *Backend) destroyLeftovers(ctx context.Context) {
	for _, c := range b.all() {
		if c.phase() == phaseCreated {
			continue
		}
		err := b.destroyOnce(ctx, c)
		if err == nil {
			err = b.destroyLate(ctx, c.id)
		}
		if err != nil {
			b.cfg.Log.WarnContext(ctx, "leftover-container-remains", "handle", c.handle, "error", err)
		}
	}
}

// destroyLate removes what a creation that was still under way while it was destroyed has made since. On a machine that is
// far too busy containerd gives up a shim that does not answer it for ten seconds, and forgets it: that one ends by our hand.
func (b *Backend) destroyLate(ctx context.Context, id string) error {
	if err := settle(ctx, id); err != nil {
		if ctx.Err() != nil {
			return err
		}
		b.cfg.Log.WarnContext(ctx, "forgotten-shim-killed", "container", id)
		if err := errors.Join(killShims(id), settle(ctx, id)); err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		// containerd needs a moment to see that a shim is gone.
		err := b.destroyTask(ctx, id)
		if err == nil || try == deleteTries || !pause(ctx, askAgain) {
			return err
		}
	}
}

// removeStrangers removes what carries the cell's label but has no record.
func (b *Backend) removeStrangers(ctx context.Context) error {
	known := map[string]bool{}
	for _, c := range b.all() {
		known[c.id] = true
	}
	filter := fmt.Sprintf("labels.%q==%q", cellLabel, b.cfg.tag())
	found, err := b.client.ContainerService().List(ctx, filter)
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	var errs []error
	for _, container := range found {
		if known[container.ID] {
			continue
		}
		errs = append(errs, b.destroyTask(ctx, container.ID))
		if err := b.client.ContainerService().Delete(ctx, container.ID); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting container %s: %w", container.ID, err))
		}
	}
	errs = append(errs, b.removeSnapshots(ctx, func(key string) bool {
		return !known[key] && !strings.HasPrefix(key, b.cfg.rootFSPrefix())
	}))
	return errors.Join(errs...)
}

// removeSnapshots removes those of this cell that the caller does not want; a parent is removed after its children.
func (b *Backend) removeSnapshots(ctx context.Context, unwanted func(key string) bool) error {
	keys, err := b.snapshotKeys(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, key := range keys {
		if unwanted(key) {
			errs = append(errs, b.removeSnapshot(ctx, key))
		}
	}
	return errors.Join(errs...)
}

// snapshotKeys are the snapshots of this cell, children before their parents.
func (b *Backend) snapshotKeys(ctx context.Context) ([]string, error) {
	parents := map[string]string{}
	err := b.snapshots().Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		parents[info.Name] = info.Parent
		return nil
	}, fmt.Sprintf("labels.%q==%q", cellLabel, b.cfg.tag()))
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	depth := func(key string) (n int) {
		for ; key != ""; key = parents[key] {
			n++
		}
		return n
	}
	return slices.SortedFunc(maps.Keys(parents), func(x, y string) int { return depth(y) - depth(x) }), nil
}

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// Destroy removes run-time, network, snapshot and files, in this order. The record goes last, so that a failure in the
// middle leaves a container that is listed as half-created and can be destroyed again.
func (b *Backend) Destroy(ctx context.Context, handle string) error {
	c := b.find(handle)
	if c == nil {
		return fmt.Errorf("destroying container %q: %w", handle, garden.ErrUnknownHandle)
	}
	if err := b.destroyOnce(b.within(ctx), c); err != nil {
		return fmt.Errorf("destroying container %q: %w", handle, engineError(err))
	}
	return nil
}

// destroyOnce marks the container before it waits for a Create or another Destroy of it, so that these give up early.
func (b *Backend) destroyOnce(ctx context.Context, c *container) error {
	if err := c.condemn(); err != nil {
		return err
	}
	c.life.Lock()
	defer c.life.Unlock()
	return b.destroyLocked(ctx, c)
}

// destroy is for the creator of the container, who no longer holds its lock.
func (b *Backend) destroy(ctx context.Context, c *container) error { return b.destroyOnce(ctx, c) }

func (b *Backend) destroyLocked(ctx context.Context, c *container) error {
	if b.find(c.handle) != c {
		return nil // the one before us did it
	}
	if err := b.destroyTask(ctx, c.id); err != nil {
		return err
	}
	c.ended()
	c.letGo()
	if err := b.client.ContainerService().Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("deleting container: %w", err)
	}
	if c.record.Lease.Container.IsValid() {
		if err := b.network.Detach(c.handle, c.record.Lease); err != nil {
			return fmt.Errorf("detaching network: %w", err)
		}
	}
	if err := b.removeSnapshot(ctx, c.id); err != nil {
		return err
	}
	if err := b.removeHelperMounts(c.id); err != nil {
		return err
	}
	if err := os.RemoveAll(c.folder); err != nil {
		return fmt.Errorf("removing state: %w", err)
	}
	b.network.Pool().Release(c.record.Lease)
	b.forget(c)
	return nil
}

// destroyTask kills the init, and with it everything in its process namespace, waits for its end and deletes the shim.
func (b *Backend) destroyTask(ctx context.Context, id string) error {
	service := b.client.TaskService()
	_, err := service.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	if err != nil && !gone(err) {
		return fmt.Errorf("killing task: %w", errgrpc.ToNative(err))
	}
	// An init that the kernel cannot end, for instance because of a dead disk, is named after two minutes.
	wait, cancel := context.WithTimeoutCause(ctx, cleanupTimeout, fmt.Errorf("init of %s does not end", id))
	defer cancel()
	if _, err := service.Wait(wait, &tasks.WaitRequest{ContainerID: id}); err != nil && !gone(err) {
		return fmt.Errorf("waiting for the end of task: %w", errors.Join(errgrpc.ToNative(err), context.Cause(wait)))
	}
	if _, err := service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id}); err != nil && !gone(err) {
		return fmt.Errorf("deleting task: %w", errgrpc.ToNative(err))
	}
	// A creation that was cut off with its client may have left what the shim would have removed.
	if err := os.RemoveAll(filepath.Join(b.cfg.runcFolder(), b.cfg.Namespace, id)); err != nil {
		return fmt.Errorf("removing runtime state: %w", err)
	}
	if err := machineCgroups().remove(filepath.Join(b.cfg.cgroupParent(), id)); err != nil {
		return err
	}
	return unmountRoot(id)
}

// unmountRoot detaches the root file system of a container that its shim left mounted.
func unmountRoot(id string) error {
	mounts, err := containerMounts(func(other string) bool { return other == id })
	if err != nil {
		return err
	}
	for _, path := range mounts {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
	return nil
}

// containerMounts are the root file systems of containers, chosen by id, in the machine's namespace. Their paths are the
// daemon's affair, but for the id, which is the last but one part.
func containerMounts(wanted func(id string) bool) ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		folder, name := filepath.Split(info.Mountpoint)
		return name != "rootfs" || !wanted(filepath.Base(folder)), false
	})
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	var paths []string
	for _, mount := range mounts {
		paths = append(paths, mount.Mountpoint)
	}
	return paths, nil
}

// gone tells that the task or process does not exist, or no longer runs, which is what the caller wanted.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsNotFound(errgrpc.ToNative(err))
}

func (b *Backend) removeSnapshot(ctx context.Context, key string) error {
	if err := b.snapshots().Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing snapshot: %w", err)
	}
	return nil
}

func (b *Backend) snapshots() snapshots.Snapshotter {
	return b.client.SnapshotService(b.cfg.Snapshotter)
}

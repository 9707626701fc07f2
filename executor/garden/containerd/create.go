package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sync/errgroup"

	"diego.internal/executor/garden"
)

// creationsPerCore bounds how many containers are made at a time. A creation is mostly processor time, of runc above all: more of
// them at once are no sooner done, and the first ones wait for the last. Images are fetched and unpacked beside that.
const creationsPerCore = 2

// runtimeName is containerd's shim for runc.
const runtimeName = "io.containerd.runc.v2"

// Create makes a container in about the time that containerd itself needs: what does not depend on each other runs at
// the same time, and the metadata services are called directly, without the look-ups of containerd's object client.
func (b *Backend) Create(ctx context.Context, spec garden.ContainerSpec) (garden.Container, error) {
	c, err := b.create(b.within(ctx), spec)
	if err != nil {
		return nil, fmt.Errorf("creating container %q: %w", spec.Handle, engineError(err))
	}
	return c, nil
}

func (b *Backend) create(ctx context.Context, spec garden.ContainerSpec) (*container, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := b.checkSpace(); err != nil {
		return nil, err
	}
	c, err := b.reserve(spec)
	if err != nil {
		return nil, err
	}
	if err := b.build(ctx, c, spec); err != nil {
		cleanup, cancel := b.cleanup(ctx)
		defer cancel()
		if undoErr := b.destroy(cleanup, c); undoErr != nil {
			// It stays listed as half-created, so that it can be destroyed later.
			return nil, errors.Join(err, fmt.Errorf("undoing: %w", undoErr))
		}
		return nil, err
	}
	return c, nil
}

// reserve takes handle, address and ports and writes the record that will find everything else after a crash.
func (b *Backend) reserve(spec garden.ContainerSpec) (*container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.containers[spec.Handle] != nil {
		return nil, garden.ErrHandleInUse
	}
	if len(b.containers) >= b.cfg.MaxContainers {
		return nil, garden.ErrMaxContainers
	}
	lease, err := b.network.Pool().Take(spec.NetIn)
	if err != nil {
		return nil, fmt.Errorf("leasing an address: %w", err)
	}
	properties := maps.Clone(spec.Properties)
	if properties == nil {
		properties = garden.Properties{}
	}
	c := b.newContainer(&record{
		Handle:     spec.Handle,
		ID:         b.cfg.containerID(spec.Handle),
		Phase:      phaseCreating,
		Privileged: spec.Privileged,
		Env:        spec.Env,
		Limits:     spec.Limits,
		Properties: properties,
		NetOut:     spec.NetOut,
		Lease:      lease,
		CreatedAt:  time.Now().UTC(),
		Users:      b.usersFor(spec),
		Spawns:     true,
	})
	err = os.MkdirAll(filepath.Join(c.folder, processesFolder), 0o711) //nolint:gosec // bind mounts are looked up below
	if err == nil {
		err = b.cfg.save(c.record)
	}
	if err != nil {
		b.network.Pool().Release(lease)
		return nil, errors.Join(fmt.Errorf("writing record: %w", err), os.RemoveAll(c.folder))
	}
	b.containers[spec.Handle] = c
	return c, nil
}

// usersFor is the range of users of a new container.
func (b *Backend) usersFor(spec garden.ContainerSpec) UserRange {
	if spec.Privileged {
		return UserRange{}
	}
	return b.users.users
}

func (b *Backend) build(ctx context.Context, c *container, spec garden.ContainerSpec) error {
	// Two Creates never work on one container, but a Destroy may come at any time and must find all that was made.
	c.life.Lock()
	defer c.life.Unlock()
	rootfs, err := b.rootFS(ctx, spec.Image, c.record.Users)
	if err != nil {
		return err
	}
	defer rootfs.release()
	if err := b.slots.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting for other creations: %w", context.Cause(ctx))
	}
	defer b.slots.Release(1)
	c.describe(rootfs)
	var mounts []mount.Mount
	var disk mountedDisk
	// Every way out of here ends with the helpers gone: the container has what it needs of them, or is being destroyed.
	defer func() {
		if err := b.removeHelperMounts(c.id); err != nil {
			b.cfg.Log.WarnContext(ctx, "helper-mounts-remain", "handle", c.handle, "error", err)
		}
	}()
	parallel, both := errgroup.WithContext(ctx)
	parallel.Go(func() error {
		var err error
		mounts, err = b.snapshots().Prepare(both, c.id, rootfs.key,
			snapshots.WithLabels(map[string]string{gcRoot: c.record.CreatedAt.Format(time.RFC3339), cellLabel: b.cfg.tag()}))
		if errdefs.IsNotFound(err) {
			b.layers.forget() // the next creation finds out what is still there
		}
		if err != nil {
			return fmt.Errorf("preparing snapshot: %w", err)
		}
		return nil
	})
	parallel.Go(func() error { return b.register(both, c, spec) })
	if b.disks && spec.Limits.DiskInBytes > 0 {
		parallel.Go(func() error {
			var err error
			disk, err = b.makeDisk(both, c)
			return err
		})
	}
	if err := parallel.Wait(); err != nil {
		return diskFull(err)
	}
	if disk.base > 0 {
		c.setDiskBase(disk.base)
		if mounts, err = overlayOn(mounts, disk); err != nil {
			return err
		}
	}
	if c.phase() != phaseCreating {
		return garden.ErrBeingDestroyed
	}
	return b.launch(ctx, c, mounts)
}

// describe notes in the record, which is saved when the container is whole, what the image says.
func (c *container) describe(rootfs rootFS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.Image, c.record.ImageBytes = rootfs.config, rootfs.bytes
}

func (c *container) setDiskBase(bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.DiskBase = bytes
}

// makeDisk makes the disk of a container with a limit and mounts it for the time of the creation.
func (b *Backend) makeDisk(ctx context.Context, c *container) (mountedDisk, error) {
	limit, err := c.record.writable()
	if err != nil {
		return mountedDisk{}, err
	}
	owner := c.record.Users.host(0)
	image := b.cfg.diskImage(c.id)
	if err := b.formatDisk(ctx, image, limit, owner); err != nil {
		return mountedDisk{}, err
	}
	return b.mountDisk(c.id, image, owner)
}

// register writes the generated files and containerd's record with the specification.
func (b *Backend) register(ctx context.Context, c *container, spec garden.ContainerSpec) error {
	if err := b.writeNetFiles(c); err != nil {
		return err
	}
	oci, err := b.ociSpec(ctx, c, spec)
	if err != nil {
		return fmt.Errorf("generating specification: %w", err)
	}
	encoded, err := typeurl.MarshalAny(oci)
	if err != nil {
		return fmt.Errorf("encoding specification: %w", err)
	}
	_, err = b.client.ContainerService().Create(ctx, containers.Container{
		ID:          c.id,
		Labels:      b.cfg.labels(),
		Runtime:     containers.RuntimeInfo{Name: runtimeName},
		Spec:        encoded,
		Snapshotter: b.cfg.Snapshotter,
		SnapshotKey: c.id,
	})
	if err != nil {
		return fmt.Errorf("registering with containerd: %w", err)
	}
	return nil
}

// launch makes the namespaces, then starts the init and connects the network at the same time: the init needs none.
func (b *Backend) launch(ctx context.Context, c *container, mounts []mount.Mount) error {
	// No keyrings: the kernel lets a user have 200 keys, and every container and process would take one.
	runc, err := typeurl.MarshalAnyToProto(&options.Options{Root: b.cfg.runcFolder(), NoNewKeyring: true})
	if err != nil {
		return fmt.Errorf("encoding runtime options: %w", err)
	}
	keeper := b.cfg.logger("keep", c.folder)
	request := &tasks.CreateTaskRequest{ContainerID: c.id, Options: runc, Stdout: keeper, Stderr: keeper}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	created, err := b.client.TaskService().Create(ctx, request)
	if err != nil {
		return fmt.Errorf("creating task: %w", errgrpc.ToNative(err))
	}
	parallel, both := errgroup.WithContext(ctx)
	parallel.Go(func() error {
		if _, err := b.client.TaskService().Start(both, &tasks.StartRequest{ContainerID: c.id}); err != nil {
			return fmt.Errorf("starting init: %w", errgrpc.ToNative(err))
		}
		return nil
	})
	parallel.Go(func() error {
		if err := b.network.Attach(both, c.record.attachment(), int(created.GetPid())); err != nil {
			return fmt.Errorf("attaching network: %w", err)
		}
		return nil
	})
	if err := parallel.Wait(); err != nil {
		return err
	}
	return c.update(func(r *record) error {
		if r.Phase != phaseCreating {
			return garden.ErrBeingDestroyed
		}
		r.Phase, r.Pid = phaseCreated, int(created.GetPid())
		return nil
	})
}

// hostnameLength is how much of a handle, counted from its end, is the hostname.
const hostnameLength = 49

func hostname(handle string) string { return handle[max(0, len(handle)-hostnameLength):] }

// writeNetFiles generates /etc/hosts and /etc/resolv.conf, which are bind mounted.
func (b *Backend) writeNetFiles(c *container) error {
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", c.record.Lease.Container, hostname(c.handle))
	var resolv strings.Builder
	for _, server := range b.cfg.DNSServers {
		_, _ = fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	owner := int(c.record.Users.host(0))
	for name, content := range map[string]string{"hosts": hosts, "resolv.conf": resolv.String()} {
		path := filepath.Join(c.folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		// Every user of the container reads it, whatever our umask, and its root may change it.
		if err := errors.Join(os.Chmod(path, 0o644), os.Chown(path, owner, owner)); err != nil { //nolint:gosec // see above
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Demand says what becomes of a cell whose machine refuses something that containers should have.
type Demand string

// The demands.
const (
	// DemandRequired lets New fail with what the machine refused.
	DemandRequired Demand = "required"
	// DemandPreferred goes on without; the restriction is logged and told in garden.Capacity.
	DemandPreferred Demand = "preferred"
	// DemandOff does not try.
	DemandOff Demand = "off"
)

// UserRange maps users and groups 0 to Size-1 of a container to First and up on the machine. The zero value maps nothing:
// numbers mean the same on both sides.
type UserRange struct {
	First uint32 `yaml:"first" json:"first"`
	Size  uint32 `yaml:"size" json:"size"`
}

// host is the number on the machine of a user or group of a container. One beyond the range becomes the last of it.
func (r UserRange) host(id uint32) uint32 {
	if r.Size == 0 {
		return id
	}
	return r.First + min(id, r.Size-1)
}

// inside is the opposite; what is not in the range is nobody in the container.
func (r UserRange) inside(id uint32) uint32 {
	const nobody = 65534
	switch {
	case r.Size == 0:
		return id
	case id < r.First || id-r.First >= r.Size:
		return nobody
	}
	return id - r.First
}

func (r UserRange) validate() error {
	const last = 1<<31 - 1 // programs that keep users in signed numbers are not rare
	if r.First == 0 || r.Size < 65536 || uint64(r.First)+uint64(r.Size)-1 > last {
		return fmt.Errorf("user_range: want first above 0, size at least 65536 and no number above %d, have %d and %d", last, r.First, r.Size)
	}
	return nil
}

// userNamespaces is what is needed to confine unprivileged containers to users of their own.
type userNamespaces struct {
	users UserRange // of new containers; zero: none
	// mapping is a namespace with that range, for mounts that shift owners; nil: none.
	mapping *os.File
}

// prepareUsers finds out whether the machine lets containers have user namespaces, and what they need in them.
func (b *Backend) prepareUsers(ctx context.Context) error {
	if b.cfg.UserNamespaces == DemandOff {
		b.restrict(ctx, "user-namespaces-off", "root in containers is root of the machine: user_namespaces is off", nil)
		return nil
	}
	err := b.cfg.probeUsers(ctx)
	if err == nil {
		ids := fmt.Sprintf("0:%d:%d", b.cfg.UserRange.First, b.cfg.UserRange.Size)
		b.users.mapping, err = mount.GetUsernsFD(ids, ids)
	}
	if err == nil {
		b.users.users = b.cfg.UserRange
		return nil
	}
	if b.cfg.UserNamespaces == DemandRequired {
		return fmt.Errorf("the machine refuses user namespaces (user_namespaces: %s goes on without): %w", DemandPreferred, err)
	}
	b.restrict(ctx, "user-namespaces-refused", "root in containers is root of the machine: user namespaces are refused: "+err.Error(), err)
	return nil
}

// restrict notes what the cell has to do without.
func (b *Backend) restrict(ctx context.Context, event, sentence string, err error) {
	b.restrictions = append(b.restrictions, sentence)
	b.cfg.Log.WarnContext(ctx, "engine-restricted", "restriction", event, "error", err)
}

// probeUsers starts the init in namespaces like those of a container and lets it mount what runc will mount there: a
// machine may allow the namespace and refuse the rest.
func (c *Config) probeUsers(ctx context.Context) error {
	ids := []syscall.SysProcIDMap{{HostID: int(c.UserRange.First), Size: int(c.UserRange.Size)}}
	// By its descriptor: the path may lead through folders that are closed to the users of containers.
	binary, err := os.Open(c.InitBinary)
	if err != nil {
		return fmt.Errorf("opening the init: %w", err)
	}
	defer func() { _ = binary.Close() }()
	var said bytes.Buffer
	probe := exec.CommandContext(ctx, "/proc/self/fd/3", "probe")
	probe.ExtraFiles = []*os.File{binary}
	probe.Stderr = &said
	probe.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		// Groups too: processes of a container have supplementary ones.
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, // root of the namespace
	}
	if err := probe.Start(); err != nil {
		return fmt.Errorf("starting a process with users %d to %d in new namespaces (see user.max_user_namespaces): %w",
			c.UserRange.First, c.UserRange.host(c.UserRange.Size), err)
	}
	if err := probe.Wait(); err != nil {
		return fmt.Errorf("trying a user namespace: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

func (b *Backend) closeUsers() error {
	if b.users.mapping == nil {
		return nil
	}
	return b.users.mapping.Close()
}

// withUsers gives a container a user namespace.
func withUsers(users UserRange) oci.SpecOpts {
	if users.Size == 0 {
		return func(context.Context, oci.Client, *containers.Container, *oci.Spec) error { return nil }
	}
	ids := []specs.LinuxIDMapping{{HostID: users.First, Size: users.Size}}
	return oci.WithUserNamespace(ids, ids)
}

// shiftMount shows source at target with owners shifted into the users of unprivileged containers, so that what root of
// the machine owns is owned by root of the container. It returns false for a file system that cannot do that.
func (b *Backend) shiftMount(source, target string, attributes uint64) (bool, error) {
	err := mount.IDMapMountWithAttrs(source, target, int(b.users.mapping.Fd()), attributes, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mapping owners of %s: %w", source, err)
	}
	return true, nil
}

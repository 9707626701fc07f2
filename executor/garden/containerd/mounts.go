package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// A container is made with the help of mounts in the machine's own namespace: its disk, and its bind mounts with owners
// shifted. The container has copies of its own from the moment it exists, so that they are there for the time of a
// creation only. Their folder is never removed with what is in it: that might be a folder of somebody else.

func (c *Config) mountsFolder() string { return filepath.Join(c.StateFolder, "mounts") }

// helperMounts is the folder of one container, or of one image that is being unpacked.
func (c *Config) helperMounts(id string) string { return filepath.Join(c.mountsFolder(), id) }

// bindMounts are the bind mounts of a container as runc is to make them.
func (b *Backend) bindMounts(c *container, binds []garden.BindMount) ([]specs.Mount, error) {
	var mounts []specs.Mount
	for at, m := range binds {
		if c.record.Users.Size == 0 {
			mounts = append(mounts, bind(m.SrcPath, m.DstPath, m.ReadOnly))
			continue
		}
		source, err := b.shifted(c, strconv.Itoa(at), m)
		if err != nil {
			return nil, fmt.Errorf("preparing the mount at %s: %w", m.DstPath, err)
		}
		// Neither means anything to processes that cannot gain rights; said here so that runc keeps them.
		shown := bind(source, m.DstPath, m.ReadOnly)
		shown.Options = append(shown.Options, "nosuid", "nodev")
		mounts = append(mounts, shown)
	}
	return mounts, nil
}

// shifted is a path that shows the source of a bind mount with owners shifted, or the source itself where the file system
// cannot do that (some networked ones): its files are then what their modes allow to everybody.
func (b *Backend) shifted(c *container, name string, m garden.BindMount) (string, error) {
	source, err := filepath.EvalSymlinks(m.SrcPath)
	if err != nil {
		return "", fmt.Errorf("looking for the source: %w", err)
	}
	info, err := os.Stat(source)
	if err != nil {
		return "", fmt.Errorf("looking at the source: %w", err)
	}
	target, err := b.mountPoint(c.id, name, info.IsDir())
	if err != nil {
		return "", err
	}
	attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if m.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	mapped, err := b.shiftMount(source, target, attributes)
	if err != nil {
		return "", err
	}
	if !mapped {
		b.cfg.Log.Debug("bind-mount-not-shifted", "handle", c.handle, "path", m.DstPath)
		return source, nil
	}
	return target, nil
}

func (b *Backend) mountPoint(id, name string, folder bool) (string, error) {
	path := filepath.Join(b.cfg.helperMounts(id), name)
	parent := path
	if !folder {
		parent = filepath.Dir(path)
	}
	err := os.MkdirAll(parent, 0o711) //nolint:gosec // looked up by users of containers
	if err == nil && !folder {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("making mount point: %w", err)
	}
	return path, nil
}

// removeHelperMounts takes away what a creation needed. What uses the mounts by now keeps them.
func (b *Backend) removeHelperMounts(id string) error {
	folder := b.cfg.helperMounts(id)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		for {
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) {
				break // nothing is mounted there, or no longer
			}
			if err != nil {
				return fmt.Errorf("unmounting %s: %w", path, err)
			}
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing mount point: %w", err)
		}
	}
	if err := os.Remove(folder); err != nil {
		return fmt.Errorf("removing mount points: %w", err)
	}
	return nil
}

// removeAllHelperMounts is for a start: nothing is under creation then.
func (b *Backend) removeAllHelperMounts() error {
	entries, err := os.ReadDir(b.cfg.mountsFolder())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listing mounts: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, b.removeHelperMounts(entry.Name()))
	}
	return errors.Join(errs...)
}

// helperLeftovers names mounts that should not be there when nothing is under creation, and loop devices that hold disks
// of no container.
func (c *Config) helperLeftovers() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(c.mountsFolder()))
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	var found []string
	for _, m := range mounts {
		found = append(found, "mount "+m.Mountpoint)
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("listing loop devices: %w", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // a file of the kernel
		if err == nil && strings.HasPrefix(string(content), c.containersFolder()+"/") {
			found = append(found, "loop device of "+strings.TrimSpace(string(content)))
		}
	}
	return found, nil
}

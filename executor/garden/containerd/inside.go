package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// inside runs fn on a thread that has joined the container's mount namespace. Paths then mean what they mean for the
// container's processes, and no symbolic link or race of theirs can lead out of it: the thread has no other files.
// fn must do its file work itself, not in other goroutines.
func (c *container) inside(fn func() error) error {
	root, err := c.openRoot()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	namespace, err := os.Open(filepath.Join("/proc", strconv.Itoa(c.pid()), "ns/mnt"))
	if err != nil {
		return fmt.Errorf("opening mount namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }()
	if !c.owns(c.pid()) {
		return fmt.Errorf("entering container %q: its init has ended", c.handle)
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread has left the machine's file systems for good and ends with this goroutine.
		runtime.LockOSThread()
		result <- enter(namespace, func() error { return c.root().as(fn) })
	}()
	return <-result
}

func enter(namespace *os.File, fn func() error) error {
	// The root and working folder are shared between threads until they are asked not to be.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unsharing the root folder: %w", err)
	}
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering mount namespace: %w", err)
	}
	unix.Umask(0o022) // of this thread only, since it unshared
	return fn()
}

// as makes the files that the present thread opens and makes those of a user, with his rights. It is for use on a thread
// that ends afterwards. Root of a container may do in its files what root may.
func (i identity) as(fn func() error) error {
	groups := make([]int, 0, len(i.groups))
	for _, group := range i.groups {
		groups = append(groups, int(i.users.host(group)))
	}
	if err := unix.Setgroups(groups); err != nil {
		return fmt.Errorf("taking groups of %s: %w", i.name, err)
	}
	if err := unix.Setfsgid(int(i.users.host(i.gid))); err != nil {
		return fmt.Errorf("taking group of %s: %w", i.name, err)
	}
	if err := unix.Setfsuid(int(i.users.host(i.uid))); err != nil {
		return fmt.Errorf("becoming %s: %w", i.name, err)
	}
	if err := overridePermissions(i.uid == 0); err != nil {
		return fmt.Errorf("becoming %s: %w", i.name, err)
	}
	return fn()
}

// overridePermissions gives the present thread the capabilities that the program has, or takes all away. The kernel itself
// takes those that pass over permissions from a thread that stops being the machine's root, and only then.
func overridePermissions(wanted bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	for at := range data {
		data[at].Effective = 0
		if wanted {
			data[at].Effective = data[at].Permitted
		}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	return nil
}

// makeFolders makes a folder with its parents; those that were missing belong to the user. It is for use inside.
func makeFolders(folder string, owner identity) error {
	info, err := os.Stat(folder)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s: %w", folder, unix.ENOTDIR)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking for folder: %w", err)
	}
	if err := makeFolders(path.Dir(folder), owner); err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as a user's own mkdir would
		return fmt.Errorf("making folder: %w", err)
	}
	if err := os.Lchown(folder, int(owner.users.host(owner.uid)), int(owner.users.host(owner.gid))); err != nil {
		return fmt.Errorf("giving folder to %s: %w", owner.name, err)
	}
	return nil
}

package containerd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// identity is whom a process runs as, out of the container's own passwd and group.
type identity struct {
	name     string
	uid, gid uint32 // in the container
	groups   []uint32
	home     string
	users    UserRange // what the numbers are on the machine
}

// maxDatabase bounds what is read of a passwd or group file that a container may have written.
const maxDatabase = 1 << 20

// identity looks a user up. Root needs no entry.
func (c *container) identity(name string) (identity, error) {
	if name == "" {
		name = cmp.Or(c.record.Image.User, "root")
	}
	root, err := c.openRoot()
	if err != nil {
		return identity{}, err
	}
	defer func() { _ = root.Close() }()
	defaults := user.ExecUser{Home: "/"} // of a number that passwd does not have
	if name == "root" {
		defaults.Home = "/root"
	}
	found, err := user.GetExecUser(name, &defaults, database(root, "/etc/passwd"), database(root, "/etc/group"))
	if err != nil {
		if name == "root" {
			return c.root(), nil
		}
		return identity{}, fmt.Errorf("%w %q", garden.ErrUnknownUser, name)
	}
	as := identity{name: name, uid: uint32(found.Uid), gid: uint32(found.Gid), home: found.Home, users: c.record.Users} //nolint:gosec // checked by GetExecUser
	if as.home == "" {
		as.home = "/"
	}
	for _, group := range found.Sgids {
		as.groups = append(as.groups, uint32(group)) //nolint:gosec // as above
	}
	return as, nil
}

// root is the container's own.
func (c *container) root() identity {
	return identity{name: "root", home: "/root", users: c.record.Users}
}

// openRoot opens the root folder of the container as its processes see it, bind mounts included.
func (c *container) openRoot() (*os.File, error) {
	folder := filepath.Join("/proc", strconv.Itoa(c.pid()))
	root, err := os.Open(filepath.Join(folder, "root")) //nolint:gosec // a process of ours
	if err != nil {
		return nil, fmt.Errorf("%w: opening root: %w", garden.ErrUnknownHandle, err)
	}
	// Checked after opening: if the number belongs to our init now, what was opened before was not another's.
	if !c.owns(c.pid()) {
		_ = root.Close()
		return nil, fmt.Errorf("%w: its init has ended", garden.ErrUnknownHandle)
	}
	return root, nil
}

// owns tells whether a process runs in the cgroup of this container.
func (c *container) owns(pid int) bool {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return false
	}
	return memberOf(string(content), c.id)
}

// memberOf reads the kernel's list of the groups of a process: one line with version 2, one for each controller with
// version 1. A process may have made groups below the container's.
func memberOf(groups, id string) bool {
	for line := range strings.Lines(groups) {
		if strings.Contains(strings.TrimSpace(line)+"/", "/"+id+"/") {
			return true
		}
	}
	return false
}

// database opens a file of the container for reading, or yields nothing.
func database(root *os.File, path string) io.Reader {
	fd, err := openIn(root, path, unix.O_RDONLY)
	if err != nil {
		return strings.NewReader("")
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return strings.NewReader("")
	}
	content, err := io.ReadAll(io.LimitReader(file, maxDatabase))
	if err != nil {
		return strings.NewReader("")
	}
	return strings.NewReader(string(content))
}

// openIn opens a path as a process in the container would: symbolic links lead to targets in the container.
func openIn(root *os.File, path string, flags uint64) (int, error) {
	if flags&unix.O_PATH == 0 {
		// A pipe or a terminal that a container put in the place of a file must not hold us.
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("opening %s in the container: %w", path, err)
	}
	return fd, nil
}

// exists tells whether a path leads to something in the container.
func (c *container) exists(path string) (bool, error) {
	root, err := c.openRoot()
	if err != nil {
		return false, err
	}
	defer func() { _ = root.Close() }()
	fd, err := openIn(root, path, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, unix.Close(fd)
}

// workingFolder of a process or a stream: below its user's home when relative.
func workingFolder(dir string, as identity) string {
	if !path.IsAbs(dir) {
		dir = path.Join(as.home, dir)
	}
	return path.Clean(dir)
}

// openFiles is the limit of open files that can be set: a machine that withholds CAP_SYS_RESOURCE from us, as some
// virtual ones do, lets nobody go above the limit that we have ourselves.
func openFiles(wanted *uint64) uint64 {
	if wanted == nil || *wanted == 0 {
		return 0
	}
	limit := *wanted
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil && limit > own.Max && !hasCapability(unix.CAP_SYS_RESOURCE) {
		limit = own.Max
	}
	return limit
}

func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

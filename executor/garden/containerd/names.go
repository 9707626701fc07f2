package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"regexp"
)

// identifier is what containerd accepts as an id; handles may have more characters next to each other.
var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// engineName turns a handle or a process id into an id that containerd accepts: itself, or a digest.
func engineName(name string) string {
	if identifier.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "x" + hex.EncodeToString(sum[:16])
}

// containerID names a container, its snapshot, its cgroup and its folder. Two cells that share a daemon may use one
// handle, so the cell's tag is part of it.
func (c *Config) containerID(handle string) string { return c.tag() + "-" + engineName(handle) }

func (c *Config) containersFolder() string { return filepath.Join(c.StateFolder, "containers") }

// runcFolder is runc's root. Its default is one for the whole machine, where the containers of two daemons collide.
func (c *Config) runcFolder() string { return filepath.Join(c.StateFolder, "runc") }

// cgroupParent is the group above all containers of the cell.
func (c *Config) cgroupParent() string { return "/garden-" + c.tag() }

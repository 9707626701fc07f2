package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// settings is where the kernel keeps what can be set per interface.
const settings = "/proc/sys/net"

// borrowed is the file in Config.SharedFolder: for each foreign setting that was changed, its value before and the
// tables of the cells that need it. The last cell to leave puts the value back.
type borrowed map[string]*loan

type loan struct {
	Before string   `json:"before"`
	Users  []string `json:"users"`
}

// forwardUplinks lets packets from outside reach containers. It is set per uplink; the switch for the whole machine
// would turn it into a router between interfaces that are none of our business.
func (n *Network) forwardUplinks() error {
	links, err := uplinks()
	if err != nil {
		return err
	}
	return n.withBorrowed(func(b borrowed) error {
		for _, link := range links {
			path := filepath.Join(settings, "ipv4/conf", link.Attrs().Name, "forwarding")
			before, err := os.ReadFile(path) //nolint:gosec // a name that the kernel gave us
			if err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			if b[path] == nil {
				b[path] = &loan{Before: strings.TrimSpace(string(before))}
			}
			if !slices.Contains(b[path].Users, n.cfg.Table) {
				b[path].Users = append(b[path].Users, n.cfg.Table)
			}
			if err := os.WriteFile(path, []byte("1"), 0); err != nil {
				return fmt.Errorf("setting %s: %w", path, err)
			}
		}
		return nil
	})
}

// restoreUplinks gives up what forwardUplinks took.
func (n *Network) restoreUplinks() error {
	return n.withBorrowed(func(b borrowed) error {
		for path, l := range maps.Clone(b) {
			l.Users = slices.DeleteFunc(l.Users, func(user string) bool { return user == n.cfg.Table })
			if len(l.Users) > 0 {
				continue
			}
			// The interface may be gone, and its setting with it.
			if err := os.WriteFile(path, []byte(l.Before), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("restoring %s: %w", path, err)
			}
			delete(b, path)
		}
		return nil
	})
}

// withBorrowed holds the file's lock while fn looks at and changes it; an empty file is removed.
func (n *Network) withBorrowed(fn func(borrowed) error) error {
	if err := os.MkdirAll(n.cfg.SharedFolder, 0o755); err != nil { //nolint:gosec // nothing secret
		return fmt.Errorf("making shared folder: %w", err)
	}
	lock, err := os.Open(n.cfg.SharedFolder)
	if err != nil {
		return fmt.Errorf("opening shared folder: %w", err)
	}
	defer func() { _ = lock.Close() }() // closing unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking shared folder: %w", err)
	}
	path := filepath.Join(n.cfg.SharedFolder, "network-settings.json")
	b := borrowed{}
	content, err := os.ReadFile(path) //nolint:gosec // our own file
	if err == nil {
		err = json.Unmarshal(content, &b)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	err = fn(b)
	if len(b) == 0 {
		return errors.Join(err, ignoreMissing(os.Remove(path)))
	}
	content, encodeErr := json.Marshal(b)
	if encodeErr != nil {
		return errors.Join(err, fmt.Errorf("encoding %s: %w", path, encodeErr))
	}
	if writeErr := os.WriteFile(path+".new", content, 0o600); writeErr != nil {
		return errors.Join(err, fmt.Errorf("writing %s: %w", path, writeErr))
	}
	return errors.Join(err, os.Rename(path+".new", path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

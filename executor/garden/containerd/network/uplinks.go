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
//
// Two rules keep a setting from staying changed for good. The file is written before the setting, so that whoever is killed
// in between, or at any time after, leaves the former value where the next one finds it. And all cells of a machine use one
// file: of two cells with a file each, the second would take what the first has set for the value before.
type borrowed map[string]*loan

type loan struct {
	Before string   `json:"before"`
	Users  []string `json:"users"`
}

// lender changes settings for one cell.
type lender struct {
	folder string // Config.SharedFolder
	table  string
	root   string // settings, but for tests
	// tables are those that exist: a cell without one is no more, however it ended.
	tables func() (map[string]bool, error)
}

func (n *Network) lender() lender {
	return lender{folder: n.cfg.SharedFolder, table: n.cfg.Table, root: settings, tables: n.tables}
}

// forwardUplinks lets packets from outside reach containers. It is set per uplink; the switch for the whole machine
// would turn it into a router between interfaces that are none of our business.
func (n *Network) forwardUplinks() error {
	links, err := uplinks()
	if err != nil {
		return err
	}
	var names []string
	for _, link := range links {
		names = append(names, filepath.Join("ipv4/conf", link.Attrs().Name, "forwarding"))
	}
	return n.lender().borrow(names)
}

// restoreUplinks gives up what forwardUplinks took.
func (n *Network) restoreUplinks() error { return n.lender().giveBack() }

// borrow sets the named settings to 1.
func (l lender) borrow(names []string) error {
	return l.locked(func(b borrowed) error {
		for _, name := range names {
			path := filepath.Join(l.root, name)
			before, err := os.ReadFile(path) //nolint:gosec // a name that the kernel gave us
			if err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			if b[path] == nil {
				b[path] = &loan{Before: strings.TrimSpace(string(before))}
			}
			if !slices.Contains(b[path].Users, l.table) {
				b[path].Users = append(b[path].Users, l.table)
			}
		}
		if err := l.save(b); err != nil {
			return err
		}
		for _, name := range names {
			path := filepath.Join(l.root, name)
			if err := os.WriteFile(path, []byte("1"), 0); err != nil {
				return fmt.Errorf("setting %s: %w", path, err)
			}
		}
		return nil
	})
}

// giveBack ends the cell's part in all loans and puts back what nobody needs any more.
func (l lender) giveBack() error {
	return l.locked(func(b borrowed) error {
		existing, err := l.tables()
		if err != nil {
			return err
		}
		for path, taken := range maps.Clone(b) {
			taken.Users = slices.DeleteFunc(taken.Users, func(user string) bool { return user == l.table || !existing[user] })
			if len(taken.Users) > 0 {
				continue
			}
			// The interface may be gone, and its setting with it.
			if err := os.WriteFile(path, []byte(taken.Before), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("restoring %s: %w", path, err)
			}
			delete(b, path)
		}
		return l.save(b)
	})
}

func (l lender) file() string { return filepath.Join(l.folder, "network-settings.json") }

// locked holds the lock of the shared folder while fn looks at the loans and changes them.
func (l lender) locked(fn func(borrowed) error) error {
	if err := os.MkdirAll(l.folder, 0o755); err != nil { //nolint:gosec // nothing secret
		return fmt.Errorf("making shared folder: %w", err)
	}
	lock, err := os.Open(l.folder)
	if err != nil {
		return fmt.Errorf("opening shared folder: %w", err)
	}
	defer func() { _ = lock.Close() }() // closing unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking shared folder: %w", err)
	}
	b := borrowed{}
	content, err := os.ReadFile(l.file())
	if err == nil {
		err = json.Unmarshal(content, &b)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading %s: %w", l.file(), err)
	}
	return fn(b)
}

// save replaces the file as a whole; without loans there is none.
func (l lender) save(b borrowed) error {
	if len(b) == 0 {
		return ignoreMissing(os.Remove(l.file()))
	}
	content, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", l.file(), err)
	}
	if err := os.WriteFile(l.file()+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", l.file(), err)
	}
	if err := os.Rename(l.file()+".new", l.file()); err != nil {
		return fmt.Errorf("writing %s: %w", l.file(), err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Package volume shows volumes of drivers in containers. A driver is a program on this machine or behind TLS that speaks the
// protocol of Docker's volume plug-ins; a file in a folder of the cell says where it is (NAME.json, NAME.spec, NAME.sock).
//
// It owns which drivers answer, which volumes are mounted, and who uses them. A volume is mounted once on a cell, however
// many containers use it, and unmounted when the last one is gone. Uses are on disk before the driver is asked, so that a
// process that is killed is followed by one that unmounts what nobody uses any more. It knows owners, which are the handles
// of containers, and nothing else of them; making the bind mount is the engine's.
package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"diego.internal/executor/keylock"
)

// ErrNoDriver says that the cell has no driver of that name, or that it does not answer.
var ErrNoDriver = errors.New("no such volume driver on this cell")

// Config of a Volumes.
type Config struct {
	// Dir is where uses are kept; it is made when the first volume is mounted.
	Dir string
	// Folders hold the files that describe drivers.
	Folders []string
	// Interval between two looks at the drivers, and between attempts to unmount what could not be.
	Interval time.Duration
	// Timeout of one operation of a driver.
	Timeout time.Duration
	// ID names this cell to drivers that count who has a volume mounted.
	ID  string
	Log *slog.Logger
}

// Request for one volume.
type Request struct {
	Driver string
	// Volume is the id of the volume, a name that the driver understands.
	Volume string
	// Options are a JSON object for the driver; empty means none. They may hold secrets.
	Options string
}

// Stats of one driver. They only grow.
type Stats struct {
	Mounts, MountsFailed     atomic.Int64
	MountNanos               atomic.Int64
	Unmounts, UnmountsFailed atomic.Int64
	UnmountNanos             atomic.Int64
}

func (s *Stats) mounted(err error, took time.Duration) {
	if err != nil {
		s.MountsFailed.Add(1)
		return
	}
	s.Mounts.Add(1)
	s.MountNanos.Add(int64(took))
}

func (s *Stats) unmounted(err error, took time.Duration) {
	if err != nil {
		s.UnmountsFailed.Add(1)
		return
	}
	s.Unmounts.Add(1)
	s.UnmountNanos.Add(int64(took))
}

// Volumes of a cell. Its methods may be called concurrently.
type Volumes struct {
	cfg Config

	mu       sync.Mutex
	drivers  map[string]*driver
	problems map[string]string // by file or driver
	stats    map[string]*Stats
	owners   map[string]*owner
	locks    keylock.Locks[key] // a driver is asked about a volume by one caller at a time
}

// key is one volume as its driver knows it.
type key struct{ driver, volume string }

// owner is a container with the volumes that it uses.
type owner struct {
	uses map[key]use
	// gone says that the container is, and that what it used is to be unmounted.
	gone bool
}

// use of a volume by one container.
type use struct {
	// Digest is that of the options.
	Digest string
	// Path is where the volume is mounted; empty as long as it is not known whether it is.
	Path string
}

// Open takes up the uses that an earlier process left. Those of owners that keep does not answer for are given up by Run.
// It looks for drivers, which takes as long as the slowest one takes to answer, and at most five seconds.
func Open(ctx context.Context, cfg Config, keep map[string]bool) (*Volumes, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	v := &Volumes{
		cfg: cfg, drivers: map[string]*driver{}, problems: map[string]string{}, stats: map[string]*Stats{},
		owners: map[string]*owner{},
	}
	if err := v.load(keep); err != nil {
		return nil, err
	}
	v.discover(ctx)
	return v, nil
}

// Run looks at the drivers now and then and unmounts what could not be unmounted before, until ctx ends.
func (v *Volumes) Run(ctx context.Context) error {
	for {
		v.settle(ctx)
		timer := time.NewTimer(v.cfg.Interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		v.discover(ctx)
	}
}

// Drivers are the names of those that answered when they were last asked, in order.
func (v *Volumes) Drivers() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.drivers))
}

// Problems are descriptions that cannot be used and drivers that do not answer, one sentence each, in order.
func (v *Volumes) Problems() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Values(v.problems))
}

// Stats by name of driver, also of drivers that are gone.
func (v *Volumes) Stats() map[string]*Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.stats)
}

// Mount returns the folder of this machine that shows the volume. The owner has it until Release, which must follow also
// after an error: whether an operation that was cut off has mounted the volume is found out only then.
func (v *Volumes) Mount(ctx context.Context, ownerName string, r Request) (string, error) {
	d := v.driver(r.Driver)
	if d == nil {
		return "", fmt.Errorf("%w: %q", ErrNoDriver, r.Driver)
	}
	options := map[string]any{}
	if r.Options != "" {
		if err := json.Unmarshal([]byte(r.Options), &options); err != nil {
			return "", fmt.Errorf("options of volume %q are not a JSON object: %w", r.Volume, err)
		}
	}
	k := key{driver: r.Driver, volume: r.Volume}
	if d.spec.UniqueVolumeIDs {
		k.volume = uniqueName(r.Volume, ownerName)
	}
	unlock, err := v.locks.Lock(ctx, k)
	if err != nil {
		return "", err
	}
	defer unlock()
	sum := sha256.Sum256([]byte(r.Options))
	wanted := use{Digest: hex.EncodeToString(sum[:])}
	start := time.Now()
	path, err := v.mount(ctx, d, k, ownerName, wanted, options)
	d.stats.mounted(err, time.Since(start))
	return path, err
}

// mount is called with the lock of the volume held.
func (v *Volumes) mount(ctx context.Context, d *driver, k key, ownerName string, wanted use, options map[string]any) (string, error) {
	shared, err := v.shared(ctx, d, k, wanted)
	if err != nil {
		return "", err
	}
	if shared != "" {
		wanted.Path = shared
		return shared, v.note(ownerName, k, wanted)
	}
	if err := v.note(ownerName, k, wanted); err != nil {
		return "", err
	}
	err = d.create(ctx, k.volume, options)
	if err == nil {
		wanted.Path, err = d.mount(ctx, k.volume, v.cfg.ID)
	}
	if err == nil {
		err = checkFolder(wanted.Path)
	}
	if err != nil {
		return "", fmt.Errorf("mounting volume %q: %w", k.volume, err)
	}
	return wanted.Path, v.note(ownerName, k, wanted)
}

// shared is where the volume is mounted already, for another container or for another folder of the same one; "" if it is
// not. It fails if what is mounted was asked for with other options.
func (v *Volumes) shared(ctx context.Context, d *driver, k key, wanted use) (string, error) {
	users := v.users(k, "")
	mounted := false
	for _, u := range users {
		if u.Digest != wanted.Digest {
			text := fmt.Sprintf("volume %q is in use on this cell with other options", k.volume)
			return "", &DriverError{Driver: k.driver, Text: text, Safe: text}
		}
		mounted = mounted || u.Path != ""
	}
	if len(users) == 0 {
		return "", nil
	}
	// A driver that was restarted may have lost what it had.
	at, err := d.mountpoint(ctx, k.volume)
	if err != nil {
		return "", err
	}
	if at != "" && slices.ContainsFunc(users, func(u use) bool { return u.Path == at }) {
		return at, nil
	}
	if at != "" && !mounted {
		// An attempt that was cut off came through after all. A driver that counts is to count us once.
		return "", d.unmount(ctx, k.volume, v.cfg.ID)
	}
	return "", nil
}

func checkFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at the mount point: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("mount point %q is not a folder", path)
	}
	return nil
}

// Release gives back all volumes of an owner that is gone. What cannot be unmounted now is tried again by Run; the error
// tells of it. It may be repeated, also for an owner without volumes.
func (v *Volumes) Release(ctx context.Context, ownerName string) error {
	v.mu.Lock()
	o := v.owners[ownerName]
	if o == nil {
		v.mu.Unlock()
		return nil
	}
	o.gone = true
	keys := slices.Collect(maps.Keys(o.uses))
	v.mu.Unlock()
	var problems []error
	for _, k := range keys {
		problems = append(problems, v.release(ctx, ownerName, k))
	}
	return errors.Join(problems...)
}

func (v *Volumes) release(ctx context.Context, ownerName string, k key) error {
	unlock, err := v.locks.Lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	for _, other := range v.users(k, ownerName) {
		if other.Path != "" {
			return v.forget(ownerName, k) // it stays for the others
		}
	}
	d := v.driver(k.driver)
	if d == nil {
		return fmt.Errorf("unmounting volume %q: %w: %q", k.volume, ErrNoDriver, k.driver)
	}
	start := time.Now()
	err = d.unmount(ctx, k.volume, v.cfg.ID)
	if err != nil {
		// A volume that was never mounted, or that the driver has forgotten, is one that is not there any more.
		if at, asked := d.mountpoint(ctx, k.volume); asked == nil && at == "" {
			err = nil
		}
	}
	d.stats.unmounted(err, time.Since(start))
	if err != nil {
		return fmt.Errorf("unmounting volume %q: %w", k.volume, err)
	}
	return v.forget(ownerName, k)
}

// settle releases what owners that are gone still have.
func (v *Volumes) settle(ctx context.Context) {
	for _, name := range v.gone() {
		if err := v.Release(ctx, name); err != nil && ctx.Err() == nil {
			v.cfg.Log.Warn("volume-not-unmounted", slog.String("handle", name), slog.Any("error", err))
		}
	}
}

func (v *Volumes) gone() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var names []string
	for name, o := range v.owners {
		if o.gone {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ReleaseAll gives back the volumes of all owners, for a cell that is removed from its machine.
func (v *Volumes) ReleaseAll(ctx context.Context) error {
	v.mu.Lock()
	names := slices.Sorted(maps.Keys(v.owners))
	v.mu.Unlock()
	var problems []error
	for _, name := range names {
		problems = append(problems, v.Release(ctx, name))
	}
	return errors.Join(problems...)
}

func (v *Volumes) driver(name string) *driver {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.drivers[name]
}

// users are the uses of a volume by others than this owner; "" means by all.
func (v *Volumes) users(k key, except string) []use {
	v.mu.Lock()
	defer v.mu.Unlock()
	var found []use
	for name, o := range v.owners {
		if u, has := o.uses[k]; has && name != except {
			found = append(found, u)
		}
	}
	return found
}

// uniqueName joins volume and container. The length says where one ends, so that no two pairs give one name.
func uniqueName(volume, ownerName string) string {
	return fmt.Sprintf("%s_%s-%d", volume, ownerName, len(volume))
}

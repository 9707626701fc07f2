package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// A container with a limit of disk writes into a file system of its own: an ext4 image on a loop device, as the upper layer
// of its root. The kernel enforces its size and its number of files at every write, however fast. The image is sparse: it
// takes of the cell's disk what the container wrote.

const (
	diskBlock     = 4096
	inodeBytes    = 256
	defaultInodes = 200_000
	minInodes     = 1024
	mebi          = 1 << 20
	// diskProbeBytes is the size of the disk that is tried at the start.
	diskProbeBytes = 4 * mebi
)

// errNoDisk is for containers with a limit on a snapshotter that has no upper layer to replace.
var errNoDisk = errors.New("limits of disk need containerd's overlayfs snapshotter")

// diskLimit is what a container may write.
type diskLimit struct{ bytes, inodes uint64 }

// writable is the limit of what the container writes: with the total scope, what its image leaves.
func (r *record) writable() (diskLimit, error) {
	limit := diskLimit{bytes: r.Limits.DiskInBytes, inodes: r.Limits.Inodes}
	if r.Limits.DiskScope == garden.DiskScopeTotal {
		if r.ImageBytes >= limit.bytes {
			return limit, fmt.Errorf("%w: it has %d bytes, the limit is %d", garden.ErrImageTooLarge, r.ImageBytes, limit.bytes)
		}
		limit.bytes -= r.ImageBytes
	}
	if limit.inodes == 0 {
		limit.inodes = defaultInodes
	}
	limit.inodes = max(min(limit.inodes, limit.bytes/diskBlock), minInodes)
	return limit, nil
}

// imageSize is the size of a file in which so much can be stored beside the tables of the file system.
func (l diskLimit) imageSize() uint64 {
	size := max(l.bytes, mebi) + l.inodes*inodeBytes + l.bytes/32 + mebi
	return (size + mebi - 1) / mebi * mebi
}

func (c *Config) diskImage(id string) string { return filepath.Join(c.folder(id), "disk.img") }

// prepareDisks finds out whether the machine can give containers disks.
func (b *Backend) prepareDisks(ctx context.Context) error {
	if b.cfg.DiskLimits == DemandOff {
		b.restrict(ctx, "disk-limits-off", "limits of disk are measured, not enforced: disk_limits is off", nil)
		return nil
	}
	err := b.probeDisk(ctx)
	if err == nil {
		b.disks = true
		return nil
	}
	if b.cfg.DiskLimits == DemandRequired {
		return fmt.Errorf("the machine cannot limit disks (disk_limits: %s goes on without): %w", DemandPreferred, err)
	}
	b.restrict(ctx, "disk-limits-refused", "limits of disk are measured, not enforced: "+err.Error(), err)
	return nil
}

func (b *Backend) probeDisk(ctx context.Context) error {
	image := filepath.Join(b.cfg.StateFolder, "probe.img")
	limit := diskLimit{bytes: diskProbeBytes, inodes: minInodes}
	err := b.formatDisk(ctx, image, limit, 0)
	if err == nil {
		_, err = b.mountDisk("probe", image, 0)
	}
	return errors.Join(err, b.removeHelperMounts("probe"), ignoreMissing(os.Remove(image)))
}

// formatDisk makes an image. The root folder of its file system belongs to owner. Disks of one size are copies of one that
// was formatted once, which takes a fraction of the time and of the processor: a new file system is next to nothing in a
// sparse file.
func (b *Backend) formatDisk(ctx context.Context, path string, limit diskLimit, owner uint32) error {
	template := filepath.Join(b.cfg.templatesFolder(), fmt.Sprintf("%d-%d-%d.img", limit.bytes, limit.inodes, owner))
	if _, err := os.Stat(template); isMissing(err) {
		// Shared, and so not ended by the first who asked.
		result := b.templates.DoChan(template, func() (any, error) { return nil, b.makeTemplate(b.ctx, template, limit, owner) })
		select {
		case made := <-result:
			if made.Err != nil {
				return made.Err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := b.reserveDisk(path, limit.imageSize(), b.cfg.PreallocateDisks); err != nil {
		return err
	}
	if err := copySparse(path, template); err != nil {
		return fmt.Errorf("copying disk: %w", diskFull(err))
	}
	return nil
}

// maxTemplates bounds how many sizes are kept; beyond it all are made anew when they are wanted.
const maxTemplates = 64

func (c *Config) templatesFolder() string { return filepath.Join(c.StateFolder, "disks") }

func (b *Backend) makeTemplate(ctx context.Context, path string, limit diskLimit, owner uint32) error {
	folder := b.cfg.templatesFolder()
	if kept, err := os.ReadDir(folder); err == nil && len(kept) >= maxTemplates {
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("removing formatted disks: %w", err)
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("making folder for formatted disks: %w", err)
	}
	if err := b.reserveDisk(path+".new", limit.imageSize(), false); err != nil {
		return err
	}
	program, err := mkfs()
	if err != nil {
		return err
	}
	// No journal, no checksums and no flushing: the disk is thrown away with its container, and after a crash of the machine.
	command := exec.CommandContext(ctx, program, "-q", "-F", "-b", strconv.Itoa(diskBlock), "-I", strconv.Itoa(inodeBytes), "-m", "0", //nolint:gosec // a program of the machine
		"-N", strconv.FormatUint(limit.inodes, 10), "-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg",
		"-E", fmt.Sprintf("lazy_itable_init=1,nodiscard,root_owner=%d:%d", owner, owner), path+".new")
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("formatting disk: %w: %s", diskFull(err), bytes.TrimSpace(said.Bytes()))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keeping formatted disk: %w", err)
	}
	return nil
}

// copySparse copies what is not a hole into a file that has the size already.
func copySparse(to, from string) error {
	source, err := os.Open(from) //nolint:gosec // below our own state folder
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_WRONLY, 0) //nolint:gosec // as above
	if err != nil {
		return err
	}
	for end := int64(0); ; {
		begin, err := source.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return target.Close() // nothing but holes from here on
		}
		if err == nil {
			end, err = source.Seek(begin, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(target, begin), io.NewSectionReader(source, begin, end-begin))
		}
		if err != nil {
			return errors.Join(err, target.Close())
		}
	}
}

// mkfs is usually not on the path of services.
func mkfs() (string, error) {
	const name = "mkfs.ext4"
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("looking for %s: %w (Debian package e2fsprogs)", name, exec.ErrNotFound)
}

// reserveDisk makes a file of holes, or takes its whole size from the cell's disk now.
func (b *Backend) reserveDisk(path string, size uint64, whole bool) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600) //nolint:gosec // below our own state folder
	if err != nil {
		return fmt.Errorf("making disk: %w", diskFull(err))
	}
	defer func() { _ = file.Close() }()
	if whole {
		err = unix.Fallocate(int(file.Fd()), 0, 0, int64(size)) //nolint:gosec // far below
	} else {
		err = file.Truncate(int64(size)) //nolint:gosec // as above
	}
	if err != nil {
		return fmt.Errorf("reserving %d bytes of disk: %w", size, diskFull(err))
	}
	return nil
}

// diskFull makes the kernel's word for a full disk ours.
func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", garden.ErrDiskFull, err)
	}
	return err
}

// checkSpace refuses a creation on a full disk before it has begun.
func (b *Backend) checkSpace() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(b.cfg.StateFolder, &disk); err != nil {
		return fmt.Errorf("measuring disk: %w", err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < b.cfg.MinFreeDisk { //nolint:gosec // never negative
		return fmt.Errorf("%w: %d bytes are free where %d are to stay free", garden.ErrDiskFull, free, b.cfg.MinFreeDisk)
	}
	return nil
}

// mountedDisk is a disk at its helper mount.
type mountedDisk struct {
	upper, work string
	base        uint64 // bytes used although nothing was written
}

// mountDisk mounts an image as a helper of a creation and makes the folders of an overlay in it.
func (b *Backend) mountDisk(id, image string, owner uint32) (mountedDisk, error) {
	target, err := b.mountPoint(id, "disk", true)
	if err != nil {
		return mountedDisk{}, err
	}
	// One at a time: those who ask the kernel for a free device at the same time get the same one.
	b.loops.Lock()
	loop, err := mount.SetupLoop(image, mount.LoopParams{Autoclear: true, Direct: true})
	if err != nil {
		loop, err = mount.SetupLoop(image, mount.LoopParams{Autoclear: true}) // where the file system has no direct access
	}
	b.loops.Unlock()
	if err != nil {
		return mountedDisk{}, fmt.Errorf("attaching disk: %w", diskFull(err))
	}
	defer func() { _ = loop.Close() }() // the mount holds it from now on, and the last one gives it back
	options := "barrier=0,noinit_itable"
	if !b.cfg.PreallocateDisks {
		options += ",discard" // what the container deletes is the cell's again
	}
	if err := unix.Mount(loop.Name(), target, "ext4", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return mountedDisk{}, fmt.Errorf("mounting disk: %w", diskFull(err))
	}
	disk := mountedDisk{upper: filepath.Join(target, "upper"), work: filepath.Join(target, "work")}
	for path, user := range map[string]uint32{disk.upper: owner, disk.work: 0} {
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chown(path, int(user), int(user))); err != nil { //nolint:gosec // the root folder of a container
			return mountedDisk{}, fmt.Errorf("preparing disk: %w", err)
		}
	}
	usage, err := statDisk(target)
	disk.base = usage.used
	return disk, err
}

// overlayOn makes the overlay of a snapshot write to a disk.
func overlayOn(mounts []mount.Mount, disk mountedDisk) ([]mount.Mount, error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return nil, errNoDisk
	}
	changed := mounts[0]
	changed.Options = slices.Clone(changed.Options)
	replaced := 0
	for at, option := range changed.Options {
		if strings.HasPrefix(option, "upperdir=") {
			changed.Options[at] = "upperdir=" + disk.upper
			replaced++
		}
		if strings.HasPrefix(option, "workdir=") {
			changed.Options[at] = "workdir=" + disk.work
			replaced++
		}
	}
	if replaced != 2 {
		return nil, errNoDisk
	}
	return []mount.Mount{changed}, nil
}

// diskUse is what a file system holds.
type diskUse struct{ used, available, inodes uint64 }

// statDisk measures the file system of a path; that of an overlay is its upper layer's.
func statDisk(path string) (diskUse, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return diskUse{}, fmt.Errorf("measuring disk: %w", err)
	}
	block := uint64(stat.Bsize) //nolint:gosec // never negative
	return diskUse{used: (stat.Blocks - stat.Bfree) * block, available: stat.Bavail * block, inodes: stat.Ffree}, nil
}

// hasDisk tells whether a container writes to a disk of its own.
func (r *record) hasDisk() bool { return r.DiskBase > 0 }

// diskUsed is what the container wrote, for one with a disk of its own.
func (r *record) diskUsed() (diskUse, error) {
	usage, err := statDisk(filepath.Join("/proc", strconv.Itoa(r.Pid), "root"))
	usage.used = saturatingSub(usage.used, r.DiskBase)
	return usage, err
}

// diskSlack is what can be left of a disk that is full: the kernel keeps some blocks for its own tables.
const diskSlack = 16 * diskBlock

// outOfDisk tells that the container has used up its disk or its files.
func (c *container) outOfDisk() bool {
	r := c.view()
	if !r.hasDisk() {
		return false
	}
	limit, err := r.writable()
	if err != nil {
		return false
	}
	usage, err := r.diskUsed()
	if err != nil {
		return false // it has ended
	}
	full := usage.used >= limit.bytes || usage.available < diskSlack || usage.inodes == 0
	// The number of an init that has ended may be another's, whose disk says nothing.
	return full && c.owns(r.Pid)
}

// diskWatch is the pause between looks at the disks of all containers. A look costs one system call for each. It bounds how
// long a container goes on that cannot write any more, not how much it writes.
const diskWatch = 500 * time.Millisecond

// watchDisks kills what runs in a container that has used up its disk, until the Backend is closed.
func (b *Backend) watchDisks() {
	ticker := time.NewTicker(diskWatch)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-b.ctx.Done():
			return
		}
		for _, c := range b.all() {
			if c.phase() == phaseCreated && c.outOfDisk() {
				b.stopFull(c)
			}
		}
	}
}

// stopFull does nothing for a container in which nothing runs: it stays full until somebody looks at it or destroys it.
func (b *Backend) stopFull(c *container) {
	ctx, cancel := context.WithTimeoutCause(b.ctx, stopGrace, errors.New("processes do not end"))
	defer cancel()
	pids, err := c.pids(ctx)
	if err == nil && len(pids) == 0 {
		return
	}
	b.cfg.Log.InfoContext(ctx, "container-out-of-disk", "handle", c.handle, "limit_bytes", c.view().Limits.DiskInBytes)
	if err == nil {
		err = c.stop(ctx, true)
	}
	if err != nil && b.ctx.Err() == nil {
		b.cfg.Log.WarnContext(ctx, "full-container-not-stopped", "handle", c.handle, "error", err)
	}
}

package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/busybox"
	"diego.internal/executor/garden/containerd/privatedaemon"
	"diego.internal/executor/garden/gardentest"
)

// machine is what all tests of this package share: one containerd and one root filesystem, and a cell for each test.
type machine struct {
	folder string
	daemon *privatedaemon.Daemon
	rootfs string
	cells  atomic.Int32
	// machines counts those that stand for others on the network.
	machines atomic.Int32
}

var shared machine //nolint:gochecknoglobals // set by TestMain, as a test binary has no other place

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) (code int) {
	if folder := os.Getenv(childStateFolder); folder != "" {
		return child(folder)
	}
	stop, err := shared.start(context.Background())
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "these tests run real containers: as root, with the Debian packages containerd, runc and busybox-static:", err)
		return 1
	}
	defer func() {
		if err := stop(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "stopping:", err)
			code = 1
		}
	}()
	return m.Run()
}

func (m *machine) start(ctx context.Context) (stop func() error, err error) {
	// Short, because a unix socket lies below it.
	if m.folder, err = os.MkdirTemp("", "gc"); err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(m.folder) }
	if err := os.Chmod(m.folder, 0o711); err != nil {
		return remove, err
	}
	for _, name := range []string{"garden-init", "garden-logger"} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(m.folder, name), "diego.internal/executor/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return remove, fmt.Errorf("building %s: %w: %s", name, err, out)
		}
	}
	m.rootfs = filepath.Join(m.folder, "rootfs")
	if err := busybox.Build(ctx, m.rootfs); err != nil {
		return remove, err
	}
	if m.daemon, err = privatedaemon.Start(ctx, filepath.Join(m.folder, "d")); err != nil {
		return remove, err
	}
	return func() error {
		if err := m.daemon.Stop(); err != nil {
			return err
		}
		return remove()
	}, nil
}

// cell is the configuration of a cell of its own: nothing of it meets another test, or another run at the same time.
func (m *machine) cell(tb testing.TB) Config {
	tb.Helper()
	number := int(m.cells.Add(1))
	pid := os.Getpid()
	// 64 cells of 16 addresses below a network that depends on the process; 20 host ports each.
	pool := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + pid%60), byte(number / 4), byte(number % 4 * 64)}), 26)
	first := uint16(61001 + (pid*37+number)%226*20) // of two runs at a time too
	folder := filepath.Join(m.folder, fmt.Sprintf("cell-%d", number))
	require.NoError(tb, os.MkdirAll(folder, 0o711))
	return Config{
		Socket:        m.daemon.Address(),
		StateFolder:   folder,
		RootFS:        map[string]string{"busybox": m.rootfs},
		NetworkPool:   pool,
		HostPortFirst: first,
		HostPortLast:  first + 19,
		ExternalIP:    externalIP(tb),
		InitBinary:    filepath.Join(m.folder, "garden-init"),
		LoggerBinary:  filepath.Join(m.folder, "garden-logger"),
		CellID:        fmt.Sprintf("test-%d-%d", pid, number),
		Log:           slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// bench is a cell with its present Backend.
type bench struct {
	cfg     Config
	backend *Backend
}

func newBench(t *testing.T, change ...func(*Config)) *bench {
	t.Helper()
	b := &bench{cfg: shared.cell(t)}
	for _, c := range change {
		c(&b.cfg)
	}
	b.open(t)
	t.Cleanup(func() { b.clean(t) })
	return b
}

func (b *bench) open(t *testing.T) {
	t.Helper()
	opened, err := New(context.WithoutCancel(t.Context()), b.cfg)
	require.NoError(t, err)
	b.backend = opened
}

func (b *bench) reopen(t *testing.T) *Backend {
	t.Helper()
	require.NoError(t, b.backend.Close())
	b.open(t)
	return b.backend
}

// clean removes the cell and looks whether that is true.
func (b *bench) clean(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	require.NoError(t, b.backend.Clean(ctx))
	left, err := b.backend.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, b.backend.Clean(ctx), "cleaning may be repeated")
	require.NoError(t, b.backend.Close())
}

func (b *bench) image() garden.Image { return garden.Image{URI: "preloaded:busybox"} }

func (b *bench) create(t *testing.T, handle string) garden.Container {
	t.Helper()
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: handle, Image: b.image()})
	require.NoError(t, err)
	return c
}

func TestConformance(t *testing.T) {
	t.Parallel()
	gardentest.Run(t, func(t *testing.T) gardentest.Harness {
		t.Helper()
		b := newBench(t)
		return gardentest.Harness{
			Client:       b.backend,
			Capabilities: gardentest.Capabilities{Programs: true, Network: true, Limits: true, Users: true},
			Image:        b.image(),
			Reopen: func(t *testing.T) garden.Client {
				t.Helper()
				return b.reopen(t)
			},
			Leftovers: b.leftovers,
		}
	})
}

// leftovers is what the machine shows of a cell without containers, but for what belongs to the cell itself.
func (b *bench) leftovers(t *testing.T) []string {
	t.Helper()
	found, err := b.backend.Leftovers(t.Context())
	require.NoError(t, err)
	own := map[string]bool{"nftables table " + b.cfg.networkConfig().Table: true}
	var left []string
	for _, name := range found {
		isOwn := own[name] || filepath.Base(name) == filepath.Base(b.backend.cfg.cgroupParent()) ||
			len(name) > 9 && name[:9] == "snapshot " && len(name[9:]) > len(b.backend.cfg.rootFSPrefix()) && name[9:9+len(b.backend.cfg.rootFSPrefix())] == b.backend.cfg.rootFSPrefix()
		if !isOwn {
			left = append(left, name)
		}
	}
	for _, folder := range []string{b.backend.cfg.containersFolder(), filepath.Join(b.backend.cfg.runcFolder(), b.backend.cfg.Namespace)} {
		entries, err := os.ReadDir(folder)
		if err != nil && !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		for _, entry := range entries {
			left = append(left, filepath.Join(folder, entry.Name()))
		}
	}
	return append(left, b.backend.network.Mapped()...)
}

// TestRefusedByTheMachine has an init that reports what a kernel without user namespaces would.
func TestRefusedByTheMachine(t *testing.T) {
	t.Parallel()
	cfg := shared.cell(t)
	init := filepath.Join(cfg.StateFolder, "init")
	script := "#!/bin/sh\n# /proc/self/fd/3 is this file\n[ \"$1\" != probe ] || { echo mounting proc: operation not permitted >&2; exit 1; }\nexec /bin/sleep 1000\n"
	require.NoError(t, os.WriteFile(init, []byte(script), 0o755))
	cfg.InitBinary = init
	_, err := New(t.Context(), cfg)
	require.ErrorContains(t, err, "user namespaces")
	require.ErrorContains(t, err, "mounting proc: operation not permitted")

	b := newBench(t, func(c *Config) { c.InitBinary, c.UserNamespaces = init, DemandPreferred })
	capacity, err := b.backend.Capacity(t.Context())
	require.NoError(t, err)
	require.Len(t, capacity.Restrictions, 1)
	require.Contains(t, capacity.Restrictions[0], "mounting proc: operation not permitted")
	c := b.create(t, "h")
	require.Equal(t, []string{"0", "0", "4294967295"}, strings.Fields(run(t, c, shell("p", "cat /proc/self/uid_map"))))

	off := newBench(t, func(c *Config) { c.UserNamespaces, c.DiskLimits = DemandOff, DemandOff })
	capacity, err = off.backend.Capacity(t.Context())
	require.NoError(t, err)
	require.Len(t, capacity.Restrictions, 2)
	limited, err := off.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: off.image(), Limits: garden.Limits{DiskInBytes: mebi}})
	require.NoError(t, err)
	require.Empty(t, run(t, limited, shell("p", "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null")), "measured, not enforced")
}

// TestOldContainers are taken up by a cell that has learnt of user namespaces since, and go on without.
func TestOldContainers(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.UserNamespaces = DemandOff })
	b.create(t, "old")
	b.cfg.UserNamespaces = DemandRequired
	c, err := b.reopen(t).Lookup(t.Context(), "old")
	require.NoError(t, err)
	require.Contains(t, run(t, c, shell("p", "cat /proc/self/uid_map; mkdir /x; stat -c %u /x")), "4294967295\n0\n")
}

// TestFullCell is a cell whose disk is full: creation is refused with that reason and leaves nothing.
func TestFullCell(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.PreallocateDisks = true })
	// A file system of its own for the state, because the machine's must not be filled.
	image, target := filepath.Join(t.TempDir(), "disk.img"), filepath.Join(shared.folder, "full")
	require.NoError(t, b.backend.formatDisk(t.Context(), image, diskLimit{bytes: 24 * mebi, inodes: minInodes}, 0))
	require.NoError(t, os.Mkdir(target, 0o711))
	loop, err := mount.SetupLoop(image, mount.LoopParams{Autoclear: true})
	require.NoError(t, err)
	require.NoError(t, unix.Mount(loop.Name(), target, "ext4", 0, ""))
	require.NoError(t, loop.Close())
	t.Cleanup(func() { require.NoError(t, unix.Unmount(target, unix.MNT_DETACH)) })
	require.NoError(t, os.Chmod(target, 0o711))

	full := newBench(t, func(c *Config) { c.StateFolder, c.PreallocateDisks, c.MinFreeDisk = target, true, 4*mebi })
	spec := garden.ContainerSpec{Handle: "h", Image: full.image(), Limits: garden.Limits{DiskInBytes: 64 * mebi}}
	_, err = full.backend.Create(t.Context(), spec)
	require.ErrorIs(t, err, garden.ErrDiskFull, "the disk of the container cannot be had")
	require.Empty(t, full.leftovers(t))
	spec.Limits.DiskInBytes = mebi
	_, err = full.backend.Create(t.Context(), spec)
	require.NoError(t, err, "a smaller one can")
	require.NoError(t, full.backend.Destroy(t.Context(), "h"))

	ballast := filepath.Join(target, "ballast")
	content := make([]byte, mebi)
	file, err := os.Create(ballast)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(content)
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, file.Close())
	spec.Limits.DiskInBytes = 0
	_, err = full.backend.Create(t.Context(), spec)
	require.ErrorIs(t, err, garden.ErrDiskFull)
	require.Empty(t, full.leftovers(t))
	require.NoError(t, os.Remove(ballast))
	_, err = full.backend.Create(t.Context(), spec)
	require.NoError(t, err, "when there is room again, so are containers")
}

// TestExhausted has all addresses and all ports of a cell in use: what more is asked for is refused by name and leaves
// nothing, and what is given back can be had again.
func TestExhausted(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.NetworkPool = netip.PrefixFrom(c.NetworkPool.Addr(), 29) })
	b.create(t, "one")
	ports := make([]garden.NetIn, int(b.cfg.HostPortLast-b.cfg.HostPortFirst)+1)
	for at := range ports {
		ports[at].ContainerPort = uint32(8000 + at)
	}
	spec := garden.ContainerSpec{Handle: "two", Image: b.image(), NetIn: append(ports, garden.NetIn{ContainerPort: 1})}
	_, err := b.backend.Create(t.Context(), spec)
	require.ErrorIs(t, err, garden.ErrPortsExhausted)
	spec.NetIn = ports
	_, err = b.backend.Create(t.Context(), spec)
	require.NoError(t, err, "a refusal has taken nothing")
	_, err = b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "three", Image: b.image()})
	require.ErrorIs(t, err, garden.ErrNoAddress)
	require.NoError(t, b.backend.Destroy(t.Context(), "one"))
	_, err = b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "three", Image: b.image(), NetIn: ports[:1]})
	require.ErrorIs(t, err, garden.ErrPortsExhausted)
	require.NoError(t, b.backend.Destroy(t.Context(), "two"))
	_, err = b.backend.Create(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, b.backend.Destroy(t.Context(), "two"))
	require.Empty(t, b.leftovers(t))
}

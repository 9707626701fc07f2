package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

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
	first := uint16(61001 + number%200*20)
	folder := filepath.Join(m.folder, fmt.Sprintf("cell-%d", number))
	require.NoError(tb, os.MkdirAll(folder, 0o711))
	return Config{
		Socket:        m.daemon.Address(),
		StateFolder:   folder,
		SharedFolder:  filepath.Join(m.folder, "shared"),
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
	var err error
	b.backend, err = New(context.WithoutCancel(t.Context()), b.cfg)
	require.NoError(t, err)
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
			Capabilities: gardentest.Capabilities{Programs: true, Network: true, Limits: true},
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

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"diego.internal/executor/garden/busybox"
	"diego.internal/executor/garden/containerd"
	"diego.internal/executor/garden/containerd/privatedaemon"
)

// machine is a containerd of our own with what cells on it need. All of it lies in one folder.
type machine struct {
	folder string
	rootfs string
	daemon *privatedaemon.Daemon
}

func newMachine(ctx context.Context) (*machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containers need root")
	}
	folder, err := os.MkdirTemp("", "cb") // short, because a unix socket lies below it
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	m := &machine{folder: folder, rootfs: filepath.Join(folder, "rootfs")}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *machine) start(ctx context.Context) error {
	if err := os.Chmod(m.folder, 0o711); err != nil { //nolint:gosec // users of containers pass through it
		return fmt.Errorf("opening the folder: %w", err)
	}
	for _, name := range []string{"garden-init", "garden-logger"} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(m.folder, name), "diego.internal/executor/cmd/"+name) //nolint:gosec // names from above
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w: %s", name, err, out)
		}
	}
	if err := busybox.Build(ctx, m.rootfs); err != nil {
		return err
	}
	var err error
	m.daemon, err = privatedaemon.Start(ctx, filepath.Join(m.folder, "d"))
	return err
}

// close ends the daemon with all containers that it still has, and removes the folder.
func (m *machine) close() error {
	var err error
	if m.daemon != nil {
		err = m.daemon.Stop()
	}
	return errors.Join(err, os.RemoveAll(m.folder))
}

// engine describes a cell of this machine. Two cells of one run are not there at the same time, so they share the networks,
// which follow from our process id, because another run may be under way.
func (m *machine) engine(name string, containers int) containerd.Config {
	pid := os.Getpid()
	return containerd.Config{
		Socket:        m.daemon.Address(),
		StateFolder:   filepath.Join(m.folder, name, "garden"),
		RootFS:        map[string]string{"busybox": m.rootfs},
		NetworkPool:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(200 + pid%50), byte(pid / 50 % 8 * 32), 0}), 19), //nolint:gosec // remainders
		ExternalIP:    netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		MaxContainers: containers + 1, // the executor keeps one for checks of the engine
		InitBinary:    filepath.Join(m.folder, "garden-init"),
		LoggerBinary:  filepath.Join(m.folder, "garden-logger"),
		CellID:        fmt.Sprintf("bench-%d-%s", pid, name),
		Log:           errorLog(),
	}
}

// errorLog tells what went wrong on standard error; all else is what is measured.
func errorLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

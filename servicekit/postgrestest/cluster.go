package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/servicekit/postgres/privateserver"
)

const (
	folderPattern = "postgrestest-"
	startTimeout  = 2 * time.Minute
)

// shared is the one server of this test binary. It is global because tests of one binary have nothing
// else in common, and a server for each would cost a second each.
//
//nolint:gochecknoglobals // see above
var shared = sync.OnceValues(startCluster)

// cluster is a running server and the template databases in it.
type cluster struct {
	server *privateserver.Server
	admin  *pgxpool.Pool
	// lock is held as long as the process lives, and tells others that the folder is in use.
	lock *os.File
	// leash is never written to; its end is the sign for the watchdog.
	leash *os.File

	mu        sync.Mutex
	templates map[uintptr]*template
	databases int
}

func startCluster() (*cluster, error) {
	sweep()
	folder, err := os.MkdirTemp("", folderPattern)
	if err != nil {
		return nil, err
	}
	// The server's user has to get through.
	if err := os.Chmod(folder, 0o755); err != nil {
		return nil, err
	}
	c := &cluster{templates: map[uintptr]*template{}}
	if c.lock, err = lockFolder(folder); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c.server, err = privateserver.Start(ctx, privateserver.Config{Folder: filepath.Join(folder, "pg"), Unsafe: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	if err := c.watch(folder); err != nil {
		return nil, errors.Join(err, c.server.Stop(ctx), os.RemoveAll(folder))
	}
	if c.admin, err = pgxpool.New(ctx, c.server.ConnectionString("postgres")); err != nil {
		return nil, err
	}
	return c, nil
}

// watch starts a process that removes the folder when this one has ended, however it ended: the
// kernel then closes the leash, and has already told the server to end.
func (c *cluster) watch(folder string) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	const script = `cat >/dev/null; while kill -0 "$1" 2>/dev/null; do sleep 0.05; done; rm -rf -- "$2"`
	cmd := exec.Command("sh", "-c", script, "watchdog", strconv.Itoa(c.server.PID()), folder) // without a context: it must outlive us
	cmd.Stdin = reader
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is not meant for it
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the watchdog of %s: %w", folder, err), reader.Close(), writer.Close())
	}
	c.leash = writer
	return reader.Close()
}

// lockFolder marks a folder as in use by this process.
func lockFolder(folder string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// sweep removes what is left of test binaries that died together with their watchdog.
func sweep() {
	folders, err := filepath.Glob(filepath.Join(os.TempDir(), folderPattern+"*"))
	if err != nil {
		return // a bad pattern
	}
	for _, folder := range folders {
		if _, err := os.Stat(filepath.Join(folder, "lock")); err != nil {
			continue // just being made, or not ours
		}
		if f, err := lockFolder(folder); err == nil {
			// Another user's folder stays; the tests do not depend on it.
			_ = os.RemoveAll(folder)
			_ = f.Close()
		}
	}
}

// Package busybox builds a small root filesystem out of Debian's busybox-static: enough for samples, tests and the
// self-check of a cell on a machine that reaches no image registry. It owns the layout of that filesystem and nothing
// about how engines use it.
package busybox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binary is where Debian's busybox-static installs itself.
const Binary = "/bin/busybox"

// VcapID is the user and group id of vcap, the user of applications.
const VcapID = 1000

// ErrNotStatic says that the busybox of this machine needs libraries that the root filesystem will not have.
var ErrNotStatic = errors.New("busybox is missing or not static (Debian package busybox-static)")

// etc are the files that programs look users and names up in.
var etc = map[string]string{ //nolint:gosec // names of users, no secrets
	"passwd":        "root:x:0:0:root:/root:/bin/sh\nvcap:x:1000:1000:vcap:/home/vcap:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
	"group":         "root:x:0:\nvcap:x:1000:\nnogroup:x:65534:\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"stack-version": "1\n",
	"profile":       "export PS1='\\h:\\w\\$ '\n",
}

// Build fills folder, which must not exist yet or be empty, with the root filesystem. It runs as root, because files
// belong to the users of the container.
func Build(ctx context.Context, folder string) error {
	if err := build(ctx, folder); err != nil {
		return fmt.Errorf("building busybox root filesystem in %s: %w", folder, err)
	}
	return nil
}

func build(ctx context.Context, folder string) error {
	applets, err := applets(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"", "bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "var", "root", "home", "home/vcap"} {
		if err := makeFolder(filepath.Join(folder, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "var/tmp"} {
		if err := makeFolder(filepath.Join(folder, name), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(folder, "home/vcap"), VcapID, VcapID); err != nil {
		return fmt.Errorf("giving home to vcap: %w", err)
	}
	if err := copyBinary(filepath.Join(folder, "bin/busybox")); err != nil {
		return err
	}
	for _, applet := range applets {
		link := filepath.Join(folder, applet)
		if err := makeFolder(filepath.Dir(link), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/bin/busybox", link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("linking applet: %w", err)
		}
	}
	for name, content := range etc {
		path := filepath.Join(folder, "etc", name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return fmt.Errorf("writing /etc: %w", err)
		}
		if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // readable by all users of the container
			return fmt.Errorf("writing /etc: %w", err)
		}
	}
	return nil
}

// makeFolder gives a folder its mode whatever the umask of the builder.
func makeFolder(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("making folders: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("making folders: %w", err)
	}
	return nil
}

// applets asks busybox which commands it is, as paths like "bin/sh", and so finds out whether it runs at all.
func applets(ctx context.Context) ([]string, error) {
	dynamic, err := needsInterpreter(Binary)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotStatic, err)
	}
	if dynamic {
		return nil, ErrNotStatic
	}
	out, err := exec.CommandContext(ctx, Binary, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("listing applets: %w", err)
	}
	return strings.Fields(string(out)), nil
}

func copyBinary(to string) error {
	source, err := os.Open(Binary)
	if err != nil {
		return fmt.Errorf("copying busybox: %w", err)
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755) //nolint:gosec // a program that every user may run
	if err != nil {
		return fmt.Errorf("copying busybox: %w", err)
	}
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Chmod(0o755), target.Close()); err != nil {
		return fmt.Errorf("copying busybox: %w", err)
	}
	return nil
}

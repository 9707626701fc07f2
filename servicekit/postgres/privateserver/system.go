package privateserver

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// binaries finds the folder of the newest installed server.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err // a bad pattern
	}
	if len(found) == 0 {
		return "", errors.New("no postgres server in /usr/lib/postgresql/*/bin: install the Debian package \"postgresql\" (apt-get install postgresql)")
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), nil
}

// version returns the major version in /usr/lib/postgresql/15/bin/postgres, or 0.
func version(path string) int {
	n, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0
	}
	return n
}

// unprivileged returns the user to run as: postgres refuses to run as root. It is nil, the own user,
// if we are not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil is the credential of the own user
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, fmt.Errorf("reading the ids of user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("neither a user postgres nor a user nobody to run postgres as")
}

// owned makes a folder and gives it to the server's user.
func owned(folder string, owner *syscall.Credential) error {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // clients enter it for the socket
		return err
	}
	if owner == nil {
		return nil
	}
	return os.Chown(folder, int(owner.Uid), int(owner.Gid))
}

// environment is free of PG* variables, which would change what the server does.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
}

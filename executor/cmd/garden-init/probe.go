package main

import (
	"fmt"
	"os"
	"syscall"
)

// probe finds out whether the kernel lets this process, which was started in new namespaces, mount what every container
// has. It returns the exit code.
func probe() int {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return refused("making mounts private", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/dev"}} {
		if err := syscall.Mount(m.kind, m.at, m.kind, syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
			return refused("mounting "+m.kind, err)
		}
	}
	return 0
}

func refused(what string, err error) int {
	_, _ = fmt.Fprintf(os.Stderr, "%s in a user namespace: %v\n", what, err)
	return 1
}

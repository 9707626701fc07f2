// Command garden-init is the first process of each container. It does nothing but reap the children that processes of
// the container leave behind, and ignores every signal that can be ignored, so that the container ends only when it
// is destroyed. It must be a static binary, because it runs in a root filesystem that may hold nothing else. With the
// argument probe it tries instead what containers need of a user namespace, and says what was refused.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		os.Exit(probe())
	}
	// No collector: this program allocates nothing after its start, and a collector would start threads, which count
	// against the limit of the container and cannot be had when that is used up.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(1)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for {
		reap()
		<-ended
	}
}

// reap collects every child that has ended by now. A child that ends later sends another signal.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

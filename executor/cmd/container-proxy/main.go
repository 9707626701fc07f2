// Command container-proxy is the TLS proxy of one container (package proxy). It is a static binary that the cell shows in the
// container and runs there as root, beside the application. It ends on SIGTERM after the connections have ended, or when it
// cannot serve. Argument: the folder of its configuration and credentials.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"diego.internal/executor/proxy"
)

// maxProcessors and gcPercent keep it small: there is one for each container with ports.
const (
	maxProcessors = 4
	gcPercent     = 50
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "container-proxy:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcessors))
	debug.SetGCPercent(gcPercent)
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the folder of the configuration, have %q", args)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	return proxy.Run(ctx, args[0], slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

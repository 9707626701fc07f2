// Bench measures a BBS of its own, on a Postgres of its own with everything that protects its data, and
// beside it what plain statements cost on the same Postgres in the same run (the floor). It prints one
// row "name n value unit" for each measurement on standard output, and nothing else there.
//
// The BBS is a process of its own with the real store, API, convergence and mutual TLS, but without
// lock service, auctioneer and cells: callers are up to 1,000 cells with a certificate each, and an
// operator.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgres/privateserver"
)

func main() {
	n := flag.Int("n", 5000, "number of LRPs, one instance each")
	serve := flag.String("serve", "", "be the BBS, with the configuration in this file (the program starts itself so)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if *serve != "" {
		err = runServer(ctx, *serve)
	} else {
		err = measure(ctx, *n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// row prints one measurement.
func row(name string, n int, value float64, unit string) {
	fmt.Printf("%s %d %.4g %s\n", name, n, value, unit)
}

// measure starts everything, runs all measurements and stops everything.
func measure(ctx context.Context, n int) (err error) {
	folder, err := os.MkdirTemp("", "bbs-bench-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // the user of Postgres has to pass
		return fmt.Errorf("opening the folder: %w", err)
	}
	server, err := privateserver.Start(ctx, privateserver.Config{Folder: folder + "/postgres", Settings: map[string]string{
		"max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB",
	}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop(context.WithoutCancel(ctx)) }()
	for _, name := range []string{"bbs", "floor"} {
		if err := server.CreateDatabase(ctx, name); err != nil {
			return err
		}
	}

	// The floor first, so that the tables of the BBS do not disturb it.
	floorPool, err := postgres.Open(ctx, postgres.Config{ConnectionString: server.ConnectionString("floor"), MaxConnections: callers})
	if err != nil {
		return err
	}
	err = measureFloor(ctx, floorPool, n)
	floorPool.Close()
	if err != nil {
		return fmt.Errorf("measuring the floor: %w", err)
	}

	w, err := startWorld(ctx, folder, server.ConnectionString("bbs"), n)
	if err != nil {
		return err
	}
	defer w.stop()
	return w.measure(ctx)
}

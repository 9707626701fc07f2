// Bench measures the BBS: the real process, with a real locket, on a Postgres of its own that keeps everything that protects
// its data, over mutual TLS. Beside it, it measures what plain statements cost on the same Postgres in the same run (the
// floor). It prints one row "name n value unit" for each measurement on standard output, and nothing else there. What a
// measurement cost of the processors, and the memory after it, go to standard error.
//
// Callers are an operator and 1,000 cells, each with a certificate and a connection of its own, as a fleet has them. The cells
// have presences in locket. The auctioneer accepts every auction and places nothing, because the passes claim and start
// themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgres/privateserver"
)

// callersGC is how much the heap of this program may grow before it is collected, in percent.
const callersGC = 400

func main() {
	n := flag.Int("n", 5000, "number of LRPs, one instance each")
	profiles := flag.String("profiles", "", "write profiles of the BBS and of this program during each measurement into this folder")
	flag.Parse()
	// Callers, watchers and the floor share the processors with what is measured, and have memory to spare.
	debug.SetGCPercent(callersGC)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := measure(ctx, *n, *profiles)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row prints one measurement.
func row(name string, n int, value float64, unit string) {
	fmt.Printf("%s %d %.4g %s\n", name, n, value, unit)
}

// measure starts everything, runs all measurements and stops everything.
func measure(ctx context.Context, n int, profiles string) (err error) {
	if n < 1 {
		return errors.New("-n must be at least 1")
	}
	folder, err := os.MkdirTemp("", "bbs-bench-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // the user of Postgres has to pass
		return fmt.Errorf("opening the folder: %w", err)
	}
	server, err := privateserver.Start(ctx, privateserver.Config{Folder: folder + "/postgres", Settings: map[string]string{
		"max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB",
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	for _, name := range []string{"bbs", "locket", "floor"} {
		if err := server.CreateDatabase(ctx, name); err != nil {
			return err
		}
	}

	// The floor first, so that the tables of the BBS do not disturb it.
	pool, err := postgres.Open(ctx, postgres.Config{ConnectionString: server.ConnectionString("floor"), MaxConnections: callers})
	if err != nil {
		return err
	}
	err = measureFloor(ctx, pool, n)
	pool.Close()
	if err != nil {
		return fmt.Errorf("measuring the floor: %w", err)
	}

	w, err := startWorld(ctx, worldConfig{
		folder: folder, profiles: profiles, n: n, bbs: server.ConnectionString("bbs"), locket: server.ConnectionString("locket"),
	})
	defer func() { err = errors.Join(err, w.stop()) }()
	if err != nil {
		return err
	}
	return w.measure(ctx)
}

// Command scale runs the real control plane (two lockets, BBSs and auctioneers, Postgres, NATS) with many simulated cells
// through the life of a large installation: desire all instances, hold them, lose a tenth of the cells, roll every cell, remove
// everything. After each step no instance may be missing, doubled or left over, neither in the records of the BBS nor on the
// cells. What it cost is a table and a picture; no figure decides whether a run succeeds.
//
// It drives binaries, configuration files and generated clients, never a service's packages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("scale", run)) }

// options of a run.
type options struct {
	// cells, at least 10, so that there is a tenth to lose; instances, in LRPs of perLRP.
	cells, instances int
	// steady is how long the full installation is held and probed.
	steady time.Duration
	// folder takes the results, and the cluster in a folder of its own; bin is where the binaries are.
	folder, bin string
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.IntVar(&o.cells, "cells", 1000, "how many simulated cells, from 10 to 4096")
	flags.IntVar(&o.instances, "instances", 250_000, "how many instances")
	flags.DurationVar(&o.steady, "steady", 3*time.Minute, "how long to hold and probe the full installation")
	flags.StringVar(&o.folder, "folder", ".run-scale", "results, logs and data")
	flags.StringVar(&o.bin, "bin", "bin", "where the binaries are")
	if err := flags.Parse(args); err != nil {
		return lifecycle.WithExitCode(err, lifecycle.ExitConfig)
	}
	if o.cells < 10 || o.cells > 4096 || o.instances < o.cells || o.instances > o.cells*instancesPerCell {
		return lifecycle.WithExitCode(
			fmt.Errorf("cells must be from 10 to 4096, instances from one to %d for each of them", instancesPerCell), lifecycle.ExitConfig)
	}
	return measure(ctx, o)
}

// spendMemory has all processes collect their garbage less often than they do by themselves, unless the environment says how often.
// What is scarce here is processor time, of which a third would go into that: the BBS alone collects whenever it has grown by 40 percent.
func spendMemory() error {
	const growth = "200" // percent
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return os.Setenv("GOGC", growth) // the processes inherit it
}

// measure runs all steps and writes scale.txt and scale.html into the folder, also of a run that failed.
func measure(ctx context.Context, o options) (err error) {
	if err := os.MkdirAll(o.folder, 0o755); err != nil { //nolint:gosec // Postgres, in it, runs as another user
		return fmt.Errorf("making the folder of the results: %w", err)
	}
	if err := spendMemory(); err != nil {
		return err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	err = w.runSteps(ctx)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, w.cluster.Blame())
	}
	err = errors.Join(err, w.stop(ctx))
	table := w.report.table(o)
	fmt.Print("\n", table)
	return errors.Join(err,
		os.WriteFile(filepath.Join(o.folder, "scale.txt"), []byte(table), 0o644),             //nolint:gosec // figures
		os.WriteFile(filepath.Join(o.folder, "scale.html"), []byte(w.report.page(o)), 0o644), //nolint:gosec // figures
	)
}

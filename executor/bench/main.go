// Command bench measures the cell on a containerd of its own: the executor on the real engine, as the rep embeds it. It prints
// one row "name n value unit" for each measurement on standard output, and nothing else there. What else is worth a look goes
// to standard error in the same form.
//
// A creation counts from the order to the event that says RUNNING: reserving, building the container with its network, and
// starting its process. Beside it stands the floor, what containerd's own client needs in the same run for a container with
// neither network nor writable layer. What 250 checked containers cost is measured in a process that does nothing else, the
// rep without its servers and clients. It needs root and the Debian packages containerd, runc and busybox-static.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// sizes of a run.
type sizes struct {
	// samples of everything that is measured one at a time.
	samples int
	// parallel containers are created at once, rounds times.
	parallel, rounds int
	// hosted containers are in one process, which is measured twice for the time of settle.
	hosted int
	settle time.Duration
}

func main() {
	host := flag.String("host", "", "internal: be the process that hosts the containers of this description")
	var full sizes
	flag.IntVar(&full.samples, "samples", 40, "containers that are created one at a time")
	flag.IntVar(&full.parallel, "parallel", 50, "containers that are created at a time")
	flag.IntVar(&full.rounds, "rounds", 2, "how often they are")
	flag.IntVar(&full.hosted, "hosted", 250, "containers that one process hosts while it is measured")
	flag.DurationVar(&full.settle, "settle", 10*time.Second, "how long it is measured, with checks and without")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	if *host != "" {
		err = hostContainers(ctx, *host)
	} else {
		err = measure(ctx, full)
	}
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

// aside prints one that nobody has asked for.
func aside(name string, n int, value float64, unit string) {
	fmt.Fprintf(os.Stderr, "%s %d %.4g %s\n", name, n, value, unit)
}

// measure makes the machine, measures, and leaves nothing behind.
func measure(ctx context.Context, s sizes) (err error) {
	m, err := newMachine(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.measureCreation(ctx, s); err != nil {
		return fmt.Errorf("measuring creations: %w", err)
	}
	if err := m.measureHost(ctx, s); err != nil {
		return fmt.Errorf("measuring a host of %d containers: %w", s.hosted, err)
	}
	return nil
}

// measureCreation takes our times and the floor in turn, so that whatever else the machine does adds to both.
func (m *machine) measureCreation(ctx context.Context, s sizes) (err error) {
	c, err := m.openCell(ctx, s.parallel+1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.clean(context.WithoutCancel(ctx))) }()
	floor, err := m.openFloor()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	var create, bare, stop, remove, parallel samples
	for i := range s.samples {
		times, err := c.one(ctx, fmt.Sprintf("one-%d", i))
		if err != nil {
			return err
		}
		create, stop, remove = append(create, times.create), append(stop, times.stop), append(remove, times.remove)
		took, err := floor.create(ctx, fmt.Sprintf("bare-%d", i))
		if err != nil {
			return fmt.Errorf("measuring the floor: %w", err)
		}
		bare = append(bare, took)
	}
	for i := range s.rounds {
		took, err := c.many(ctx, fmt.Sprintf("many-%d", i), s.parallel)
		if err != nil {
			return err
		}
		parallel = append(parallel, took...)
	}
	create.rows("cell_create")
	parallel.rows(fmt.Sprintf("cell_create_%d_parallel", s.parallel))
	row("floor_containerd_create_p50", len(bare), bare.quantile(0.5), "ms")
	row("cell_stop_p50", len(stop), stop.quantile(0.5), "ms")
	aside("floor_containerd_create_p99", len(bare), bare.quantile(0.99), "ms")
	aside("cell_create_over_floor_p50", len(create), create.quantile(0.5)/bare.quantile(0.5), "times")
	aside("cell_delete_p50", len(remove), remove.quantile(0.5), "ms")
	return nil
}

// samples are times of one kind.
type samples []time.Duration

func (s samples) rows(name string) {
	row(name+"_p50", len(s), s.quantile(0.5), "ms")
	row(name+"_p99", len(s), s.quantile(0.99), "ms")
}

// quantile is the smallest sample that at least the share q of all do not exceed, in milliseconds.
func (s samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := min(len(sorted)-1, int(q*float64(len(sorted))))
	return float64(sorted[i].Microseconds()) / 1000
}

// Command local runs the whole system on this machine: `local run` starts it with a sample application and stays, `local smoke`
// checks that it works and that nothing is left afterwards, `local stop` stops one that runs. The Makefile calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"diego.internal/deploy/cluster"
)

// stopTimeout bounds the stop of a cluster.
const stopTimeout = 2 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: local run|smoke|stop [-folder DIR] [-bin DIR] [-cells N] [-port N]")

func run(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet("local "+args[0], flag.ContinueOnError)
	folder := flags.String("folder", ".run", "everything of the cluster lives here")
	bin := flags.String("bin", "bin", "where the binaries are")
	cells := flags.Int("cells", 2, "how many cells")
	port := flags.Int("port", 0, "port of the router on 127.0.0.1; 0 picks a free one")
	if err := flags.Parse(args[1:]); err != nil {
		return errUsage
	}
	if *cells < 1 {
		return fmt.Errorf("-cells must be at least 1, not %d: the sample needs one", *cells)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	options := cluster.Options{Folder: *folder, Bin: *bin, Cells: *cells, RouterPort: *port, Progress: os.Stdout}
	switch args[0] {
	case "run":
		return runUntilStopped(ctx, options)
	case "smoke":
		return smoke(ctx, options)
	case "stop":
		return stop(ctx, options)
	default:
		return errUsage
	}
}

// runUntilStopped starts the cluster and the sample, shows them, and stays until a signal.
func runUntilStopped(ctx context.Context, options cluster.Options) error {
	began := time.Now()
	fmt.Println("starting")
	c, err := cluster.Start(ctx, options)
	if err != nil {
		return err
	}
	err = show(ctx, c, began)
	if err == nil {
		<-ctx.Done()
		fmt.Println("\nstopping")
	} else if ctx.Err() != nil {
		err = nil // asked to stop before the sample ran
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := errors.Join(err, c.Stop(stopping)); err != nil {
		return err
	}
	fmt.Println("stopped; nothing is left but the logs in", c.LogFolder())
	return nil
}

func show(ctx context.Context, c *cluster.Cluster, began time.Time) error {
	s, err := newSample(ctx, c)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.push(ctx); err != nil {
		return err
	}
	if err := s.waitTask(ctx); err != nil {
		return err
	}
	if err := s.waitRunning(ctx, sampleInstances); err != nil {
		return err
	}
	if _, err := s.askAll(ctx, sampleInstances); err != nil {
		return err
	}
	env, err := writeEnvironment(c)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"tasks"}, {"actual-lrps"}, {"cells"}} {
		fmt.Println()
		if err := cfdot(ctx, c, append(args, "-o", "table")...); err != nil {
			return err
		}
	}
	fmt.Printf(`
ready after %.1f s. Three instances of the sample answer in turn:

  curl -H 'Host: %s' http://%s/

Point cfdot at this cluster in another terminal:

  eval "$(cat %s)"
  cfdot actual-lrps
  cfdot logs %s --follow

Logs of all processes: %s
Stop with Ctrl-C here, or "make stop" elsewhere.
`, time.Since(began).Seconds(), sampleHost, c.RouterAddress(), env, sampleGUID, c.LogFolder())
	return nil
}

func stop(ctx context.Context, options cluster.Options) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	ran, err := cluster.StopRunning(ctx, options.Folder)
	if err != nil {
		return err
	}
	if ran {
		fmt.Println("stopped")
		return nil
	}
	// A launcher that was killed leaves containers, which only this removes.
	if err := cluster.Remove(ctx, options.Folder, options.Bin); err != nil {
		return err
	}
	fmt.Println("no cluster was running; nothing is left of an earlier one")
	return nil
}

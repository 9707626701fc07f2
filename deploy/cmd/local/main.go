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
	"slices"
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
	if len(args) == 0 || !slices.Contains([]string{"run", "smoke", "stop"}, args[0]) {
		return errUsage
	}
	flags := flag.NewFlagSet("local "+args[0], flag.ContinueOnError)
	folder := flags.String("folder", ".run", "everything of the cluster lives here")
	bin := flags.String("bin", "bin", "where the binaries are")
	cells := flags.Int("cells", 2, "how many cells")
	port := flags.Int("port", 0, "port of the router on 127.0.0.1; 0 picks a free one")
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return nil // the flags have been shown
	case err != nil:
		return errUsage // what is wrong has been said
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; %w", flags.Arg(0), errUsage)
	}
	if *cells < 1 {
		return fmt.Errorf("-cells must be at least 1, not %d: the sample needs one", *cells)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	options := cluster.Options{Folder: *folder, Bin: *bin, Cells: *cells, RouterPort: *port, ContainerProxies: true, Progress: os.Stdout}
	switch args[0] {
	case "run":
		return runUntilStopped(ctx, options)
	case "smoke":
		return smoke(ctx, options)
	default:
		return stop(ctx, options)
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
	identity, err := s.identity(ctx)
	if err != nil {
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
ready after %.1[1]f s. Three instances of the sample answer in turn:

  curl -H 'Host: %[2]s' http://%[3]s/

Each has a certificate of its own, here of %[4]s until %[5]s:

  curl -H 'Host: %[2]s' http://%[3]s/identity | openssl x509 -noout -subject -ext subjectAltName

Point cfdot at this cluster in another terminal:

  eval "$(cat %[6]s)"
  cfdot actual-lrps
  cfdot logs %[7]s --follow

Logs of all processes: %[8]s
Stop with Ctrl-C here, or "make stop" elsewhere.
`, time.Since(began).Seconds(), sampleHost, c.RouterAddress(),
		identity.Subject.CommonName, identity.NotAfter.Format(time.DateTime), env, sampleGUID, c.LogFolder())
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

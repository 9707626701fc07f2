// Package command holds the commands of cfdot, one file for each noun. A command is one call of the API and a printer; what
// they have in common, flags, connections and exit codes, is in this file and its neighbours.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/config"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitUsage       = 3   // arguments, flags, environment or file are wrong
	ExitAPI         = 4   // a server refused
	ExitOther       = 5   // anything else
	ExitNotFound    = 6   // there is no such thing
	ExitUnreachable = 7   // no server answered in time
	ExitPartial     = 8   // some of several cells did not answer
	ExitInterrupted = 130 // Ctrl-C
)

// usageError is the user's mistake.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errPartial says that what was printed is not all.
var errPartial = errors.New("some cells did not answer")

// Environment is what a command runs in.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads a variable.
	Getenv func(string) string
	// Terminal says whether standard output is one, and how wide it is.
	Terminal bool
	Width    int
}

// app is the state of one invocation.
type app struct {
	Environment
	flags flags
	// now is fixed for a run, so that ages in one table agree.
	now time.Time
}

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, args []string, env Environment) int {
	a := &app{Environment: env, now: time.Now()}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return a.report(ctx, root, args, err)
}

// report prints an error in the form of its class.
func (a *app) report(ctx context.Context, root *cobra.Command, args []string, err error) int {
	var mistake usageError
	switch {
	case err == nil, errors.Is(err, output.ErrClosed):
		return ExitOK
	case errors.Is(context.Cause(ctx), errInterrupted), ctx.Err() != nil:
		return ExitInterrupted
	case errors.Is(err, errPartial):
		fmt.Fprintln(a.Stderr, err)
		return ExitPartial
	case errors.As(err, &mistake):
		fmt.Fprintf(a.Stderr, "%v\n\n", mistake.error)
		if command, _, found := root.Find(args); found == nil {
			fmt.Fprint(a.Stderr, command.UsageString())
		}
		return ExitUsage
	default:
		return a.reportAPI(err)
	}
}

// errInterrupted is the cause of a context that Ctrl-C ended.
var errInterrupted = errors.New("interrupted")

// Interrupted is the cause to cancel the context of Run with.
func Interrupted() error { return errInterrupted }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cfdot",
		Short: "See and change what a scheduler of tasks and long-running processes does",
		Long: `cfdot talks to the BBS, to locket and to the reps of cells. It keeps no state and reads no file but certificates.
Lists are lines of JSON for programs and a table on a terminal (-o).

  cfdot actual-lrps | jq -r .state | sort | uniq -c     instances by state
  cfdot logs PROCESS --follow                           what an application prints
  cfdot lrp-events                                      what happens`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       config.BuildVersion(),
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(command *cobra.Command, _ []string) error { return a.flags.complete(command, a) }
	a.flags.register(root)
	groups := [][]*cobra.Command{a.lrps(), a.taskCommands(), a.domains(), a.cells(), a.events(), a.locket(), a.logs()}
	for _, group := range groups {
		root.AddCommand(group...)
	}
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "The version of this program", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Stdout, config.BuildVersion())
			return err
		},
	})
	return root
}

// exactly checks the arguments by name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("Missing arguments: %s", strings.Join(names[len(args):], ", "))
		case len(args) > len(names):
			return usage("Too many arguments: %q", args[len(names):])
		}
		for i, arg := range args {
			if arg == "" {
				return usage("%s must not be empty", names[i])
			}
		}
		return nil
	}
}

// document reads a JSON document from the argument, from a file (@FILE) or from standard input (@-).
func (a *app) document(arg string) ([]byte, error) {
	name, isFile := strings.CutPrefix(arg, "@")
	if !isFile {
		return []byte(arg), nil
	}
	if name == "-" {
		text, err := io.ReadAll(a.Stdin)
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return text, nil
	}
	text, err := os.ReadFile(name) //nolint:gosec // the user's file
	if err != nil {
		return nil, usage("reading the document: %w", err)
	}
	return text, nil
}

// printer makes the printer that the flags ask for.
func printer[T any](a *app, columns ...output.Column[T]) *output.Printer[T] {
	return output.New(output.Options{Format: a.flags.format, Out: a.Stdout, Width: a.Width, NoHeaders: a.flags.noHeaders}, columns...)
}

// printAll prints records as they are read and the table at the end.
func printAll[T any](p *output.Printer[T], read func(print func(T) error) error) error {
	err := read(p.Print)
	return errors.Join(err, p.Close())
}

// printOne prints one record.
func printOne[T any](p *output.Printer[T], record T) error {
	return printAll(p, func(print func(T) error) error { return print(record) })
}

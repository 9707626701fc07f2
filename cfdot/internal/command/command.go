// Package command holds the commands of cfdot, one file for each noun. A command is one call of the API and a printer; what
// they have in common, flags, connections and exit codes, is in this file and its neighbours.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/telemetry"
)

// Environment is what a command runs in.
type Environment struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads a variable.
	Getenv func(string) string
	// Terminal says whether standard output is one, and how wide it is.
	Terminal bool
	Width    int
	// Interactive says whether somebody can be asked: standard input is a terminal.
	Interactive bool
}

// app is the state of one invocation.
type app struct {
	Environment
	flags flags
	// now is fixed for a run, so that ages in one table agree.
	now       time.Time
	requestID string
}

// Run runs one command line and returns the exit code.
func Run(ctx context.Context, args []string, env Environment) int {
	env.Stdout = output.Writer{Out: env.Stdout}
	// One trace for all requests of the command: the logs of the servers know them by its id.
	ctx, id := telemetry.StartTrace(ctx)
	a := &app{Environment: env, now: time.Now(), requestID: id}
	root := a.root() //nolint:contextcheck // commands get ctx when they are run
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	return a.report(ctx, command, err)
}

// Groups of commands in the help, in their order.
const (
	groupLook   = "look"
	groupLRPs   = "lrps"
	groupTasks  = "tasks"
	groupCells  = "cells"
	groupFollow = "follow"
	groupLocket = "locket"
	groupOther  = "other"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cfdot",
		Short: "See and change what a scheduler of tasks and long-running processes does",
		Long: `cfdot talks to the BBS, to locket, to the auctioneer and to the reps of cells. It keeps no state, and reads no file but certificates
and the user's list of clusters. Lists are lines of JSON for programs and a table on a terminal (-o).`,
		Example: `  cfdot summary                     the platform in numbers
  cfdot diff                        what does not run as it should
  cfdot describe lrp PROCESS        why it does not, and what happened
  cfdot doctor                      is the platform itself well?`,
		SilenceErrors: true,
		// How many letters of a mistyped command may be wrong for it to be recognised.
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Version:                    config.BuildVersion(),
		// Only what is no command comes here with arguments.
		Args: func(root *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(root, args[0])
		},
		RunE: func(root *cobra.Command, _ []string) error { return root.Help() },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.flags.complete(a) }
	a.flags.register(root)
	for _, group := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{groupLook, "What is going on:", slices.Concat(a.summary(), a.describe(), a.find(), a.diff(), a.wait(), a.doctor())},
		{groupLRPs, "Long-running processes:", slices.Concat(a.lrps(), a.groups(), a.placements(), a.domains())},
		{groupTasks, "Tasks:", a.taskCommands()},
		{groupCells, "Cells:", a.cells()},
		{groupFollow, "Events, logs and use:", slices.Concat(a.events(), a.logs(), a.top())},
		{groupLocket, "Locks and presences:", a.locket()},
		{groupOther, "Other:", []*cobra.Command{a.contexts(), a.version()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, command := range group.commands {
			command.GroupID = group.id
		}
		addExamples(group.commands)
		root.AddCommand(group.commands...)
	}
	a.addCompletions(root)
	root.SetHelpCommand(help(root))
	root.SetCompletionCommandGroupID(groupOther)
	return root
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of this program", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Stdout, config.BuildVersion())
			return err
		},
	}
}

func help(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about a command", GroupID: groupOther,
		// Help must work where the environment is wrong.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(_ *cobra.Command, args []string) error {
			command, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			return command.Help()
		},
	}
}

func unknownCommand(root *cobra.Command, name string) error {
	if near := root.SuggestionsFor(name); len(near) > 0 {
		return usage("unknown command %q; did you mean %s?", name, strings.Join(near, " or "))
	}
	return usage("unknown command %q", name)
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
	return output.New(output.Options{Format: a.flags.format, Out: a.Stdout, Width: a.Width, NoHeaders: a.flags.noHeaders, Color: a.color()}, columns...)
}

// color says whether the reader shows colours and wants them.
func (a *app) color() bool {
	return a.Terminal && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"
}

// printAll prints records as they are read and the table at the end.
func printAll[T any](p *output.Printer[T], read func(show func(T) error) error) error {
	err := read(p.Print)
	return errors.Join(err, p.Close())
}

// printOne prints one record.
func printOne[T any](p *output.Printer[T], record T) error {
	return printAll(p, func(show func(T) error) error { return show(record) })
}

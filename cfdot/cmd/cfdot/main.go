// Command cfdot is the CLI of operators.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"diego.internal/cfdot/internal/command"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupts
		cancel(command.Interrupted())
		signal.Stop(interrupts) // a second one ends us at once
	}()
	// A reader that goes away, as head does, shows as an error of the write and not as a signal that kills us.
	signal.Ignore(syscall.SIGPIPE)
	env := command.Environment{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	env.Interactive = term.IsTerminal(int(os.Stdin.Fd()))
	if descriptor := int(os.Stdout.Fd()); term.IsTerminal(descriptor) {
		env.Terminal = true
		env.Width, _, _ = term.GetSize(descriptor) // 0 cuts nothing
	}
	return command.Run(ctx, os.Args[1:], env)
}

package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// safety of a command that takes something away. On a terminal it asks; a script that has always called the command is not asked.
type safety struct {
	yes, dryRun bool
}

func (s *safety) register(command *cobra.Command) {
	command.Flags().BoolVarP(&s.yes, "yes", "y", false, "do not ask")
	command.Flags().BoolVar(&s.dryRun, "dry-run", false, "say what would happen, and do nothing")
}

// allow says whether to go on with what is described, as in "stop instance 3 of my-app".
func (s *safety) allow(a *app, format string, args ...any) (bool, error) {
	what := fmt.Sprintf(format, args...)
	switch {
	case s.dryRun:
		_, err := fmt.Fprintf(a.Stdout, "would %s\n", what)
		return false, err
	case s.yes:
		return true, nil
	case !a.Interactive:
		return true, nil
	}
	_, _ = fmt.Fprintf(a.Stderr, "On %s: %s. Go on? [y/N] ", a.flags.cluster(), what)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	default:
		return false, conclusion{exit: ExitOther, name: "NotConfirmed", text: "nothing was done"}
	}
}

// demand refuses to go on without a word of consent, where nobody can be asked for it.
func (s *safety) demand(a *app, format string, args ...any) error {
	if s.yes || s.dryRun || a.Interactive {
		return nil
	}
	return usage("%s; repeat with --yes", fmt.Sprintf(format, args...))
}

// reads says whether it takes to know more of what is at stake: nobody reads it otherwise.
func (s *safety) reads(a *app) bool { return s.dryRun || a.Interactive && !s.yes }

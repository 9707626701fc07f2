package schema

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var files embed.FS

// Change is one direction of a step. It runs in a transaction that the runner commits together with the
// number of the version, so it must neither commit nor have other effects, and it must not be idle
// between two statements for longer than idleTimeout. It must put up with leftovers in the tables and
// columns that it is about to fill.
type Change func(ctx context.Context, tx pgx.Tx) error

// Step leads from one version of the schema to the next.
type Step struct {
	// Version that the step leads to; that before is one less.
	Version int64
	// Name tells people what it is about.
	Name string
	Up   Change
	// Down undoes Up. It is nil for the first step, because nothing is before it, and for a step that is
	// additive: the release before works on the schema as it is after the step.
	Down     Change
	Additive bool
}

// The lines that divide the file of a step.
const (
	downMark     = "---- down ----"
	additiveMark = "---- additive ----"
)

// Steps returns the steps of this program in order.
func Steps() ([]Step, error) {
	migrations, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, fmt.Errorf("opening the steps of the schema: %w", err)
	}
	return stepsFrom(migrations)
}

// Built is the version that this program was built for.
func Built() int64 {
	entries, err := files.ReadDir("migrations")
	if err != nil {
		return 0 // the directory is in the program
	}
	return int64(len(entries))
}

// stepsFrom reads files named NNN_name.sql, which must be numbered from 1 without gap.
func stepsFrom(migrations fs.FS) ([]Step, error) {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("listing the steps of the schema: %w", err)
	}
	slices.Sort(names)
	steps := make([]Step, 0, len(names))
	for i, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, fmt.Errorf("reading step %s: %w", name, err)
		}
		version := int64(i + 1)
		title, numbered := strings.CutPrefix(strings.TrimSuffix(name, ".sql"), fmt.Sprintf("%03d_", version))
		if !numbered {
			return nil, fmt.Errorf("step %s: the next number is %03d", name, version)
		}
		step := stepFrom(string(text))
		step.Version, step.Name = version, title
		steps = append(steps, step)
	}
	return steps, checkSteps(steps)
}

func stepFrom(text string) Step {
	up, down, hasDown := strings.Cut(text, downMark)
	up, _, additive := strings.Cut(up, additiveMark)
	step := Step{Up: statements(up), Additive: additive}
	if hasDown {
		step.Down = statements(down)
	}
	return step
}

// checkSteps makes sure that every version but the first can be left again.
func checkSteps(steps []Step) error {
	for i := range steps {
		s := &steps[i]
		switch {
		case s.Version != int64(i+1):
			return fmt.Errorf("step %s has version %d, want %d", s.Name, s.Version, i+1)
		case i > 0 && (s.Down != nil) == s.Additive:
			return fmt.Errorf("step %d %s needs either a way down or the mark of an additive one", s.Version, s.Name)
		}
	}
	return nil
}

// statements returns the change that executes each statement of a text in turn. They are sent one by
// one, so that a lost lock stops the step between two of them.
func statements(text string) Change {
	all := split(text)
	return func(ctx context.Context, tx pgx.Tx) error {
		for i, sql := range all {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("statement %d of %d: %w", i+1, len(all), err)
			}
		}
		return nil
	}
}

// split divides a text at the semicolons that end statements: those outside comments, quotes and
// dollar quotes. Block comments and backslashes in quotes are not known; the steps have none.
func split(text string) []string {
	var all []string
	start := 0
	for i := 0; i < len(text); {
		if skipped := skipQuoted(text[i:]); skipped > 0 {
			i += skipped
			continue
		}
		if text[i] == ';' {
			all = appendStatement(all, text[start:i])
			start = i + 1
		}
		i++
	}
	return appendStatement(all, text[start:])
}

// skipQuoted returns the length of the comment or quoted part that a text begins with, or 0.
func skipQuoted(text string) int {
	switch {
	case strings.HasPrefix(text, "--"):
		return through(text, 2, "\n")
	case text[0] == '\'' || text[0] == '"':
		return through(text, 1, text[:1])
	case text[0] == '$':
		tag := strings.IndexByte(text[1:], '$') + 2
		if tag < 2 || strings.Trim(text[1:tag-1], "abcdefghijklmnopqrstuvwxyz_") != "" {
			return 0 // a parameter, not a quote
		}
		return through(text, tag, text[:tag])
	}
	return 0
}

// through returns where the first mark after a position ends, or the length of the text.
func through(text string, from int, mark string) int {
	if at := strings.Index(text[from:], mark); at >= 0 {
		return from + at + len(mark)
	}
	return len(text)
}

// appendStatement adds a statement unless it is nothing but comments.
func appendStatement(all []string, text string) []string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
			return append(all, strings.TrimSpace(text))
		}
	}
	return all
}

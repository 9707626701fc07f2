package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// problemError is one fault of one key.
type problemError struct{ key, text string }

func (p *problemError) Error() string { return p.key + ": " + p.text }

// Invalid returns the fault of one key, for Validate methods: Load adds the line of the key. The key is
// the YAML name inside the section of the struct, or a path such as "tls.ca" or "addresses.0".
func Invalid(key, format string, args ...any) error {
	return &problemError{key: key, text: fmt.Sprintf(format, args...)}
}

// found is one problem with its line; line 0 is not known.
type found struct {
	line int
	text string
}

// decode fills target (a pointer to a struct) from data and reports every problem at once.
func decode(file string, data []byte, target any) error {
	value := reflect.ValueOf(target)
	setDefaults(value)

	var problems []found
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return fmt.Errorf("%s: %w", file, err) // no YAML at all: nothing more can be said
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(target)
	if typeErr, ok := errors.AsType[*yaml.TypeError](err); ok {
		for _, text := range typeErr.Errors {
			problems = append(problems, parseProblem(text))
		}
	} else if err != nil && !errors.Is(err, io.EOF) { // an empty file is a configuration of defaults
		problems = append(problems, parseProblem(err.Error()))
	}
	if err == nil && !errors.Is(dec.Decode(new(yaml.Node)), io.EOF) {
		problems = append(problems, found{text: "only one YAML document is allowed"})
	}

	// A key that could not be decoded has its zero value; what Validate says of that is noise.
	undecoded := map[int]bool{}
	for _, p := range problems {
		undecoded[p.line] = p.line > 0
	}
	v := validator{root: &root, seen: map[string]bool{}}
	v.walk(value, nil)
	for _, p := range v.problems {
		if !undecoded[p.line] {
			problems = append(problems, p)
		}
	}
	return join(file, problems)
}

// join makes one error of the problems, in the order of the file.
func join(file string, problems []found) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b found) int { return a.line - b.line })
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = file + ": " + p.text
		if p.line > 0 {
			lines[i] = file + ":" + strconv.Itoa(p.line) + ": " + p.text
		}
	}
	if len(lines) == 1 {
		return errors.New(lines[0])
	}
	return fmt.Errorf("%d problems in the configuration:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// parseProblem splits yaml's "line 3: text"; the Go type name in "field x not found in type y" says
// nothing to an operator.
func parseProblem(text string) found {
	text = strings.TrimPrefix(text, "yaml: ")
	line := 0
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, after, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, text = n, after
			}
		}
	}
	if key, ok := strings.CutPrefix(text, "field "); ok {
		if key, _, ok := strings.Cut(key, " not found in type "); ok {
			text = fmt.Sprintf("unknown key %q", key)
		}
	}
	return found{line: line, text: text}
}

package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Error lists what is wrong with a document, by field.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// problems gathers what is wrong with a document, so that all of it is told at once.
type problems struct{ list []string }

func (p *problems) add(field, format string, args ...any) {
	p.list = append(p.list, field+": "+fmt.Sprintf(format, args...))
}

func (p *problems) take(prefix string, err error) {
	var other *Error
	if errors.As(err, &other) {
		for _, problem := range other.Problems {
			p.list = append(p.list, prefix+problem)
		}
	}
}

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	return &Error{Problems: p.list}
}

// enum finds the number of a value by its short name, in any case; empty is unspecified.
func (p *problems) enum(field, prefix, name string, values map[string]int32) int32 {
	if name == "" {
		return 0
	}
	number, ok := values[prefix+strings.ToUpper(name)]
	if !ok || number == 0 {
		p.add(field, "%q is not one of its values", name)
	}
	return number
}

func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// decode reads one JSON document with known names only.
func decode(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return &Error{Problems: []string{readable(err)}}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &Error{Problems: []string{"something follows the document"}}
	}
	return nil
}

func readable(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("not JSON, at byte %d: %v", syntax.Offset, syntax)
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Sprintf("%s: must be %s, is a JSON %s", kind.Field, kind.Type, kind.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

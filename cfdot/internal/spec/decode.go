package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Error lists what is wrong with a document, by field.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// problems gathers what is wrong with a document, so that all of it is told at once.
type problems struct{ list []string }

func (p *problems) add(field, format string, args ...any) {
	if field == "" {
		field = "the document"
	}
	p.list = append(p.list, field+": "+fmt.Sprintf(format, args...))
}

func (p *problems) take(prefix string, err error) {
	if other, ok := errors.AsType[*Error](err); ok {
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

// decode reads one JSON document. The error is an *Error with everything that does not fit.
func decode(text []byte, into any) error {
	var p problems
	if err := check(text, reflect.TypeOf(into).Elem(), &p); err != nil {
		return err
	}
	if err := p.err(); err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return &Error{Problems: []string{err.Error()}}
	}
	return nil
}

// Package fieldpath reads members of documents by a path such as .ports[0].host_port, as -o custom and --until name them. It
// sees a record as its JSON, so a path is what a script would write after jq. It knows no record.
package fieldpath

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Path leads from a document to one of its members. The zero value is the document itself.
type Path struct {
	text  string
	steps []step
}

// step into a member by name, or into an element by number.
type step struct {
	name  string
	index int
	array bool
}

// Parse reads a path: names after dots, of which the first may be left out, and numbers in brackets.
func Parse(text string) (Path, error) {
	p := Path{text: text}
	rest := strings.TrimPrefix(text, ".")
	for rest != "" {
		if number, after, ok := bracketed(rest); ok {
			index, err := strconv.Atoi(number)
			if err != nil || index < 0 {
				return Path{}, fmt.Errorf("%q: [%s] is not the number of an element", text, number)
			}
			p.steps, rest = append(p.steps, step{index: index, array: true}), after
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return Path{}, fmt.Errorf("%q: a name is missing", text)
			}
			p.steps, rest = append(p.steps, step{name: rest[:end]}), rest[end:]
		}
		if after, dot := strings.CutPrefix(rest, "."); dot {
			if after == "" {
				return Path{}, fmt.Errorf("%q ends with a dot", text)
			}
			rest = after
		}
	}
	return p, nil
}

func bracketed(text string) (inside, after string, ok bool) {
	if !strings.HasPrefix(text, "[") {
		return "", "", false
	}
	return strings.Cut(text[1:], "]")
}

// String is the path as it was written.
func (p Path) String() string { return p.text }

// Document is a record to read from.
type Document struct{ root any }

// Of makes a document of anything that has a JSON form.
func Of(record any) (Document, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return Document{}, fmt.Errorf("encoding a record: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // guids of digits and revisions stay as they are
	var d Document
	if err := decoder.Decode(&d.root); err != nil {
		return Document{}, fmt.Errorf("decoding a record: %w", err)
	}
	return d, nil
}

// Get returns the member as text: a string as it is, anything else as JSON. It returns false if there is none.
func (d Document) Get(p Path) (text string, found bool) {
	at := d.root
	for _, s := range p.steps {
		switch container := at.(type) {
		case map[string]any:
			if at, found = container[s.name]; s.array || !found {
				return "", false
			}
		case []any:
			if !s.array || s.index >= len(container) {
				return "", false
			}
			at = container[s.index]
		default:
			return "", false
		}
	}
	switch value := at.(type) {
	case nil:
		return "", false
	case string:
		return value, true
	default:
		encoded, err := json.Marshal(value)
		return string(encoded), err == nil
	}
}

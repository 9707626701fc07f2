package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
)

// checker compares a document with the type that it is to fill and notes everything that does not fit, by field. The
// decoder of the standard library stops at the first, takes names in any spelling and the last of two equal names.
type checker struct {
	decoder  *json.Decoder
	problems *problems
}

// value checks the next value. It returns an error only when the text is no JSON, which was looked at before.
func (c *checker) value(path string, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := c.decoder.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		return c.object(path, t)
	case json.Delim('['):
		return c.array(path, t)
	case nil:
		return nil // as good as absent
	}
	if t == rawMessage {
		return nil
	}
	if problem := c.scalar(token, t); problem != "" {
		c.problems.add(path, "%s", problem)
	}
	return nil
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

func (c *checker) object(path string, t reflect.Type) error {
	known := func(string) (reflect.Type, bool) { return rawMessage, true }
	switch {
	case t == rawMessage:
	case t.Kind() == reflect.Struct:
		fields := members(t)
		known = func(name string) (reflect.Type, bool) {
			field, ok := fields[name]
			return field, ok
		}
	case t.Kind() == reflect.Map:
		known = func(string) (reflect.Type, bool) { return t.Elem(), true }
	default:
		c.problems.add(path, "must be %s, is an object", kindName(t))
	}
	seen := map[string]bool{}
	for c.decoder.More() {
		token, err := c.decoder.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string) // the decoder yields nothing else for a name
		field, ok := known(name)
		switch {
		case !ok:
			c.problems.add(join(path, name), "is no known member")
			field = rawMessage
		case seen[name]:
			c.problems.add(join(path, name), "is given twice")
		}
		seen[name] = true
		if err := c.value(join(path, name), field); err != nil {
			return err
		}
	}
	return c.end()
}

func (c *checker) array(path string, t reflect.Type) error {
	element := rawMessage
	switch {
	case t == rawMessage:
	case t.Kind() == reflect.Slice:
		element = t.Elem()
	default:
		c.problems.add(path, "must be %s, is a list", kindName(t))
	}
	for i := 0; c.decoder.More(); i++ {
		if err := c.value(at(path, i), element); err != nil {
			return err
		}
	}
	return c.end()
}

// end takes the closing bracket.
func (c *checker) end() error {
	_, err := c.decoder.Token()
	return err
}

// scalar says what is wrong with a value for a type; empty if it fits.
func (c *checker) scalar(token json.Token, t reflect.Type) string {
	var fits bool
	var is string
	switch value := token.(type) {
	case string:
		fits, is = t.Kind() == reflect.String, "a text"
	case bool:
		fits, is = t.Kind() == reflect.Bool, strconv.FormatBool(value)
	case json.Number:
		fits, is = numberFits(value.String(), t), value.String()
	}
	if fits {
		return ""
	}
	return fmt.Sprintf("must be %s, is %s", kindName(t), is)
}

func numberFits(number string, t reflect.Type) bool {
	var err error
	switch {
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		_, err = strconv.ParseInt(number, 10, t.Bits())
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		_, err = strconv.ParseUint(number, 10, t.Bits())
	default:
		return false
	}
	return err == nil
}

// kindName is a type in the words of people who write JSON.
func kindName(t reflect.Type) string {
	switch kind := t.Kind(); {
	case kind == reflect.String:
		return "a text"
	case kind == reflect.Bool:
		return "true or false"
	case kind == reflect.Struct || kind == reflect.Map:
		return "an object"
	case kind == reflect.Slice:
		return "a list"
	case kind >= reflect.Uint && kind <= reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	default:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	}
}

// members are the fields of a struct by their JSON names, those of embedded structs included.
func members(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" {
			out[name] = field.Type
			continue
		}
		maps.Copy(out, members(indirect(field.Type)))
	}
	return out
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// check notes what does not fit into t. It returns an *Error for what is no single JSON value.
func check(text []byte, t reflect.Type, p *problems) error {
	if err := json.Unmarshal(text, new(json.RawMessage)); err != nil {
		problem := fmt.Sprintf("not JSON: %v", err)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			problem = fmt.Sprintf("not JSON, at byte %d: %v", syntax.Offset, err)
		}
		return &Error{Problems: []string{problem}}
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	c := &checker{decoder: decoder, problems: p}
	return c.value("", t)
}

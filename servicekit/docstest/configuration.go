package docstest

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.yaml.in/yaml/v3"

	"diego.internal/servicekit/config"
)

// Configuration checks that docs/configuration.md describes, under the heading of a process, every key of its
// configuration file T with its default, and nothing else.
//
// A row is a key, its default and its meaning. A section that several processes have is one row, whose meaning links to
// the heading of the section ("[lock](#lock)"); there its keys stand without the name of the section. A default that
// differs in one process has a row of its own there.
func Configuration[T any](tb testing.TB, process string) {
	tb.Helper()
	var keys []key
	keysOf(reflect.ValueOf(config.Defaults[T]()), "", &keys)
	compareKeys(tb, readPage(tb, "configuration.md"), process, keys)
}

// key is one setting: its path in the file and what it is if the file does not say it, as text.
type key struct{ path, value string }

// keysOf gathers the keys of a struct. Elements of lists are written as in keys[].label.
func keysOf(v reflect.Value, prefix string, out *[]key) {
	typ := v.Type()
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		path := prefix
		if !strings.Contains(options, "inline") {
			if name == "" {
				name = strings.ToLower(field.Name) // the rule of package yaml
			}
			path = strings.TrimPrefix(prefix+"."+name, ".")
		}
		value := v.Field(i)
		switch {
		case isSection(field.Type):
			keysOf(value, path, out)
		case field.Type.Kind() == reflect.Pointer && isSection(field.Type.Elem()):
			keysOf(reflect.Zero(field.Type.Elem()), path, out)
		case field.Type.Kind() == reflect.Slice && isSection(field.Type.Elem()):
			keysOf(reflect.Zero(field.Type.Elem()), path+"[]", out)
		case field.Type.Kind() == reflect.Map && isSection(field.Type.Elem()):
			keysOf(reflect.Zero(field.Type.Elem()), path+"{}", out)
		default:
			*out = append(*out, key{path: path, value: shown(value)})
		}
	}
}

// isSection reports whether the file has a section for a value of the type, and not one value.
func isSection(typ reflect.Type) bool {
	pointer := reflect.PointerTo(typ)
	return typ.Kind() == reflect.Struct &&
		!pointer.Implements(reflect.TypeFor[yaml.Unmarshaler]()) && !pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// shown is a default as the page writes it; "" is the zero value.
func shown(v reflect.Value) string {
	switch {
	case v.IsZero():
		return ""
	case v.Kind() == reflect.Pointer:
		return fmt.Sprint(v.Elem().Interface())
	case v.Type() == reflect.TypeFor[time.Duration]():
		return v.Interface().(time.Duration).String()
	case v.Kind() == reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return strings.Join(parts, ", ")
	default:
		return fmt.Sprint(v.Interface())
	}
}

// same compares a default with what the page says it is.
func same(value, written string) bool {
	if value == written {
		return true
	}
	a, errA := time.ParseDuration(value)
	b, errB := time.ParseDuration(written)
	return errA == nil && errB == nil && a == b
}

var link = regexp.MustCompile(`\]\(#([a-z0-9-]+)\)`)

// entry is a key as the page has it.
type entry struct {
	value, meaning string
	used           bool
}

// entries reads the table under a heading and follows its links to shared sections.
func entries(tb testing.TB, p page, heading string) map[string]*entry {
	tb.Helper()
	all := map[string]*entry{}
	put := func(path string, r row) {
		value := ""
		if quoted := codes(r.cell(1)); len(quoted) > 0 {
			value = quoted[0]
		}
		all[path] = &entry{value: value, meaning: r.cell(2)}
	}
	for pass := range 2 { // rows of the process override those of the section
		for _, r := range p.tables[heading] {
			for _, path := range codes(r.cell(0)) {
				shared := link.FindStringSubmatch(r.cell(2))
				switch {
				case shared == nil && pass == 1:
					put(path, r)
				case shared != nil && pass == 0:
					if len(p.tables[shared[1]]) == 0 {
						assert.Fail(tb, fmt.Sprintf("docs/%s has no table under %q", p.name, shared[1]))
					}
					for inner, e := range entries(tb, p, shared[1]) {
						all[path+"."+inner] = e
					}
				}
			}
		}
	}
	return all
}

func compareKeys(tb testing.TB, p page, process string, keys []key) {
	tb.Helper()
	all := entries(tb, p, process)
	for _, k := range keys {
		e := all[k.path]
		switch {
		case e == nil:
			assert.Fail(tb, fmt.Sprintf("docs/%s lacks %s (default %q) under %q", p.name, k.path, k.value, process))
			continue
		case k.value != "" && !same(k.value, e.value):
			assert.Fail(tb, fmt.Sprintf("docs/%s: the default of %s is %s, not %q", p.name, k.path, k.value, e.value))
		case e.meaning == "":
			assert.Fail(tb, fmt.Sprintf("docs/%s: %s has no meaning", p.name, k.path))
		}
		e.used = true
	}
	for path, e := range all {
		if !e.used {
			assert.Fail(tb, fmt.Sprintf("docs/%s describes %s under %q, which the process does not have", p.name, path, process))
		}
	}
}

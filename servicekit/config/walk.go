package config

import (
	"errors"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

type (
	defaulter interface{ SetDefaults() }
	validated interface{ Validate() error }
)

// setDefaults calls SetDefaults on every nested struct, inner ones first, so that an outer one can
// change what its sections chose.
func setDefaults(ptr reflect.Value) {
	if ptr.Elem().Kind() != reflect.Struct {
		return
	}
	eachField(ptr, func(_ string, field reflect.Value) { setDefaults(field.Addr()) })
	if d, ok := reflect.TypeAssert[defaulter](ptr); ok {
		d.SetDefaults()
	}
}

// eachField calls fn for each exported field that is a struct; key is "" for an inlined one.
func eachField(ptr reflect.Value, fn func(key string, field reflect.Value)) {
	typ := ptr.Elem().Type()
	for i := range typ.NumField() {
		if field := typ.Field(i); field.IsExported() && field.Type.Kind() == reflect.Struct {
			fn(yamlKey(field), ptr.Elem().Field(i))
		}
	}
}

func yamlKey(field reflect.StructField) string {
	name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	switch {
	case strings.Contains(options, "inline"):
		return ""
	case name == "":
		return strings.ToLower(field.Name) // the rule of package yaml
	}
	return name
}

// validator collects what the Validate methods of a configuration find.
type validator struct {
	root     *yaml.Node
	problems []found
	seen     map[string]bool // a promoted Validate is called twice; its problems count once
}

// walk validates the struct behind ptr, which is the section named by path, and all inside it.
func (v *validator) walk(ptr reflect.Value, path []string) {
	switch ptr.Elem().Kind() { //nolint:exhaustive // other kinds cannot hold a section
	case reflect.Struct:
		eachField(ptr, func(key string, field reflect.Value) { v.walk(field.Addr(), appendKey(path, key)) })
		v.elements(ptr, path)
	case reflect.Pointer:
		if !ptr.Elem().IsNil() {
			v.walk(ptr.Elem(), path)
		}
		return
	}
	if val, ok := reflect.TypeAssert[validated](ptr); ok {
		v.add(path, val.Validate())
	}
}

// elements validates the structs inside the slices, maps and pointers of a struct.
func (v *validator) elements(ptr reflect.Value, path []string) {
	typ := ptr.Elem().Type()
	for i := range typ.NumField() {
		field := typ.Field(i)
		if !field.IsExported() {
			continue
		}
		value, key := ptr.Elem().Field(i), yamlKey(field)
		switch field.Type.Kind() { //nolint:exhaustive // other kinds cannot hold a section
		case reflect.Pointer:
			v.walk(value.Addr(), appendKey(path, key))
		case reflect.Slice:
			for j := range value.Len() {
				v.walk(value.Index(j).Addr(), appendKey(appendKey(path, key), index(j)))
			}
		case reflect.Map:
			for _, k := range value.MapKeys() {
				element := reflect.New(value.Type().Elem()) // map elements have no address
				element.Elem().Set(value.MapIndex(k))
				v.walk(element, appendKey(appendKey(path, key), k.String()))
			}
		}
	}
}

// add records err, each part of a joined error for itself.
func (v *validator) add(path []string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // of errors.Join
		for _, part := range joined.Unwrap() {
			v.add(path, part)
		}
		return
	}
	text := err.Error()
	if p, ok := errors.AsType[*problemError](err); ok {
		text = p.text
		for key := range strings.SplitSeq(p.key, ".") {
			path = appendKey(path, key)
		}
	}
	if len(path) > 0 {
		text = strings.Join(path, ".") + ": " + text
	}
	if !v.seen[text] {
		v.seen[text] = true
		v.problems = append(v.problems, found{line: lineOf(v.root, path), text: text})
	}
}

// appendKey never shares the backing array, since siblings append to the same path.
func appendKey(path []string, key string) []string {
	if key == "" {
		return path
	}
	return append(append(make([]string, 0, len(path)+1), path...), key)
}

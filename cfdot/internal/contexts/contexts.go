// Package contexts owns the file that names clusters: where their servers are and with which certificate to reach them. The file
// is the user's; nothing here writes it.
package contexts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Context is one cluster.
type Context struct {
	Name string `yaml:"name" json:"name"`
	// BBS, Locket and Auctioneer are addresses, separated by commas.
	BBS        string `yaml:"bbs" json:"bbs"`
	Locket     string `yaml:"locket" json:"locket,omitempty"`
	Auctioneer string `yaml:"auctioneer" json:"auctioneer,omitempty"`
	// CA, Certificate and Key are files; relative ones are beside the file of contexts.
	CA          string `yaml:"ca" json:"ca"`
	Certificate string `yaml:"certificate" json:"certificate"`
	Key         string `yaml:"key" json:"key"`
}

// File is what the file holds.
type File struct {
	// Current is the context for those who name none; it may be empty.
	Current  string    `yaml:"current"`
	Contexts []Context `yaml:"contexts"`
}

// Path of the file: the variable CFDOT_CONTEXTS, or cfdot/contexts.yaml in the folder for configuration of the user.
func Path(getenv func(string) string) string {
	if path := getenv("CFDOT_CONTEXTS"); path != "" {
		return path
	}
	if folder := getenv("XDG_CONFIG_HOME"); folder != "" {
		return filepath.Join(folder, "cfdot", "contexts.yaml")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "cfdot", "contexts.yaml")
	}
	return ""
}

// Load reads the file. One that does not exist is empty; one that is wrong in any way is an error that names it.
func Load(path string) (File, error) {
	if path == "" {
		return File{}, nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // the user's file
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, nil
	}
	if err != nil {
		return File{}, fmt.Errorf("reading the contexts: %w", err)
	}
	var file File
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return File{}, fmt.Errorf("reading the contexts in %s: %w", path, err)
	}
	seen := map[string]bool{}
	for i := range file.Contexts {
		c := &file.Contexts[i]
		switch {
		case c.Name == "":
			return File{}, fmt.Errorf("reading the contexts in %s: number %d has no name", path, i+1)
		case seen[c.Name]:
			return File{}, fmt.Errorf("reading the contexts in %s: %q is there twice", path, c.Name)
		}
		seen[c.Name] = true
		for _, name := range []*string{&c.CA, &c.Certificate, &c.Key} {
			if *name != "" && !filepath.IsAbs(*name) {
				*name = filepath.Join(filepath.Dir(path), *name)
			}
		}
	}
	return file, nil
}

// ErrUnknown says that the file has no such context.
var ErrUnknown = errors.New("no such context")

// Find returns a context by name.
func (f File) Find(name string) (Context, error) {
	for _, c := range f.Contexts {
		if c.Name == name {
			return c, nil
		}
	}
	return Context{}, fmt.Errorf("%q: %w; there are %q", name, ErrUnknown, f.Names())
}

// Names of all contexts in their order.
func (f File) Names() []string {
	names := make([]string, 0, len(f.Contexts))
	for _, c := range f.Contexts {
		names = append(names, c.Name)
	}
	return slices.Clip(names)
}

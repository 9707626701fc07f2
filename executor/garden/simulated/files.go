package simulated

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"diego.internal/executor/garden"
)

// files is the disk of a container: cleaned absolute path to content. Folders exist by having files below them.
type files struct{ content map[string][]byte }

func (f *files) put(name string, content []byte) {
	if f.content == nil {
		f.content = map[string][]byte{}
	}
	f.content[name] = content
}

// home is the folder to which relative paths of a user belong.
func home(user string) string {
	if user == "" || user == "root" {
		return "/root"
	}
	return "/home/" + user
}

func absolute(user, name string) string {
	if !path.IsAbs(name) {
		name = path.Join(home(user), name)
	}
	return path.Clean(name)
}

func (c *container) checkUser(user string) error {
	if user != "" && !slices.Contains(c.engine.cfg.Users, user) {
		return fmt.Errorf("%w %q", garden.ErrUnknownUser, user)
	}
	return nil
}

// StreamIn keeps the regular files of the stream; entries that would leave the target folder are refused.
func (c *container) StreamIn(ctx context.Context, spec garden.StreamInSpec) error {
	if err := c.streamIn(ctx, spec); err != nil {
		return fmt.Errorf("streaming into %q of %q: %w", spec.Path, c.spec.Handle, err)
	}
	return nil
}

func (c *container) streamIn(ctx context.Context, spec garden.StreamInSpec) error {
	if err := c.alive(ctx); err != nil {
		return err
	}
	if err := c.checkUser(spec.User); err != nil {
		return err
	}
	root := absolute(spec.User, spec.Path)
	unpacked := map[string][]byte{}
	for reader := tar.NewReader(spec.Tar); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading tar stream: %w", err)
		}
		name := path.Join(root, header.Name) //nolint:gosec // checked in the next line, and no file of the machine
		if name != root && !strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/") {
			return fmt.Errorf("%w: entry %q leaves the folder", garden.ErrInvalidSpec, header.Name)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if unpacked[name], err = io.ReadAll(reader); err != nil {
			return fmt.Errorf("reading tar entry %q: %w", header.Name, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, content := range unpacked {
		c.files.put(name, content)
	}
	return nil
}

// StreamOut packs a file, or a folder with all below it; a path that ends in a slash leaves the folder's own name out.
func (c *container) StreamOut(ctx context.Context, spec garden.StreamOutSpec) (io.ReadCloser, error) {
	packed, err := c.streamOut(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("streaming %q out of %q: %w", spec.Path, c.spec.Handle, err)
	}
	return io.NopCloser(packed), nil
}

func (c *container) streamOut(ctx context.Context, spec garden.StreamOutSpec) (*bytes.Buffer, error) {
	if err := c.alive(ctx); err != nil {
		return nil, err
	}
	if err := c.checkUser(spec.User); err != nil {
		return nil, err
	}
	root := absolute(spec.User, spec.Path)
	base := path.Dir(root)
	if strings.HasSuffix(spec.Path, "/") {
		base = root
	}
	packed := &bytes.Buffer{}
	writer := tar.NewWriter(packed)
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for _, name := range slices.Sorted(maps.Keys(c.files.content)) {
		if name != root && !strings.HasPrefix(name, strings.TrimSuffix(root, "/")+"/") {
			continue
		}
		found = true
		content := c.files.content[name]
		header := &tar.Header{Name: strings.TrimPrefix(strings.TrimPrefix(name, base), "/"), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := writer.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("packing %q: %w", name, err)
		}
		if _, err := writer.Write(content); err != nil {
			return nil, fmt.Errorf("packing %q: %w", name, err)
		}
	}
	if !found {
		return nil, garden.ErrPathNotFound
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("closing tar stream: %w", err)
	}
	return packed, nil
}

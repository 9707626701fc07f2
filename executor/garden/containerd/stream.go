package containerd

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// StreamIn unpacks with containerd's archive package on a thread inside the container, as the user.
func (c *container) StreamIn(ctx context.Context, spec garden.StreamInSpec) error {
	if err := c.streamIn(ctx, spec); err != nil {
		return fmt.Errorf("streaming into %q of %q: %w", spec.Path, c.handle, err)
	}
	return nil
}

func (c *container) streamIn(ctx context.Context, spec garden.StreamInSpec) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	owner, err := c.identity(spec.User)
	if err != nil {
		return err
	}
	target := workingFolder(spec.Path, owner)
	return c.inside(func() error {
		if err := makeFolders(target, owner); err != nil {
			return err
		}
		return owner.as(func() error {
			_, err := archive.Apply(ctx, target, spec.Tar,
				archive.WithFilter(owner.admit),
				// Names that mean a deletion in an image layer are ordinary names here.
				archive.WithConvertWhiteout(func(*tar.Header, string) (bool, error) { return true, nil }))
			switch {
			case errors.Is(err, unix.ENOSPC):
				return fmt.Errorf("%w: unpacking: %w", c.fullDisk(), err)
			case err != nil:
				return fmt.Errorf("unpacking: %w", err)
			}
			return nil
		})
	})
}

// fullDisk says whose disk is full when the container cannot write.
func (c *container) fullDisk() error {
	if r := c.view(); r.hasDisk() {
		return garden.ErrOutOfDisk
	}
	return garden.ErrDiskFull
}

// admit refuses entries that would leave the folder or make devices, and makes all others the user's.
func (i identity) admit(header *tar.Header) (bool, error) {
	if leaves(header.Name) || (header.Typeflag == tar.TypeLink && leaves(header.Linkname)) {
		return false, fmt.Errorf("%w: entry %q leaves the folder", garden.ErrInvalidSpec, header.Name)
	}
	switch header.Typeflag {
	case tar.TypeBlock, tar.TypeChar:
		return false, fmt.Errorf("%w: entry %q is a device", garden.ErrInvalidSpec, header.Name)
	}
	header.Uid, header.Gid = int(i.users.host(i.uid)), int(i.users.host(i.gid))
	header.Uname, header.Gname = "", ""
	return true, nil
}

// leaves tells whether a name of a tar stream climbs above the folder it is unpacked in. A leading slash is harmless:
// it means the folder.
func leaves(name string) bool {
	cleaned := path.Clean(strings.TrimLeft(name, "/"))
	return cleaned == ".." || strings.HasPrefix(cleaned, "../")
}

// StreamOut packs while the caller reads. A path that ends in a slash leaves the folder's own name out of the names.
func (c *container) StreamOut(ctx context.Context, spec garden.StreamOutSpec) (io.ReadCloser, error) {
	stream, err := c.streamOut(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("streaming %q out of %q: %w", spec.Path, c.handle, err)
	}
	return stream, nil
}

func (c *container) streamOut(ctx context.Context, spec garden.StreamOutSpec) (io.ReadCloser, error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	reader, err := c.identity(spec.User)
	if err != nil {
		return nil, err
	}
	from := workingFolder(spec.Path, reader)
	if found, err := c.exists(from); err != nil {
		return nil, err
	} else if !found {
		return nil, garden.ErrPathNotFound
	}
	base := path.Dir(from)
	if strings.HasSuffix(spec.Path, "/") {
		base = from
	}
	pipe, writer := io.Pipe()
	c.backend.wait.Go(func() {
		stop := context.AfterFunc(ctx, func() { _ = writer.CloseWithError(context.Cause(ctx)) })
		defer stop()
		closed := context.AfterFunc(c.backend.ctx, func() { //nolint:contextcheck // the Backend's end ends the stream too
			_ = writer.CloseWithError(errClosed)
		})
		defer closed()
		err := c.inside(func() error {
			return reader.as(func() error { return reader.users.pack(writer, from, base) })
		})
		_ = writer.CloseWithError(err) // nil means the end of the stream
	})
	return pipe, nil
}

// pack writes a file or a tree, with names relative to base. It is for use inside.
func (r UserRange) pack(to io.Writer, from, base string) error {
	writer := tar.NewWriter(to)
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(base, name)
		if err != nil || relative == "." {
			return err
		}
		return r.packEntry(writer, entry, name, relative)
	})
	if err := errors.Join(err, writer.Close()); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	return nil
}

func (r UserRange) packEntry(writer *tar.Writer, entry fs.DirEntry, name, relative string) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed while we walked
	}
	if err != nil {
		return fmt.Errorf("looking at %s: %w", name, err)
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(name); err != nil {
			return fmt.Errorf("reading link: %w", err)
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return nil // sockets, pipes and devices mean nothing elsewhere
	}
	header, err := tar.FileInfoHeader(nameless{info}, link)
	if err != nil {
		return fmt.Errorf("describing %s: %w", name, err)
	}
	header.Uid, header.Gid = int(r.inside(uint32(header.Uid))), int(r.inside(uint32(header.Gid))) //nolint:gosec // numbers that the kernel gave
	if header.Name = relative; info.IsDir() {
		header.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return writer.WriteHeader(header)
	}
	return packFile(writer, header, name)
}

func packFile(writer *tar.Writer, header *tar.Header, name string) error {
	// Neither a link nor a pipe that took the file's place since we looked.
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // inside the container, as its user
	if err != nil {
		return fmt.Errorf("opening file: %w", err)
	}
	defer func() { _ = file.Close() }()
	if err := writer.WriteHeader(header); err != nil {
		return fmt.Errorf("describing %s: %w", name, err)
	}
	// A file that grows is cut at the size announced; one that shrinks makes the stream invalid, and the reader sees it.
	if _, err := io.CopyN(writer, file, header.Size); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	return nil
}

// nameless keeps tar from looking users up, which would be the machine's.
type nameless struct{ fs.FileInfo }

func (nameless) Uname() (string, error) { return "", nil }
func (nameless) Gname() (string, error) { return "", nil }

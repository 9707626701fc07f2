package transfer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxEntries bounds the files of one unpacked archive.
const maxEntries = 200_000

// ErrTooManyEntries says that an archive has more files than we unpack.
var ErrTooManyEntries = errors.New("archive has too many entries")

// Extract unpacks a tar stream into dir, which must exist, and returns the bytes of its files. No entry can come to lie
// outside: every path is resolved below a handle of dir, also through links. Link targets are kept as they are. Owners
// are not kept. Devices and other special files are left out. reserve is called with the size of each file before it is
// written and may refuse.
func Extract(dir string, in io.Reader, reserve func(bytes int64) error) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("opening target folder: %w", err)
	}
	defer func() { _ = root.Close() }() // a handle of a folder has nothing to lose
	var total int64
	archive := tar.NewReader(in)
	for n := 0; ; n++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("reading archive: %w", err)
		}
		if n >= maxEntries {
			return total, fmt.Errorf("unpacking: more than %d: %w", maxEntries, ErrTooManyEntries)
		}
		if header.Typeflag == tar.TypeReg {
			if err := reserve(header.Size); err != nil {
				return total, fmt.Errorf("unpacking %q: %w", header.Name, err)
			}
			total += header.Size
		}
		if err := extractEntry(root, archive, header); err != nil {
			return total, fmt.Errorf("unpacking %q: %w", header.Name, err)
		}
	}
}

func extractEntry(root *os.Root, content io.Reader, header *tar.Header) error {
	// A leading slash means the top of the archive; whatever still points outside is refused by root.
	name := filepath.Clean(strings.TrimLeft(filepath.FromSlash(header.Name), "/"))
	if name == "." {
		return nil
	}
	mode := header.FileInfo().Mode().Perm()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, mode|0o700)
	case tar.TypeReg:
		return extractFile(root, name, content, mode)
	case tar.TypeSymlink:
		if err := removeOld(root, name); err != nil {
			return err
		}
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		if err := removeOld(root, name); err != nil {
			return err
		}
		return root.Link(filepath.Clean(strings.TrimLeft(header.Linkname, "/")), name)
	default:
		return nil
	}
}

func extractFile(root *os.Root, name string, content io.Reader, mode fs.FileMode) error {
	// A later entry of the same name replaces the earlier one, and never writes through a link.
	if err := removeOld(root, name); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, content); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Chmod(mode), file.Close()) // the umask may have taken bits away
}

func removeOld(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

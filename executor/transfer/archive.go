package transfer

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// Errors of archives.
var (
	// ErrUnknownFormat says that a file is neither tar nor gzip'd tar nor zip.
	ErrUnknownFormat = errors.New("unknown archive format")
	// ErrTooLarge is wrapped with the limit that was exceeded.
	ErrTooLarge = errors.New("size limit exceeded")
)

// Archive is a downloaded file.
type Archive struct {
	// Size in bytes as downloaded.
	Size int64
	// Validators of this version; empty if the server named none.
	Validators Validators
	// Cached says that nothing had to be received for it.
	Cached bool

	file        *os.File
	maxInflated int64
	discard     func() error
}

// Reopen reads an archive that MoveTo has put at path. Its Remove closes it and then calls discard.
func (c *Client) Reopen(path string, discard func() error) (*Archive, error) {
	file, err := os.Open(path) //nolint:gosec // named by our own caller, not by a user
	if err != nil {
		return nil, fmt.Errorf("opening archive: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("measuring archive: %w", err), file.Close())
	}
	return &Archive{Size: info.Size(), Cached: true, file: file, maxInflated: c.cfg.MaxBytes, discard: discard}, nil
}

// MoveTo renames the file to a path of the same file system; from then on it is the caller's, and Remove closes the
// archive and calls discard.
func (a *Archive) MoveTo(path string, discard func() error) error {
	if err := os.Rename(a.file.Name(), path); err != nil {
		return fmt.Errorf("moving archive: %w", err)
	}
	a.discard = discard
	return nil
}

// Remove closes the archive and deletes the file, unless somebody keeps it.
func (a *Archive) Remove() error {
	return errors.Join(a.file.Close(), a.discard())
}

// Tar reads the archive as an uncompressed tar, whatever its form. Reading fails with ErrTooLarge when it unpacks to more
// than the limit. The caller closes the stream before it removes the archive; one stream at a time.
func (a *Archive) Tar() (io.ReadCloser, error) {
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewinding archive: %w", err)
	}
	in := bufio.NewReaderSize(a.file, 64<<10)
	switch head, _ := in.Peek(512); {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		inflated, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("reading gzip header: %w", err)
		}
		inner := bufio.NewReaderSize(a.bound(inflated), 64<<10)
		if head, _ := inner.Peek(512); !isTar(head) {
			return nil, ErrUnknownFormat
		}
		return io.NopCloser(inner), nil
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return a.zipAsTar()
	case isTar(head):
		return io.NopCloser(a.bound(in)), nil
	default:
		return nil, ErrUnknownFormat
	}
}

// isTar looks for the magic of ustar and GNU tar; the end of an empty tar is a block of zeros.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	return bytes.Equal(head[257:262], []byte("ustar")) || bytes.Equal(head, make([]byte, 512))
}

func (a *Archive) bound(in io.Reader) io.Reader {
	return &limited{in: in, left: a.maxInflated, limit: a.maxInflated}
}

// zipAsTar rewrites entry by entry while the stream is read.
func (a *Archive) zipAsTar() (io.ReadCloser, error) {
	archive, err := zip.NewReader(a.file, a.Size)
	if err != nil {
		return nil, fmt.Errorf("reading zip directory: %w", err)
	}
	out, in := io.Pipe()
	go func() {
		to := tar.NewWriter(in)
		left := a.maxInflated
		var err error
		for _, entry := range archive.File {
			if err = copyEntry(to, entry, &left, a.maxInflated); err != nil {
				break
			}
		}
		if err == nil {
			err = to.Close()
		}
		in.CloseWithError(err) // ends with the reader: a closed reader makes every write fail
	}()
	return out, nil
}

func copyEntry(to *tar.Writer, entry *zip.File, left *int64, limit int64) error {
	content, err := entry.Open()
	if err != nil {
		return fmt.Errorf("opening zip entry %q: %w", entry.Name, err)
	}
	defer func() { _ = content.Close() }() // only read from
	info := entry.FileInfo()
	link := ""
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := io.ReadAll(io.LimitReader(content, 4096))
		if err != nil {
			return fmt.Errorf("reading link %q: %w", entry.Name, err)
		}
		link = string(target)
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("converting zip entry %q: %w", entry.Name, err)
	}
	header.Name = entry.Name
	if err := to.WriteHeader(header); err != nil {
		return fmt.Errorf("writing tar header %q: %w", entry.Name, err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	bounded := &limited{in: content, left: *left, limit: limit}
	if _, err := io.Copy(to, bounded); err != nil {
		return fmt.Errorf("inflating %q: %w", entry.Name, err)
	}
	*left = bounded.left
	return nil
}

// limited fails when more than its limit is read, where io.LimitReader would just end and pass for a whole file.
type limited struct {
	in    io.Reader
	left  int64
	limit int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		var one [1]byte
		if n, err := l.in.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, fmt.Errorf("more than %d bytes: %w", l.limit, ErrTooLarge)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.in.Read(p)
	l.left -= int64(n)
	return n, err
}

package outputlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// Reader takes a stream up where the last reader of the same folder stopped. It is not safe for concurrent use.
type Reader struct {
	folder, stream string
	delivered      *os.File
	offset         int64 // of the next byte to deliver
	dropped        int64

	file  *os.File // the segment being read, nil between segments
	start int64    // its offset
}

// OpenReader finds out how far an earlier reader came.
func OpenReader(folder, stream string) (*Reader, error) {
	file, err := os.OpenFile(filepath.Join(folder, stream+deliveredSuffix), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the folder is the caller's own
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", stream, err)
	}
	r := &Reader{folder: folder, stream: stream, delivered: file}
	var number [8]byte
	if n, err := file.ReadAt(number[:], 0); n == len(number) {
		r.offset = int64(binary.BigEndian.Uint64(number[:])) //nolint:gosec // written by remember below
	} else if !errors.Is(err, io.EOF) {
		_ = file.Close()
		return nil, fmt.Errorf("reading how far %s was delivered: %w", stream, err)
	}
	return r, nil
}

// Close releases the files; the stream stays.
func (r *Reader) Close() {
	if r.file != nil {
		_ = r.file.Close()
	}
	_ = r.delivered.Close()
}

// Dropped is how many bytes were gone before they could be read.
func (r *Reader) Dropped() int64 { return r.dropped }

// Deliver gives what is there to w, remembering after each write how far it came, and returns whether the stream has
// ended and nothing is left. The first error of w is returned at the end; the bytes concerned count as delivered, so that a
// broken writer cannot hold up the end of a process.
func (r *Reader) Deliver(w io.Writer, buffer []byte) (ended bool, err error) {
	var refused error
	for {
		// The end is looked up first: what was written before it is then seen below.
		end, err := r.end()
		if err != nil {
			return false, err
		}
		n, err := r.read(buffer)
		if err != nil {
			return false, err
		}
		if n == 0 {
			if end >= 0 && r.offset < end {
				// The last bytes did not reach the disk.
				r.dropped += end - r.offset
				r.offset = end
			}
			return end >= 0, refused
		}
		if _, err := w.Write(buffer[:n]); err != nil && refused == nil {
			refused = fmt.Errorf("delivering %s: %w", r.stream, err)
		}
		r.offset += int64(n)
		if err := r.remember(); err != nil {
			return false, err
		}
	}
}

// read fills the buffer from the present segment, or moves on to the next one; 0 means that nothing is there now.
func (r *Reader) read(buffer []byte) (int, error) {
	for {
		if r.file == nil {
			found, err := r.open()
			if err != nil || !found {
				return 0, err
			}
		}
		n, err := r.file.ReadAt(buffer, r.offset-r.start)
		if n > 0 {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("reading %s: %w", r.stream, err)
		}
		next, err := r.next()
		if err != nil || next < 0 {
			return 0, err
		}
		// A later segment exists, so this one is complete; but bytes may have come between the two looks.
		if n, _ := r.file.ReadAt(buffer, r.offset-r.start); n > 0 {
			return n, nil
		}
		r.dropped += next - r.offset
		r.offset = next
		r.discard()
	}
}

// open opens the segment that holds the next byte, or the first one after it.
func (r *Reader) open() (bool, error) {
	segments, err := list(r.folder, r.stream)
	if err != nil || len(segments) == 0 {
		return false, err
	}
	start := segments[0]
	for _, offset := range segments {
		if offset <= r.offset {
			start = offset
		}
	}
	file, err := os.Open(segmentPath(r.folder, r.stream, start))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // the writer dropped it this moment; the next look finds its successor
	}
	if err != nil {
		return false, fmt.Errorf("opening segment of %s: %w", r.stream, err)
	}
	if start > r.offset {
		r.dropped += start - r.offset
		r.offset = start
	}
	r.file, r.start = file, start
	return true, nil
}

// next is the offset of the first segment after the present one, or -1.
func (r *Reader) next() (int64, error) {
	segments, err := list(r.folder, r.stream)
	if err != nil {
		return 0, err
	}
	for _, offset := range segments {
		if offset > r.start {
			return offset, nil
		}
	}
	return -1, nil
}

// discard removes a segment that was delivered whole.
func (r *Reader) discard() {
	_ = r.file.Close()
	_ = os.Remove(r.file.Name()) // the writer may have dropped it already
	r.file = nil
}

func (r *Reader) end() (int64, error) {
	content, err := os.ReadFile(filepath.Join(r.folder, r.stream+endSuffix))
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the end of %s: %w", r.stream, err)
	}
	end, err := strconv.ParseInt(string(content), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the end of %s: %w", r.stream, err)
	}
	return end, nil
}

func (r *Reader) remember() error {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(r.offset)) //nolint:gosec // never negative
	if _, err := r.delivered.WriteAt(number[:], 0); err != nil {
		return fmt.Errorf("remembering how far %s was delivered: %w", r.stream, err)
	}
	return nil
}

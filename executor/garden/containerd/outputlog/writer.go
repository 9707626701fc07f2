// Package outputlog is the form in which the output of a process waits on disk between the logger that writes it (one
// per process, outliving the rep) and the rep that reads it.
//
// A stream is a sequence of bytes numbered from 0. It is stored as segments "<stream>.<offset>", each named by the
// number of its first byte, so that nothing needs to be framed or renamed: the writer begins a new segment when one is
// full and removes the oldest when they exceed its bound, the reader removes segments that it has delivered. A missing
// range is a loss, which the reader counts. "<stream>.end" says that no more will come. The package owns these files
// and knows nothing of containers.
package outputlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Sizes of a stream on disk.
const (
	// SegmentBytes is when a new segment begins.
	SegmentBytes = 1 << 20
	// KeepBytes is what a stream may occupy when nobody reads it; older output is dropped.
	KeepBytes = 16 << 20
)

// Writer appends to one stream. It never blocks on a reader. It is not safe for concurrent use.
type Writer struct {
	folder, stream string
	file           *os.File
	offset         int64 // of the next byte
	room           int   // left in the present segment
}

// NewWriter begins a stream in a folder that exists. No file is made before the first byte.
func NewWriter(folder, stream string) *Writer { return &Writer{folder: folder, stream: stream} }

// Write stores p, or as much of it as the disk takes: what it does not take is left out of the stream, because the
// program that wrote it must go on. The error is for counting only; the writer remains usable.
func (w *Writer) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		if w.room <= 0 {
			if err := w.rotate(); err != nil {
				w.offset += int64(len(p) - written)
				return written, err
			}
		}
		part := p[written:min(len(p), written+w.room)]
		n, err := w.file.Write(part)
		w.offset += int64(len(part))
		w.room -= len(part)
		written += len(part)
		if err != nil {
			// The rest of the segment would have wrong numbers: leave a gap and begin another.
			w.room = 0
			return written - len(part) + n, fmt.Errorf("writing %s: %w", w.stream, err)
		}
	}
	return written, nil
}

func (w *Writer) rotate() error {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
	if err := w.prune(); err != nil {
		return err
	}
	file, err := os.OpenFile(segmentPath(w.folder, w.stream, w.offset), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("beginning segment of %s: %w", w.stream, err)
	}
	w.file, w.room = file, SegmentBytes
	return nil
}

func (w *Writer) prune() error {
	segments, err := list(w.folder, w.stream)
	if err != nil {
		return err
	}
	for len(segments) >= KeepBytes/SegmentBytes {
		if err := os.Remove(segmentPath(w.folder, w.stream, segments[0])); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("dropping old segment of %s: %w", w.stream, err)
		}
		segments = segments[1:]
	}
	return nil
}

// Close says that the stream has ended.
func (w *Writer) Close() error {
	if w.file != nil {
		_ = w.file.Close() // nothing is buffered
	}
	path := filepath.Join(w.folder, w.stream+endSuffix)
	if err := os.WriteFile(path+".new", []byte(strconv.FormatInt(w.offset, 10)), 0o600); err != nil {
		return fmt.Errorf("ending %s: %w", w.stream, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("ending %s: %w", w.stream, err)
	}
	return nil
}

const (
	endSuffix       = ".end"
	deliveredSuffix = ".delivered"
)

func segmentPath(folder, stream string, offset int64) string {
	return filepath.Join(folder, fmt.Sprintf("%s.%020d", stream, offset))
}

// list returns the offsets of the segments that exist, in order.
func list(folder, stream string) ([]int64, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("listing segments of %s: %w", stream, err)
	}
	var offsets []int64
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry.Name(), stream+".")
		if !ok {
			continue
		}
		if offset, err := strconv.ParseInt(digits, 10, 64); err == nil {
			offsets = append(offsets, offset)
		}
	}
	slices.Sort(offsets)
	return offsets, nil
}

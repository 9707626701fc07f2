package logs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// segments is how many files a log is spread over; the oldest goes when one more is needed.
const segments = 4

// maxPending bounds what waits for the disk. Beyond it lines are dropped and counted, because a process must never wait
// for our disk.
const maxPending = 1 << 20

// file is the log of one container: numbered segment files in one folder, appended by one writer at a time.
type file struct {
	dir    string
	limits Limits
	log    *slog.Logger
	flush  func(func()) // runs a flush in the background and is waited for by the store
	// counters is nil while nobody writes to the log.
	counters *Counters

	mu       sync.Mutex
	pending  []entry
	waiting  int // bytes in pending
	dropped  int
	flushing bool
	sealed   bool          // takes no more lines
	closed   bool          // and has written all it took
	numbers  []int64       // segments that exist, ascending
	written  int64         // whole bytes in the newest segment
	changed  chan struct{} // closed and replaced when readers should look again

	// disk is held while writing; what follows belongs to its holder.
	disk   sync.Mutex
	out    *os.File
	lines  int
	tags   *tagSet
	marked bool // the segment has its tags frame
}

func openFile(dir string, limits Limits, log *slog.Logger, flush func(func())) (*file, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making log folder: %w", err)
	}
	f := &file{dir: dir, limits: limits, log: log, flush: flush, changed: make(chan struct{})}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing log folder: %w", err)
	}
	for _, name := range names {
		number, err := strconv.ParseInt(strings.TrimSuffix(name.Name(), ".log"), 10, 64)
		if err == nil && strings.HasSuffix(name.Name(), ".log") {
			f.numbers = append(f.numbers, number)
		}
	}
	slices.Sort(f.numbers)
	if len(f.numbers) > 0 {
		if err := f.resume(f.numbers[len(f.numbers)-1]); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// resume goes on with the newest segment, behind its last whole line.
func (f *file) resume(number int64) error {
	out, err := os.OpenFile(f.path(number), os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening log segment: %w", err)
	}
	in := newScanner(out)
	for {
		if _, err := in.next(); err != nil {
			break // the rest was cut off by a kill, or is damaged: it is written over
		}
		f.lines++
	}
	f.written = in.offset
	if err := errors.Join(out.Truncate(in.offset), out.Close()); err != nil {
		return fmt.Errorf("resuming log segment: %w", err)
	}
	return nil
}

// open makes the newest segment ready to be appended to. It is closed again when nothing more is pending, so that a
// container that says nothing costs no descriptor.
func (f *file) open() error {
	if f.out != nil {
		return nil
	}
	f.mu.Lock()
	numbers, written := f.numbers, f.written
	f.mu.Unlock()
	if len(numbers) == 0 {
		return f.rotate()
	}
	out, err := os.OpenFile(f.path(numbers[len(numbers)-1]), os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening log segment: %w", err)
	}
	if err := seekTo(out, written); err != nil {
		return errors.Join(err, out.Close())
	}
	f.out = out
	return nil
}

func (f *file) closeSegment() error {
	if f.out == nil {
		return nil
	}
	err := f.out.Close()
	f.out = nil
	return err
}

func seekTo(out *os.File, offset int64) error {
	_, err := out.Seek(offset, io.SeekStart)
	return err
}

func (f *file) path(number int64) string {
	return filepath.Join(f.dir, fmt.Sprintf("%012d.log", number))
}

// append takes a line without waiting for the disk.
func (f *file) append(e entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		return
	}
	if f.waiting+e.size() > maxPending {
		f.dropped++
		f.counters.LinesLost.Add(1)
		return
	}
	if f.dropped > 0 {
		note := e
		note.stream, note.message = Err, fmt.Sprintf("%d log lines were dropped because the cell's disk is slow", f.dropped)
		f.pending = append(f.pending, note)
		f.dropped = 0
	}
	f.pending = append(f.pending, e)
	f.waiting += e.size()
	if !f.flushing {
		f.flushing = true
		f.flush(f.drain)
	}
}

// drain writes until nothing is pending.
func (f *file) drain() {
	for f.drainOnce() {
	}
}

func (f *file) drainOnce() bool {
	f.disk.Lock()
	defer f.disk.Unlock()
	f.mu.Lock()
	batch := f.pending
	f.pending, f.waiting = nil, 0
	if len(batch) == 0 {
		f.flushing = false
		f.mu.Unlock()
		if err := f.closeSegment(); err != nil {
			f.log.Warn("closing-log-segment-failed", slog.String("folder", f.dir), slog.Any("error", err))
		}
		return false
	}
	f.mu.Unlock()
	if err := f.write(batch); err != nil {
		f.log.Warn("log-lines-lost", slog.String("folder", f.dir), slog.Int("lines", len(batch)), slog.Any("error", err))
	}
	return true
}

func (f *file) write(batch []entry) error {
	if err := f.open(); err != nil {
		return err
	}
	var buf []byte
	for _, e := range batch {
		if f.full(int64(len(buf) + e.size())) {
			if err := f.commit(buf); err != nil {
				return err
			}
			buf = buf[:0]
			if err := f.rotate(); err != nil {
				return err
			}
		}
		if f.tags != e.tags || !f.marked {
			buf, f.tags, f.marked = appendTags(buf, e.tags), e.tags, true
		}
		buf = appendLine(buf, e)
		f.lines++
	}
	return f.commit(buf)
}

func (f *file) full(more int64) bool {
	return f.lines >= f.limits.Lines/segments || (f.lines > 0 && f.written+more > f.limits.Bytes/segments)
}

// commit writes whole frames and then lets readers see them.
func (f *file) commit(buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	n, err := f.out.Write(buf)
	if err != nil {
		// A frame written in part would hide all later ones.
		return errors.Join(fmt.Errorf("writing %d of %d bytes: %w", n, len(buf), err), f.out.Truncate(f.written), seekTo(f.out, f.written))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += int64(n)
	f.wake()
	return nil
}

func (f *file) rotate() error {
	f.mu.Lock()
	next := int64(1)
	if len(f.numbers) > 0 {
		next = f.numbers[len(f.numbers)-1] + 1
	}
	f.mu.Unlock()
	out, err := os.OpenFile(f.path(next), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("starting log segment: %w", err)
	}
	err = f.closeSegment()
	f.out, f.lines, f.tags, f.marked = out, 0, nil, false
	f.mu.Lock()
	defer f.mu.Unlock()
	f.numbers, f.written = append(f.numbers, next), 0
	for len(f.numbers) > segments {
		err = errors.Join(err, os.Remove(f.path(f.numbers[0])))
		f.numbers = f.numbers[1:]
	}
	f.wake()
	return err
}

// wake is called with mu held.
func (f *file) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// close writes what is pending; readers see the end. Later lines are discarded.
func (f *file) close() error {
	f.mu.Lock()
	f.sealed = true
	f.mu.Unlock()
	f.drain()
	f.disk.Lock()
	defer f.disk.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	f.wake()
	now := time.Now()
	// The sweep counts the time of retention from here.
	return errors.Join(f.closeSegment(), os.Chtimes(f.dir, now, now))
}

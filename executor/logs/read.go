package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"
)

// reader is a place in a log. It costs nothing while it waits.
type reader struct {
	log    *file
	number int64
	in     *os.File
	offset int64
	tags   map[string]string
}

// lines yields what is there and then, if asked, what comes.
func (f *file) read(ctx context.Context, req Request) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		f.drain() // so that a caller reads its own lines
		r := &reader{log: f}
		defer r.close()
		present, err := r.present(req)
		if err != nil {
			yield(Line{}, err)
			return
		}
		for _, line := range present {
			if ctx.Err() != nil || !yield(line, nil) {
				return
			}
		}
		if !req.Follow {
			return
		}
		r.follow(ctx, req.Since, yield)
	}
}

// present reads all that is there now; it is bounded by the limits of the log.
func (r *reader) present(req Request) ([]Line, error) {
	var lines []Line
	for {
		_, more, err := r.step(func(line Line) bool {
			if line.Time.After(req.Since) {
				lines = append(lines, line)
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	if req.Tail > 0 && len(lines) > req.Tail {
		lines = lines[len(lines)-req.Tail:]
	}
	return lines, nil
}

func (r *reader) follow(ctx context.Context, since time.Time, yield func(Line, error) bool) {
	for {
		stopped := false
		wait, more, err := r.step(func(line Line) bool {
			stopped = line.Time.After(since) && !yield(line, nil)
			return !stopped && ctx.Err() == nil
		})
		switch {
		case stopped || ctx.Err() != nil:
			return
		case err != nil:
			yield(Line{}, err)
			return
		case more:
			continue
		case wait == nil:
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		}
	}
}

// step hands out the lines between the reader's place and the end of its segment. More says that there is another
// segment to read at once; otherwise wait is closed on the next change, and nil at the end of a closed log.
func (r *reader) step(visit func(Line) bool) (wait <-chan struct{}, more bool, err error) {
	f, missed := r.log, false
	f.mu.Lock()
	wait = f.changed
	if f.closed {
		wait = nil
	}
	newest := int64(0)
	if len(f.numbers) > 0 {
		newest = f.numbers[len(f.numbers)-1]
	}
	if r.in == nil {
		next, gap, found := f.after(r.number)
		if !found {
			f.mu.Unlock()
			return wait, false, nil
		}
		// Opened under the lock, so that the segment cannot be removed in between.
		r.in, err = os.Open(f.path(next))
		if err != nil {
			f.mu.Unlock()
			return nil, false, fmt.Errorf("opening log segment: %w", err)
		}
		r.number, r.offset, r.tags = next, 0, nil
		missed = gap
	}
	end := int64(-1) // a segment that is not the newest is read to its end
	if r.number == newest {
		end = f.written
	}
	f.mu.Unlock()

	if missed && !visit(Line{Time: time.Now(), Stream: Err, Source: "CELL", Message: "some log lines were dropped because the reader is slow"}) {
		return nil, false, nil
	}
	if err := r.scan(end, visit); err != nil {
		return nil, false, err
	}
	if end >= 0 {
		return wait, false, nil
	}
	err = r.in.Close()
	r.in = nil
	return wait, true, err
}

// after finds the first segment behind number; gap says that segments between are gone. The caller holds mu.
func (f *file) after(number int64) (next int64, gap, found bool) {
	for _, n := range f.numbers {
		if n > number {
			return n, number > 0 && n > number+1, true
		}
	}
	return 0, false, false
}

func (r *reader) scan(end int64, visit func(Line) bool) error {
	if end >= 0 && end <= r.offset {
		return nil
	}
	if _, err := r.in.Seek(r.offset, io.SeekStart); err != nil {
		return fmt.Errorf("seeking in log segment: %w", err)
	}
	var source io.Reader = r.in
	if end >= 0 {
		source = io.LimitReader(r.in, end-r.offset)
	}
	in := newScanner(source)
	in.tags = r.tags
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errBadFrame) {
			break
		}
		if err != nil {
			return err
		}
		if !visit(line) {
			break
		}
	}
	r.offset, r.tags = r.offset+in.offset, in.tags
	return nil
}

func (r *reader) close() {
	if r.in != nil {
		_ = r.in.Close() // only read from
	}
}

package logs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// maxRetired is how many logs of deleted containers are kept at most, whatever their age.
const maxRetired = 500

// ErrNotFound says that no log is kept under that name.
var ErrNotFound = errors.New("log not found")

// Limits of the log of one container.
type Limits struct {
	Bytes int64
	Lines int
}

// Store keeps the logs of all containers of a cell below one folder. Its methods may be called concurrently.
type Store struct {
	dir    string // "" discards everything
	limits Limits
	log    *slog.Logger
	busy   sync.WaitGroup

	counters Counters

	mu   sync.Mutex
	open map[string]*file
}

// NewStore keeps logs below dir, which is made if needed. Logs of an earlier process are found there again.
func NewStore(dir string, limits Limits, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of logs: %w", err)
	}
	return &Store{dir: dir, limits: limits, log: log, open: make(map[string]*file)}, nil
}

// Discard returns a store that keeps no line, and finds none.
func Discard() *Store { return &Store{open: make(map[string]*file)} }

// Counters of all logs of this store. Their fields may be read at any time.
func (s *Store) Counters() *Counters { return &s.counters }

// Create starts an empty log under a name that is usable as a file name; an older log of that name is removed.
func (s *Store) Create(name string, cfg SinkConfig) (*Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.open[name]; ok {
		delete(s.open, name)
		if err := old.close(); err != nil {
			return nil, fmt.Errorf("closing the older log %q: %w", name, err)
		}
	}
	if s.dir != "" {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			return nil, fmt.Errorf("removing the older log %q: %w", name, err)
		}
	}
	return s.sink(name, cfg)
}

// Resume goes on with the log of that name, or starts it.
func (s *Store) Resume(name string, cfg SinkConfig) (*Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sink(name, cfg)
}

func (s *Store) sink(name string, cfg SinkConfig) (*Sink, error) {
	if s.dir == "" {
		return newSink(nil, cfg, &s.counters), nil
	}
	f, ok := s.open[name]
	if !ok {
		var err error
		f, err = openFile(filepath.Join(s.dir, name), s.limits, s.log, s.busy.Go)
		if err != nil {
			return nil, fmt.Errorf("opening log %q: %w", name, err)
		}
		f.counters = &s.counters
		s.open[name] = f
	}
	return newSink(f, cfg, &s.counters), nil
}

// Read yields the lines of a log, and ErrNotFound if there is none of that name.
func (s *Store) Read(ctx context.Context, name string, req Request) iter.Seq2[Line, error] {
	s.mu.Lock()
	f, ok := s.open[name]
	s.mu.Unlock()
	if ok {
		return f.read(ctx, req)
	}
	return func(yield func(Line, error) bool) {
		f, err := s.retired(name)
		if err != nil {
			yield(Line{}, err)
			return
		}
		for line, err := range f.read(ctx, req) {
			if !yield(line, err) {
				return
			}
		}
	}
}

// retired opens a log that nobody writes to any more, just for reading.
func (s *Store) retired(name string) (*file, error) {
	if s.dir == "" {
		return nil, fmt.Errorf("log %q: %w", name, ErrNotFound)
	}
	dir := filepath.Join(s.dir, name)
	info, err := os.Stat(dir)
	if err != nil || filepath.Base(name) != name {
		return nil, fmt.Errorf("log %q: %w", name, ErrNotFound)
	}
	f, err := openFile(dir, s.limits, s.log, s.busy.Go)
	if err != nil {
		return nil, err
	}
	if err := f.close(); err != nil {
		return nil, err
	}
	// Reading must not prolong the retention.
	return f, os.Chtimes(dir, info.ModTime(), info.ModTime())
}

// Retire ends a log; it stays readable until a sweep removes it.
func (s *Store) Retire(name string) error {
	s.mu.Lock()
	f, ok := s.open[name]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	err := f.close()
	// Only now: whoever looked on the disk before would miss the lines that were still pending.
	s.mu.Lock()
	delete(s.open, name)
	s.mu.Unlock()
	return err
}

// Sweep removes retired logs that ended before the given time, and the oldest of too many.
func (s *Store) Sweep(before time.Time) error {
	if s.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("listing logs: %w", err)
	}
	type old struct {
		name  string
		ended time.Time
	}
	var retired []old
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || s.isOpen(e.Name()) {
			continue
		}
		retired = append(retired, old{name: e.Name(), ended: info.ModTime()})
	}
	slices.SortFunc(retired, func(a, b old) int { return b.ended.Compare(a.ended) })
	var problems []error
	for i, o := range retired {
		if (i >= maxRetired || o.ended.Before(before)) && !s.isOpen(o.name) {
			problems = append(problems, os.RemoveAll(filepath.Join(s.dir, o.name)))
		}
	}
	return errors.Join(problems...)
}

func (s *Store) isOpen(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.open[name]
	return ok
}

// Close writes what is pending and ends all readers.
func (s *Store) Close() error {
	s.mu.Lock()
	files := s.open
	s.open = make(map[string]*file)
	s.mu.Unlock()
	var problems []error
	for _, f := range files {
		problems = append(problems, f.close())
	}
	s.busy.Wait()
	return errors.Join(problems...)
}

package containerd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// tails tells followers that the output of their process has grown, by one watcher for all of them.
type tails struct {
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu       sync.Mutex
	watching map[string]changes // by folder
}

// changes are marks, not counts: one look after a mark sees everything up to it.
type changes struct{ stdout, stderr chan struct{} }

func newTails() (*tails, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching for output: %w", err)
	}
	t := &tails{watcher: watcher, done: make(chan struct{}), watching: map[string]changes{}}
	go t.run()
	return t, nil
}

func (t *tails) run() {
	defer close(t.done)
	for {
		select {
		case event, ok := <-t.watcher.Events:
			if !ok {
				return
			}
			// What the reader itself writes is no news.
			if name := filepath.Base(event.Name); !strings.HasSuffix(name, ".delivered") && !event.Has(fsnotify.Remove) {
				t.mark(filepath.Dir(event.Name), name)
			}
		case _, ok := <-t.watcher.Errors:
			if !ok {
				return
			}
			t.markAll() // events were lost
		}
	}
}

func (t *tails) mark(folder, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.watching[folder]
	switch {
	case !ok:
	case strings.HasPrefix(name, stdout):
		raise(c.stdout)
	default:
		raise(c.stderr)
	}
}

func (t *tails) markAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.watching {
		raise(c.stdout)
		raise(c.stderr)
	}
}

func raise(mark chan struct{}) {
	select {
	case mark <- struct{}{}:
	default:
	}
}

func (t *tails) watch(folder string) (changes, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := changes{stdout: make(chan struct{}, 1), stderr: make(chan struct{}, 1)}
	if err := t.watcher.Add(folder); err != nil {
		return changes{}, fmt.Errorf("watching %s: %w", folder, err)
	}
	t.watching[folder] = c
	return c, nil
}

func (t *tails) unwatch(folder string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.watching, folder)
	_ = t.watcher.Remove(folder) // gone with the folder if that was removed
}

func (t *tails) close() error {
	err := t.watcher.Close()
	<-t.done
	if err != nil && !errors.Is(err, fsnotify.ErrClosed) {
		return fmt.Errorf("closing watcher: %w", err)
	}
	return nil
}

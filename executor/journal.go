package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/step"
)

// The journal is what lets a restarted process go on with the containers of the one before it. It survives a kill of
// that process, not a crash of the machine, so nothing is synced: after a crash no container is left either.
const (
	recordFile   = "record.json"
	progressFile = "progress.json"
	// journalVersion is raised when an older process could not read what we write.
	journalVersion = 1
)

// keySetupDone marks that the setup action is behind us.
const keySetupDone = "setup-done"

// keyHealthStart is since when the container has been asked whether it is healthy.
const keyHealthStart = "health-start"

// journal is the folder of one container's record; the zero value keeps nothing. Its methods are called with the
// container's lock held.
type journal struct{ dir string }

type savedRecord struct {
	Version int              `json:"version"`
	Record  container.Record `json:"record"`
}

type savedProgress struct {
	Processes map[string]step.ProcessMark `json:"processes,omitempty"`
	Done      map[string]bool             `json:"done,omitempty"`
	Since     map[string]time.Time        `json:"since,omitempty"`
}

func (j journal) save(record container.Record) error {
	if j.dir == "" {
		return nil
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return fmt.Errorf("making journal folder: %w", err)
	}
	return writeJSON(filepath.Join(j.dir, recordFile), savedRecord{Version: journalVersion, Record: record})
}

func (j journal) load() (container.Record, savedProgress, error) {
	var saved savedRecord
	if err := readJSON(filepath.Join(j.dir, recordFile), &saved); err != nil {
		return container.Record{}, savedProgress{}, err
	}
	if saved.Version != journalVersion || saved.Record.GUID == "" {
		return container.Record{}, savedProgress{}, fmt.Errorf("journal %q has version %d, want %d", j.dir, saved.Version, journalVersion)
	}
	var marks savedProgress
	err := readJSON(filepath.Join(j.dir, progressFile), &marks)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // nothing has been begun
	}
	return saved.Record, marks, err
}

func (j journal) remove() error {
	if j.dir == "" {
		return nil
	}
	if err := os.RemoveAll(j.dir); err != nil {
		return fmt.Errorf("removing journal: %w", err)
	}
	return nil
}

// writeJSON replaces a file at once, so that a reader finds the old or the new one. It holds secrets of the workload.
func writeJSON(path string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path+".new", encoded, 0o600); err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replacing journal: %w", err)
	}
	return nil
}

func readJSON(path string, value any) error {
	encoded, err := os.ReadFile(path) //nolint:gosec // below our own state folder
	if err != nil {
		return fmt.Errorf("reading journal: %w", err)
	}
	if err := json.Unmarshal(encoded, value); err != nil {
		return fmt.Errorf("decoding journal %q: %w", path, err)
	}
	return nil
}

// progress is the step.Progress of one container.
type progress struct {
	path string // "" keeps it in memory only
	log  *slog.Logger

	mu sync.Mutex
	// processes are one or two in most containers, which a map would take ten times the room for.
	processes []processMark
	done      map[string]bool
	since     map[string]time.Time
}

type processMark struct {
	id   string
	mark step.ProcessMark
}

var _ step.Progress = (*progress)(nil)

func newProgress(j journal, marks savedProgress, log *slog.Logger) *progress {
	p := &progress{log: log, done: marks.Done, since: marks.Since}
	for id, mark := range marks.Processes {
		p.processes = append(p.processes, processMark{id: id, mark: mark})
	}
	if j.dir != "" {
		p.path = filepath.Join(j.dir, progressFile)
	}
	return p
}

func (p *progress) Process(id string) step.ProcessMark {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.indexLocked(id); i >= 0 {
		return p.processes[i].mark
	}
	return step.ProcessMark{}
}

func (p *progress) indexLocked(id string) int {
	return slices.IndexFunc(p.processes, func(m processMark) bool { return m.id == id })
}

func (p *progress) SetProcess(id string, mark step.ProcessMark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch i := p.indexLocked(id); {
	case mark == (step.ProcessMark{}):
		p.processes = slices.DeleteFunc(p.processes, func(m processMark) bool { return m.id == id })
	case i < 0:
		p.processes = append(p.processes, processMark{id: id, mark: mark})
	default:
		p.processes[i].mark = mark
	}
	p.saveLocked()
}

func (p *progress) Done(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done[key]
}

func (p *progress) SetDone(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(map[string]bool)
	}
	p.done[key] = true
	p.saveLocked()
}

func (p *progress) Since(key string, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since, ok := p.since[key]; ok {
		return since
	}
	if p.since == nil {
		p.since = make(map[string]time.Time)
	}
	p.since[key] = now
	p.saveLocked()
	return now
}

// leftovers are the processes below a place that were running when the earlier process ended.
func (p *progress) leftovers(place string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for _, m := range p.processes {
		if strings.HasPrefix(m.id, place) && !m.mark.Ended {
			ids = append(ids, m.id)
		}
	}
	return ids
}

func (p *progress) saveLocked() {
	if p.path == "" {
		return
	}
	marks := savedProgress{Processes: make(map[string]step.ProcessMark, len(p.processes)), Done: p.done, Since: p.since}
	for _, m := range p.processes {
		marks.Processes[m.id] = m.mark
	}
	if err := writeJSON(p.path, marks); err != nil {
		p.log.Error("saving-progress-failed", slog.String("path", p.path), slog.Any("error", err))
	}
}

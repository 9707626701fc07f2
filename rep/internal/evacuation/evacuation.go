// Package evacuation empties a cell: it sets the flag that makes the cell refuse work and hand over what it has, waits until
// nothing is left or the time is over, and tells how far it is. How a container is handed over is package reconcile's.
package evacuation

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"diego.internal/rep/internal/holdings"
)

// Step is how far a container is on its way from the cell.
type Step int

// The steps.
const (
	// StepUntold: the BBS has not heard yet that the instance is to be replaced.
	StepUntold Step = iota + 1
	// StepReplacing: it serves until its replacement does.
	StepReplacing
	// StepStopping: it is being stopped or removed.
	StepStopping
	// StepTask: a task, which is waited for.
	StepTask
)

// Container that is still on the cell.
type Container struct {
	*holdings.Entry
	Step Step
}

// Progress of an evacuation.
type Progress struct {
	LRPs  int
	Tasks int
	// Untold, Replacing and Stopping are the LRPs by their steps.
	Untold, Replacing, Stopping int
	Deadline                    time.Time
	Done                        bool
	// Stranded counts instances whose replacement did not run in time; it is set when done.
	Stranded int
}

// Config of an Evacuator.
type Config struct {
	// Timeout bounds the evacuation, once the BBS has been told of all instances. Default 600 s.
	Timeout time.Duration
	// Poll is how often the containers are counted.
	Poll time.Duration
	// Containers goes through the containers that are left.
	Containers func() iter.Seq[*holdings.Entry]
	// Told says whether the BBS has heard that an instance, by the guid of its container, is to be replaced.
	Told func(guid string) bool
	// Untold counts the instances of which the BBS does not know yet that they are to be replaced. While there are any the
	// evacuation does not end, whatever its timeout: nobody would start them elsewhere.
	Untold func() int
	// Abandon ends what is left when the time is over and returns how many instances were stranded.
	Abandon func(ctx context.Context) (int, error)
	Log     *slog.Logger
}

// Evacuator of one cell. The flag is set once and never cleared in the life of a process.
type Evacuator struct {
	Config

	once    sync.Once
	started chan struct{}
	done    chan struct{}

	mu       sync.Mutex
	deadline time.Time // guarded by mu; set when started
	stranded int       // guarded by mu
}

// New makes an evacuator that has not begun.
func New(cfg Config) *Evacuator {
	return &Evacuator{Config: cfg, started: make(chan struct{}), done: make(chan struct{})}
}

// Begin starts the evacuation. It may be repeated and returns at once.
func (e *Evacuator) Begin() {
	e.once.Do(func() {
		e.mu.Lock()
		e.deadline = time.Now().Add(e.Timeout)
		e.mu.Unlock()
		close(e.started)
	})
}

// Started is closed when the evacuation begins, Done when the cell is empty or given up.
func (e *Evacuator) Started() <-chan struct{} { return e.started }

// Done is closed when nothing is left to wait for.
func (e *Evacuator) Done() <-chan struct{} { return e.done }

// Evacuating says whether it has begun.
func (e *Evacuator) Evacuating() bool {
	select {
	case <-e.started:
		return true
	default:
		return false
	}
}

// Progress counts what is left.
func (e *Evacuator) Progress() Progress {
	e.mu.Lock()
	p := Progress{Deadline: e.deadline, Stranded: e.stranded}
	e.mu.Unlock()
	for c := range e.Containers() {
		switch e.step(c) {
		case StepUntold:
			p.Untold++
		case StepReplacing:
			p.Replacing++
		case StepStopping:
			p.Stopping++
		case StepTask:
			p.Tasks++
		}
	}
	p.LRPs = p.Untold + p.Replacing + p.Stopping
	select {
	case <-e.done:
		p.Done = true
	default:
	}
	return p
}

// Left are the containers that are still here, in order of guid, with their steps.
func (e *Evacuator) Left() []Container {
	var left []Container
	for c := range e.Containers() {
		left = append(left, Container{Entry: c, Step: e.step(c)})
	}
	slices.SortFunc(left, func(a, b Container) int { return strings.Compare(a.GUID, b.GUID) })
	return left
}

func (e *Evacuator) step(c *holdings.Entry) Step {
	switch {
	case c.Task != nil:
		return StepTask
	case c.Ending:
		return StepStopping
	case e.Told != nil && e.Told(c.GUID):
		return StepReplacing
	default:
		return StepUntold
	}
}

// Run waits for Begin, then until the cell is empty or the time is over, and closes Done. It returns when that is so or ctx
// ends; ending ctx leaves everything as it is.
func (e *Evacuator) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.started:
	}
	deadline := e.Progress().Deadline
	e.Log.InfoContext(ctx, "evacuation-started", "deadline", deadline)
	expired := time.NewTimer(time.Until(deadline))
	defer expired.Stop()
	ticker := time.NewTicker(e.Poll)
	defer ticker.Stop()
	last, over, warned := -1, false, false
	for {
		p := e.Progress()
		left := p.LRPs + p.Tasks
		if left == 0 {
			e.Log.InfoContext(ctx, "evacuation-complete")
			close(e.done)
			return nil
		}
		if left != last {
			e.Log.InfoContext(ctx, "evacuation-progress", "lrps", p.LRPs, "tasks", p.Tasks, "untold", p.Untold, "replacing", p.Replacing, "stopping", p.Stopping)
			last = left
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-expired.C:
			over = true
		}
		if !over {
			continue
		}
		untold := e.Untold()
		if untold == 0 {
			return e.giveUp(ctx)
		}
		if !warned {
			e.Log.ErrorContext(ctx, "evacuation-overdue", "instances_unknown_to_the_bbs", untold)
			warned = true
		}
	}
}

func (e *Evacuator) giveUp(ctx context.Context) error {
	stranded, err := e.Abandon(ctx)
	e.mu.Lock()
	e.stranded = stranded
	e.mu.Unlock()
	e.Log.WarnContext(ctx, "evacuation-timed-out", "stranded_instances", stranded)
	close(e.done)
	if err != nil {
		return fmt.Errorf("ending what could not be evacuated in time: %w", err)
	}
	return nil
}

package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/logs"
	"diego.internal/executor/step"
)

// Causes that end the life of one container. The first one counts.
var (
	errStopped = errors.New("stop requested")
	errMissing = errors.New("engine does not know the container")
)

// node owns one container: its record, and the one goroutine that builds and runs it. Whoever changes the record holds
// the lock; orders reach the goroutine as the end of its context.
type node struct {
	client *Client
	guid   string
	handle string

	mu       sync.Mutex
	record   container.Record
	journal  journal
	progress *progress
	sink     *logs.Sink
	// began is when the order to run came; zero for an adopted container.
	began time.Time
	// draining says that the stop has been noted and comes when routers have been told.
	draining bool
	// ready says what the readiness checks found; it becomes Routable while running.
	ready bool
	// cancel ends the life, and done is closed after it has; both are nil while reserved.
	cancel   context.CancelCauseFunc
	done     chan struct{}
	deletion *deletion

	// rotating is held while the folder of credentials is written to or removed.
	rotating sync.Mutex
}

func (c *Client) newNode(record container.Record) *node {
	handle := handleOf(record.GUID)
	var j journal
	if !c.cfg.Ephemeral {
		j.dir = c.journalPath(handle)
	}
	return &node{
		client:  c,
		guid:    record.GUID,
		handle:  handle,
		record:  record,
		journal: j,
	}
}

// log names the container in each line. It is made when it is needed, which for most containers is twice.
func (n *node) log() *slog.Logger {
	return n.client.log.With(slog.String("container_guid", n.guid))
}

func (n *node) snapshot() container.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.record
}

// setLocked replaces the record, and lets everybody know that something has changed.
func (n *node) setLocked(record container.Record) {
	n.record = record
	n.client.changes.changed(n.guid)
}

// begin attaches run information, notes it, and starts the life.
func (n *node) begin(request RunRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.deletion != nil {
		return fmt.Errorf("container %q is being deleted: %w", n.guid, ErrInvalidTransition)
	}
	info := request.Info // apart from the rest of the request, which nobody needs any more
	record, err := n.record.Initialized(&info, request.Tags)
	if err != nil {
		return err
	}
	unused := 0
	if !n.client.wantsProxy(&info) {
		unused, record.Resources = record.Resources.ProxyMemoryMB, withoutProxyMemory(record.Resources)
	}
	if err := n.journal.save(record); err != nil {
		return fmt.Errorf("running container %q: %w", n.guid, err)
	}
	n.sink, err = n.client.logs.Create(n.handle, n.sinkConfig(record))
	if err != nil {
		return errors.Join(fmt.Errorf("running container %q: %w", n.guid, err), n.journal.remove())
	}
	n.progress, n.began = newProgress(n.journal, savedProgress{}, n.client.log), time.Now()
	if !n.startLife(n.live) {
		return errors.Join(ErrClosed, n.journal.remove())
	}
	n.setLocked(record)
	n.client.giveBackMemory(unused)
	return nil
}

// startLife starts the goroutine of the container. The caller holds the lock.
func (n *node) startLife(life func(ctx context.Context)) bool {
	ctx, cancel := context.WithCancelCause(n.client.ctx)
	done := make(chan struct{})
	started := n.client.spawn(func() {
		defer close(done)
		defer cancel(nil)
		life(ctx)
	})
	if started {
		n.cancel, n.done = cancel, done
	} else {
		cancel(nil)
	}
	return started
}

func (n *node) sinkConfig(record container.Record) logs.SinkConfig {
	info := record.RunInfo
	return logs.SinkConfig{
		GUID:           info.LogConfig.GUID,
		Index:          info.LogConfig.Index,
		Source:         info.LogConfig.SourceName,
		Tags:           info.LogConfig.Tags,
		BytesPerSecond: info.LogRateLimit,
		LinesPerSecond: n.client.cfg.LogLinesPerSecond,
	}
}

// change applies a transition, notes it and tells of it. A transition that does not fit any more, because somebody ended
// the container meanwhile, changes nothing and returns the error.
func (n *node) change(kind EventKind, transition func(container.Record) (container.Record, error)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	record, err := transition(n.record)
	if err != nil {
		return err
	}
	n.setLocked(record)
	n.saveLocked()
	if kind != 0 {
		n.client.events.emit(kind, record)
	}
	return nil
}

// saveLocked notes the record. A failure is logged and not returned: the container is what it is, and if this process
// ends before the next note, the next process will find the container in an earlier state and settle it from there.
func (n *node) saveLocked() {
	if n.record.RunInfo == nil {
		return // reservations are not kept
	}
	if err := n.journal.save(n.record); err != nil {
		n.log().Error("saving-record-failed", slog.Any("error", err))
	}
}

func (n *node) complete(failed bool, reason string, retryable bool) {
	n.end(func(r container.Record) container.Record { return r.Completed(failed, reason, retryable) })
}

// undo ends a container that was not built because of something that is wrong with the cell.
func (n *node) undo(reason string) {
	n.end(func(r container.Record) container.Record { return r.Undone(reason) })
}

// end is always possible.
func (n *node) end(transition func(container.Record) container.Record) {
	var result container.Result
	_ = n.change(EventComplete, func(r container.Record) (container.Record, error) {
		r = transition(r)
		result = r.Result
		return r, nil
	})
	n.client.counters.Completed.Add(1)
	n.log().Info("container-completed", slog.Bool("failed", result.Failed), slog.String("reason", shorten(result.FailureReason)))
}

// shorten keeps a reason in the executor's own log to a line; the whole is in the record.
func shorten(reason string) string {
	const limit = 200
	if len(reason) > limit {
		return reason[:limit] + "…"
	}
	return reason
}

// stop asks for the end for one of the causes above. Who must be drained first ends a little later.
func (n *node) stop(cause error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.record.State == container.StateCompleted {
		return
	}
	drain := time.Duration(0)
	if errors.Is(cause, errStopped) {
		if n.draining {
			return
		}
		drain = n.noteStopLocked()
	}
	switch {
	case n.cancel == nil:
		n.setLocked(n.record.Completed(true, "stopped-before-running", false))
		n.client.events.emit(EventComplete, n.record)
	case drain > 0:
		n.draining = true
		n.client.events.emit(EventRunning, n.record)
		if n.record.Net.Proxied() {
			n.client.spawn(n.spoilCredentials) // a client that is closed ends no container
		}
		cancel := n.cancel
		time.AfterFunc(drain, func() { cancel(cause) })
	default:
		n.cancel(cause)
	}
}

// noteStopLocked notes the first order to stop and returns how long routers are to be given.
func (n *node) noteStopLocked() (drain time.Duration) {
	if n.record.Result.Stopped {
		return 0
	}
	if n.record.Routable && len(n.record.Net.Ports) > 0 {
		drain = max(n.client.cfg.DrainTime, n.proxyReload())
	}
	n.setLocked(n.record.StopRequested())
	n.platform(logs.Out, "Cell %s stopping instance %s", n.client.cfg.CellID, n.guid)
	n.saveLocked()
	return drain
}

// expire ends a reservation that nobody made use of.
func (n *node) expire() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.record.State != container.StateReserved {
		return
	}
	n.setLocked(n.record.Completed(true, "expired container", false))
	n.client.events.emit(EventComplete, n.record)
}

func (n *node) update(ctx context.Context, request UpdateRequest) error {
	var config []byte
	err := n.change(0, func(r container.Record) (container.Record, error) {
		updated, err := r.Updated(request.InternalRoutes, request.MetricTags)
		if err != nil {
			return r, err
		}
		if config, err = json.Marshal(updated.RunInfo.LogConfig); err != nil {
			return r, fmt.Errorf("encoding log config: %w", err)
		}
		if request.MetricTags != nil {
			n.sink.SetTags(request.MetricTags)
		}
		if updated.State == container.StateRunning {
			n.client.events.emit(EventRunning, updated)
		}
		return updated, nil
	})
	if err != nil || !n.snapshot().HasContainer() {
		return err
	}
	if request.InternalRoutes != nil {
		if err := n.renewC2CCredentials(); err != nil {
			return fmt.Errorf("updating container %q: %w", n.guid, err)
		}
	}
	inside, err := n.client.engine.Lookup(ctx, n.handle)
	if err == nil {
		err = inside.SetProperty(ctx, propertyLogConfig, string(config))
	}
	if err != nil {
		return fmt.Errorf("updating container %q: %w", n.guid, err)
	}
	return nil
}

// becameRunning is called by the tree when all its members are ready.
func (n *node) becameRunning() {
	err := n.change(EventRunning, func(r container.Record) (container.Record, error) {
		return r.Running(n.ready || !awaitsReadiness(r.RunInfo))
	})
	if err == nil {
		n.log().Info("container-running")
	}
}

// setReady takes what the readiness checks found.
func (n *node) setReady(ready bool) {
	n.mu.Lock()
	n.ready = ready
	n.mu.Unlock()
	// Before the container runs there is nothing to tell; becameRunning looks at the flag.
	_ = n.change(EventRunning, func(r container.Record) (container.Record, error) { return r.WithRoutable(ready) })
}

// platform logs a line of the cell, past all limits.
func (n *node) platform(stream logs.Stream, format string, args ...any) {
	if n.sink != nil {
		n.sink.Platform(stream, fmt.Sprintf(format, args...))
	}
}

// outcome turns the result of the tree into a completion.
func (n *node) outcome(ctx context.Context, err error) {
	switch {
	case n.client.leaving():
		// The container goes on, or its end is in the engine and the journal: the next process comes to the same result.
	case errors.Is(context.Cause(ctx), errMissing):
		n.complete(true, step.ErrMissingContainer.Error(), false)
	case err != nil:
		n.complete(true, err.Error(), false)
	default:
		n.complete(false, "", false)
	}
}

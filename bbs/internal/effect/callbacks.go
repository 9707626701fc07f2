package effect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"diego.internal/bbs/internal/task"
)

const (
	// callbackTimeout bounds one attempt.
	callbackTimeout = 10 * time.Second
	// callbackWorkers bounds the callbacks that are under way, callbacksPerHost those to one host, so
	// that a client with many tasks is not flooded and keeps nobody else waiting.
	callbackWorkers  = 64
	callbacksPerHost = 8
	// hostBusyPause is after how long a callback is tried again whose host has enough of them.
	hostBusyPause = 200 * time.Millisecond
)

// callbackPauses are the pauses between the attempts of one round, with jitter.
var callbackPauses = [...]time.Duration{500 * time.Millisecond, 2 * time.Second}

// callbacks tells clients that their tasks have completed, and deletes these. It claims a task first
// (Resolving), so that nobody else does the same; what it gives up stays claimed until convergence
// takes the claim back for another round.
type callbacks struct {
	store Store
	http  *http.Client
	log   *slog.Logger
	due   *pending[string]
	slots chan struct{}

	// delivered and failed count rounds, see Counts.
	delivered, failed atomic.Int64

	mu    sync.Mutex
	hosts map[string]int // callbacks under way by host
}

func newCallbacks(store Store, client *http.Client, log *slog.Logger) *callbacks {
	once := *client
	// Whatever a client answers is an answer; it is not followed elsewhere.
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &callbacks{
		store: store, http: &once, log: log, due: newPending[string](),
		slots: make(chan struct{}, callbackWorkers), hosts: map[string]int{},
	}
}

func (c *callbacks) committed(changes Changes, now time.Time) {
	for _, t := range changes.Tasks {
		if t.State == task.Completed && t.HasCallback {
			c.due.add(now, t.GUID)
		}
	}
}

func (c *callbacks) run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case c.slots <- struct{}{}:
		}
		guids := c.due.take(ctx, 1)
		if guids == nil {
			return context.Cause(ctx)
		}
		workers.Go(func() {
			defer func() { <-c.slots }()
			if err := c.complete(ctx, guids[0]); err != nil && ctx.Err() == nil {
				c.failed.Add(1)
				c.log.WarnContext(ctx, "task-callback-failed", "task_guid", guids[0], "error", err)
			}
		})
	}
}

// complete tells of one task and deletes it.
func (c *callbacks) complete(ctx context.Context, guid string) error {
	callback, err := c.store.Callback(ctx, guid)
	if err != nil {
		return fmt.Errorf("reading the callback: %w", err)
	}
	target, err := url.Parse(callback.URL)
	if err != nil {
		return fmt.Errorf("reading the callback: %w", err)
	}
	if !c.enter(target.Host) {
		c.due.add(time.Now().Add(jitter(hostBusyPause)), guid)
		return nil
	}
	defer c.leave(target.Host)
	t, err := c.resolve(ctx, guid)
	if t == nil || err != nil {
		return err
	}
	if err := c.tell(ctx, t, callback); err != nil {
		return err
	}
	c.delivered.Add(1)
	return c.remove(ctx, guid)
}

func (c *callbacks) enter(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hosts[host] >= callbacksPerHost {
		return false
	}
	c.hosts[host]++
	return true
}

func (c *callbacks) leave(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hosts[host]--; c.hosts[host] == 0 {
		delete(c.hosts, host)
	}
}

// resolve claims the task; nil if somebody else has it or it is gone.
func (c *callbacks) resolve(ctx context.Context, guid string) (*task.Task, error) {
	var claimed *task.Task
	err := c.store.Do(ctx, func(tx Tx) error {
		claimed = nil
		t := tx.Task(guid)
		resolving, err := task.Resolve(t, time.Now())
		if err != nil {
			return err
		}
		tx.PutTask(t, resolving)
		claimed = resolving
		return nil
	})
	switch {
	case errors.Is(err, task.ErrNotFound), errors.Is(err, task.ErrInvalidStateTransition):
		return nil, nil //nolint:nilnil // nothing to do is no error
	case err != nil:
		return nil, fmt.Errorf("claiming the task: %w", err)
	}
	return claimed, nil
}

func (c *callbacks) remove(ctx context.Context, guid string) error {
	err := c.store.Do(ctx, func(tx Tx) error {
		t := tx.Task(guid)
		if err := task.CanDelete(t, false); err != nil {
			return err
		}
		tx.PutTask(t, nil)
		return nil
	})
	if err != nil && !errors.Is(err, task.ErrNotFound) {
		return fmt.Errorf("deleting the task after its callback: %w", err)
	}
	return nil
}

// tell makes the attempts of one round.
func (c *callbacks) tell(ctx context.Context, t *task.Task, callback Callback) error {
	body, err := json.Marshal(completion{
		TaskGUID: t.GUID, Failed: t.Failed, FailureReason: t.FailureReason, Result: t.Result,
		Annotation: callback.Annotation, CreatedAt: t.CreatedAt,
	})
	if err != nil {
		return fmt.Errorf("encoding the completion: %w", err)
	}
	for attempt := 1; ; attempt++ {
		again, err := c.post(ctx, callback.URL, t.GUID, attempt, body)
		if err == nil {
			return nil
		}
		if !again || attempt > len(callbackPauses) || !pause(ctx, jitter(callbackPauses[attempt-1])) {
			return fmt.Errorf("calling back, attempt %d: %w", attempt, err)
		}
	}
}

// completion is what a client is told. The names are those that clients of the reference read.
type completion struct {
	TaskGUID      string `json:"task_guid"`
	Failed        bool   `json:"failed"`
	FailureReason string `json:"failure_reason"`
	Result        string `json:"result"`
	Annotation    string `json:"annotation,omitempty"`
	CreatedAt     int64  `json:"created_at"`
}

// post makes one attempt. again says whether another may help: the client is overloaded or did not
// answer in time. Every other status is an answer, also one that reports an error.
func (c *callbacks) post(ctx context.Context, target, guid string, attempt int, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callbackTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", guid+"/"+strconv.Itoa(attempt))
	response, err := c.http.Do(request)
	if err != nil {
		var timeout net.Error
		return errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout(), err
	}
	// What is left of the answer is read so that the connection can be used again, within reason.
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
	if err := response.Body.Close(); err != nil {
		c.log.DebugContext(ctx, "closing-callback-answer-failed", "task_guid", guid, "error", err)
	}
	switch response.StatusCode {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, errors.New("the client answered " + response.Status)
	default:
		return false, nil
	}
}

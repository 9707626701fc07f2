package effect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"diego.internal/bbs/internal/task"
)

func completed(guid string) *task.Task {
	now := time.Now().UnixNano()
	return &task.Task{
		GUID: guid, State: task.Completed, HasCallback: true, Failed: true, FailureReason: "why", Result: "r",
		CreatedAt: 7, UpdatedAt: now, FirstCompletedAt: now,
	}
}

// calls counts and notes callbacks.
type calls struct {
	mu   sync.Mutex
	at   []time.Time
	keys []string
}

func (c *calls) note(r *http.Request) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Now())
	c.keys = append(c.keys, r.Header.Get("Idempotency-Key"))
	return len(c.at)
}

func TestCallbackTellsAndDeletes(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		var body map[string]any
		r.store.callback = func(string) (Callback, error) {
			return Callback{URL: "https://client.example.com/done", Annotation: "note"}, nil
		}
		r.receive = func(q *http.Request) (*http.Response, error) {
			if got := r.store.Snapshot().Task("t").State; got != task.Resolving {
				t.Errorf("the task is %v while its client is told", got)
			}
			if q.Method != http.MethodPost || q.URL.String() != "https://client.example.com/done" || q.Header.Get("Content-Type") != "application/json" {
				t.Errorf("called %s %v with %v", q.Method, q.URL, q.Header)
			}
			if err := json.NewDecoder(q.Body).Decode(&body); err != nil {
				t.Errorf("reading the body: %v", err)
			}
			return answered(http.StatusOK), nil
		}
		r.putTask(t, completed("t"))
		want := map[string]any{
			"task_guid": "t", "failed": true, "failure_reason": "why", "result": "r", "annotation": "note", "created_at": 7.0,
		}
		if d := cmp.Diff(want, body); d != "" {
			t.Errorf("told (-want +got):\n%s", d)
		}
		if r.store.Snapshot().Task("t") != nil {
			t.Error("the task is still there")
		}
	})
}

func TestCallbackAttempts(t *testing.T) {
	t.Parallel()
	timeout := &net.OpError{Op: "read", Err: timeoutError{}}
	tests := map[string]struct {
		answer   func(n int) (*http.Response, error)
		attempts int
		left     string // state of the task afterwards
	}{
		"an error of the client is an answer": {func(int) (*http.Response, error) { return answered(http.StatusInternalServerError), nil }, 1, "gone"},
		"so is not found":                     {func(int) (*http.Response, error) { return answered(http.StatusNotFound), nil }, 1, "gone"},
		"so is a redirect": {func(int) (*http.Response, error) {
			moved := answered(http.StatusFound)
			moved.Header = http.Header{"Location": {"https://elsewhere.example.com"}}
			return moved, nil
		}, 1, "gone"},
		"unavailable is tried three times":      {func(int) (*http.Response, error) { return answered(http.StatusServiceUnavailable), nil }, 3, "Resolving"},
		"a gateway's timeout too":               {func(int) (*http.Response, error) { return answered(http.StatusGatewayTimeout), nil }, 3, "Resolving"},
		"a timeout too":                         {func(int) (*http.Response, error) { return nil, timeout }, 3, "Resolving"},
		"a connection closed meanwhile too":     {func(int) (*http.Response, error) { return nil, net.ErrClosed }, 3, "Resolving"},
		"another error of transport is the end": {func(int) (*http.Response, error) { return nil, errors.New("no such host") }, 1, "Resolving"},
		"the third attempt may succeed": {func(n int) (*http.Response, error) {
			if n < 3 {
				return answered(http.StatusServiceUnavailable), nil
			}
			return answered(http.StatusOK), nil
		}, 3, "gone"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, nil, func(r *rig) {
				t := r.t
				var c calls
				r.receive = func(q *http.Request) (*http.Response, error) { return test.answer(c.note(q)) }
				r.putTask(t, completed("t"))
				passes(10 * time.Second)
				if len(c.at) != test.attempts {
					t.Fatalf("%d attempts, want %d", len(c.at), test.attempts)
				}
				for n := 1; n < len(c.at); n++ {
					most := callbackPauses[n-1]
					if pause := c.at[n].Sub(c.at[n-1]); pause < most/2 || pause > most {
						t.Errorf("attempt %d comes after %v", n+1, pause)
					}
					if c.keys[n] != fmt.Sprint("t/", n+1) {
						t.Errorf("attempt %d has key %q", n+1, c.keys[n])
					}
				}
				left := "gone"
				if got := r.store.Snapshot().Task("t"); got != nil {
					left = got.State.String()
				}
				if left != test.left {
					t.Errorf("the task is %s, want %s", left, test.left)
				}
				got := r.effects.Counts()
				if told := got.CallbacksDelivered == 1 && got.CallbacksFailed == 0; told != (left == "gone") || got.CallbacksDelivered+got.CallbacksFailed != 1 {
					t.Errorf("the task is %s, and counted is %+v", left, got)
				}
			})
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestCallbackOfATaskThatAnotherResolves(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		var c calls
		r.receive = func(q *http.Request) (*http.Response, error) { c.note(q); return answered(http.StatusOK), nil }
		r.store.callback = func(guid string) (Callback, error) {
			r.store.edit(t, func(tx *memoryTx) { // somebody is faster
				resolving, err := task.Resolve(tx.Task(guid), time.Now())
				if err != nil {
					t.Errorf("resolving: %v", err)
				}
				tx.tasks[guid] = resolving
			})
			return Callback{URL: "https://client.example.com"}, nil
		}
		r.putTask(t, completed("t"))
		if len(c.at) != 0 || r.store.Snapshot().Task("t") == nil {
			t.Errorf("%d calls, task %+v", len(c.at), r.store.Snapshot().Task("t"))
		}
	})
}

func TestCallbacksToOneHostAreLimited(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(r *rig) {
		t := r.t
		var mu sync.Mutex
		busy, most, others := 0, 0, 0
		release := make(chan struct{})
		r.store.callback = func(guid string) (Callback, error) {
			if guid == "other" {
				return Callback{URL: "https://other.example.com"}, nil
			}
			return Callback{URL: "https://slow.example.com"}, nil
		}
		r.receive = func(q *http.Request) (*http.Response, error) {
			mu.Lock()
			if q.URL.Host == "other.example.com" {
				others++
				mu.Unlock()
				return answered(http.StatusOK), nil
			}
			busy++
			most = max(most, busy)
			mu.Unlock()
			<-release
			mu.Lock()
			busy--
			mu.Unlock()
			return answered(http.StatusOK), nil
		}
		for n := range 100 {
			r.putTask(t, completed(fmt.Sprint("slow-", n)))
		}
		r.putTask(t, completed("other"))
		passes(5 * time.Second)
		mu.Lock()
		if most != callbacksPerHost || others != 1 {
			t.Errorf("%d at a time to the slow client, %d to the other", most, others)
		}
		mu.Unlock()
		close(release)
		passes(time.Minute)
		if left := len(r.store.state.tasks); left != 0 {
			t.Errorf("%d tasks are left", left)
		}
		synctest.Wait()
	})
}

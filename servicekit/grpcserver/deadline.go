package grpcserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultDeadline is for unary calls of foreign clients; our own client always sets one.
	defaultDeadline = 30 * time.Second
	// The handler's deadline is earlier than the caller's by a twentieth, at most by maxMargin, so
	// that the caller reads our answer and not its own timeout.
	marginShare = 20
	maxMargin   = 100 * time.Millisecond
)

var errDeadline = fmt.Errorf("the deadline of the call: %w", context.DeadlineExceeded)

// withDeadline leaves time for the answer. The context ends with the call of what is returned, at the latest.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if ok {
		left := time.Until(deadline)
		deadline = deadline.Add(-min(left/marginShare, maxMargin))
	} else {
		deadline = time.Now().Add(defaultDeadline)
	}
	c := &callContext{Context: ctx, deadline: deadline}
	return c, c.end
}

// callContext is what context.WithDeadlineCause returns, but it takes no timer and no place in its parent before somebody waits
// for it: most calls are answered from memory, and those things were the larger part of what the server allocated for them.
type callContext struct {
	context.Context // of the caller
	deadline        time.Time

	mu     sync.Mutex // held to make waited, and to end
	ended  atomic.Bool
	waited atomic.Pointer[waitedContext]
}

// waitedContext is the context of which callContext is the promise.
type waitedContext struct {
	context.Context //nolint:containedctx // it stands for that of its owner
	cancel          context.CancelFunc
}

// wait makes the context that can be waited for.
func (c *callContext) wait() *waitedContext {
	if w := c.waited.Load(); w != nil {
		return w
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waited.Load(); w != nil {
		return w
	}
	parent, ended := c.Context, c.ended.Load()
	if ended {
		parent = context.WithoutCancel(parent) // what happens to the caller from then on makes no difference
	}
	w := &waitedContext{}
	w.Context, w.cancel = context.WithDeadlineCause(parent, c.deadline, errDeadline)
	if ended {
		w.cancel()
	}
	c.waited.Store(w)
	return w
}

// end is its cancel function.
func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended.Store(true)
	if w := c.waited.Load(); w != nil {
		w.cancel()
	}
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} { return c.wait().Done() }

// Err implements context.Context.
func (c *callContext) Err() error {
	if c.waited.Load() == nil && !c.ended.Load() && c.Context.Err() == nil && time.Now().Before(c.deadline) {
		return nil
	}
	return c.wait().Err()
}

// Value implements context.Context. Package context finds the cause of an end, and whom to tell of it, by a value.
func (c *callContext) Value(key any) any {
	if w := c.waited.Load(); w != nil {
		return w.Value(key)
	}
	if c.ended.Load() {
		return c.wait().Value(key)
	}
	return c.Context.Value(key)
}

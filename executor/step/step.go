// Package step runs the tree of actions of one container. A step is a function that ends when its context ends, and only
// after everything it started has ended; that one rule replaces the signals and channels of the reference.
//
// It owns the composition (serial, parallel, codependent, timeout …), the leaves that touch a container (run, download,
// upload, network check) and the words that users read. It does not create containers, keep records or watch health.
package step

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"diego.internal/executor/logs"
)

// Step does something until it is done or ctx ends, and calls ready (at most once) when it has come far enough for its
// container to count as running. It returns only when its children have ended and their processes are gone, save when
// the cause of ctx's end is ErrDetached: then processes go on and only our goroutines end.
type Step func(ctx context.Context, ready func()) error

// Serial runs one after the other, stops at the first failure, and is ready when the last is.
func Serial(steps ...Step) Step {
	return func(ctx context.Context, ready func()) error {
		for i, s := range steps {
			if ctx.Err() != nil {
				return interrupted(ctx)
			}
			inner := func() {}
			if i == len(steps)-1 {
				inner = ready
			}
			if err := s(ctx, inner); err != nil {
				return err
			}
		}
		return nil
	}
}

// Parallel runs all at once, waits for all, is ready when all are, and fails with every failure.
func Parallel(steps ...Step) Step {
	return func(ctx context.Context, ready func()) error {
		failures := make(JoinedError, len(steps))
		countdown := after(len(steps), ready)
		var group sync.WaitGroup
		for i, s := range steps {
			group.Go(func() { failures[i] = s(ctx, sync.OnceFunc(countdown)) })
		}
		group.Wait()
		return failures.join()
	}
}

// Group says how a codependent step treats the end of a member.
type Group struct {
	// FailOnExit makes any end of a member a failure, also a clean one.
	FailOnExit bool
	// CancelOnExit ends the others when a member ends cleanly. A failed member always ends them.
	CancelOnExit bool
}

// Codependent runs all at once and is ready when all are. The first one runs in the caller's goroutine: it is the one that
// most containers have alone.
func Codependent(group Group, steps ...Step) Step {
	return func(ctx context.Context, ready func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var (
			mu       sync.Mutex
			failures JoinedError
			others   sync.WaitGroup
		)
		countdown := after(len(steps), ready)
		member := func(s Step) {
			err := s(ctx, sync.OnceFunc(countdown))
			mu.Lock()
			defer mu.Unlock()
			// What the others say once they are being interrupted is no news, unless it is a failure of its own.
			if err == nil && group.FailOnExit && ctx.Err() == nil {
				err = ErrCodependentExited
			}
			if err != nil {
				failures = append(failures, err)
			}
			if err != nil || group.CancelOnExit {
				cancel()
			}
		}
		for _, s := range steps[1:] {
			others.Go(func() { member(s) })
		}
		member(steps[0])
		others.Wait()
		return failures.join()
	}
}

// after returns a function that calls ready at its n-th call.
func after(n int, ready func()) func() {
	var mu sync.Mutex
	return func() {
		mu.Lock()
		n--
		last := n == 0
		mu.Unlock()
		if last {
			ready()
		}
	}
}

// Timeout interrupts inner when the limit has passed since start, which may lie in the life of an earlier process.
func Timeout(inner Step, limit time.Duration, start func() time.Time) Step {
	return func(ctx context.Context, ready func()) error {
		limited, cancel := context.WithDeadlineCause(ctx, start().Add(limit), errLimit)
		defer cancel()
		err := inner(limited, ready)
		if err == nil || !errors.Is(context.Cause(limited), errLimit) {
			return err
		}
		text := "exceeded " + limit.String() + " timeout"
		if !Hidden(err) {
			text += "; " + err.Error()
		}
		return &ShownError{Text: text, Err: err}
	}
}

var errLimit = errors.New("timeout step exceeded its limit")

// Try swallows whatever inner returns; log is told.
func Try(inner Step, log func(err error)) Step {
	return func(ctx context.Context, ready func()) error {
		err := inner(ctx, ready)
		if errors.Is(err, ErrDetached) {
			return err // not a failure: what comes next is for the next process of ours
		}
		if err != nil {
			log(err)
		}
		return nil
	}
}

// Background leaves inner's processes running when it is interrupted: they end with their container. Its own goroutines
// end like those of every step.
func Background(inner Step) Step {
	return func(ctx context.Context, ready func()) error {
		detachable, detach := context.WithCancelCause(context.WithoutCancel(ctx))
		defer detach(nil)
		stop := context.AfterFunc(ctx, func() { detach(ErrDetached) })
		defer stop()
		err := inner(detachable, ready)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// Messages of an emit-progress step; an empty one is not logged.
type Messages struct {
	Start         string
	Success       string
	FailurePrefix string
	Source        string
}

// EmitProgress logs around inner. The start message is logged once, also over restarts of this process.
func EmitProgress(inner Step, messages Messages, log Log, started func() (again bool)) Step {
	return func(ctx context.Context, ready func()) error {
		if again := started(); !again && messages.Start != "" {
			log.Emit(messages.Source, logs.Out, messages.Start)
		}
		err := inner(ctx, ready)
		switch {
		case errors.Is(err, ErrDetached):
		case err == nil && messages.Success != "":
			log.Emit(messages.Source, logs.Out, messages.Success)
		case err != nil && messages.FailurePrefix != "":
			text := messages.FailurePrefix
			if shown, ok := Shown(err); ok {
				text += ": " + shown
			}
			log.Emit(messages.Source, logs.Err, text)
		}
		return err
	}
}

// Captured replaces the text of inner's failure by what was written meanwhile, if anything was.
func Captured(inner Step, output func() string) Step {
	return func(ctx context.Context, ready func()) error {
		err := inner(ctx, ready)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if text := strings.TrimSpace(output()); text != "" {
			return &ShownError{Text: text, Err: err}
		}
		return err
	}
}

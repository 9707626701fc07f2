package grpcserver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// key is of a value in a context.
type key struct{}

// TestCallContext compares the context of a call with one that package context makes, whether somebody waits for it or not.
func TestCallContext(t *testing.T) {
	t.Parallel()
	errParent := errors.New("the caller has left")
	for name, end := range map[string]func(cancel context.CancelCauseFunc, done context.CancelFunc){
		"nothing ends it":       func(context.CancelCauseFunc, context.CancelFunc) {},
		"the call ends":         func(_ context.CancelCauseFunc, done context.CancelFunc) { done() },
		"the caller leaves":     func(cancel context.CancelCauseFunc, _ context.CancelFunc) { cancel(errParent) },
		"the deadline passes":   func(context.CancelCauseFunc, context.CancelFunc) { <-time.After(2 * time.Second) },
		"both, the call before": func(cancel context.CancelCauseFunc, done context.CancelFunc) { done(); cancel(errParent) },
	} {
		for who, wait := range map[string]func(context.Context){
			"unwaited": func(context.Context) {},
			"waited":   func(ctx context.Context) { _ = ctx.Done() },
		} {
			t.Run(name+", "+who, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
					defer cancel(nil)
					at := time.Now().Add(time.Second)
					ctx := &callContext{Context: parent, deadline: at}
					want, wantDone := context.WithDeadlineCause(parent, at, errDeadline)
					wait(ctx)
					child, childDone := context.WithCancel(ctx)
					if who == "unwaited" {
						childDone() // without a child nobody has waited
						ctx = &callContext{Context: parent, deadline: at}
					}
					defer childDone()
					end(cancel, func() { ctx.end(); wantDone() })
					synctest.Wait()

					deadline, ok := ctx.Deadline()
					require.True(t, ok)
					require.Equal(t, at, deadline)
					require.Equal(t, "value", ctx.Value(key{}))
					require.Equal(t, want.Err(), ctx.Err())
					require.Equal(t, context.Cause(want), context.Cause(ctx))
					if who == "waited" {
						require.Equal(t, want.Err(), child.Err())
						require.Equal(t, context.Cause(want), context.Cause(child))
					}
					select {
					case <-ctx.Done():
						require.Error(t, want.Err())
					default:
						require.NoError(t, want.Err())
					}
					ctx.end()
					wantDone()
				})
			})
		}
	}
}

func TestCallContextWakesThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, done := withDeadline(t.Context())
		defer done()
		started := time.Now()
		<-ctx.Done()
		require.Equal(t, defaultDeadline, time.Since(started))
		require.ErrorIs(t, context.Cause(ctx), errDeadline)
	})
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ctx, done := withDeadline(parent)
		defer done()
		started := time.Now()
		<-ctx.Done()
		require.Equal(t, time.Second-time.Second/marginShare, time.Since(started), "time is left for the answer")
		require.NoError(t, parent.Err())
	})
}

package step

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fails is a watch that is ready at once and fails after a time; what it has under way takes some more to go.
func fails(after, toGo time.Duration, result error) Watch {
	return func(_ context.Context, ready func(), failed func(error)) (stop func()) {
		ready()
		timer := time.AfterFunc(after, func() { failed(result) })
		return func() {
			timer.Stop()
			<-time.After(toGo)
		}
	}
}

func TestWatched(t *testing.T) {
	t.Parallel()
	const never = 1000 * time.Hour
	sick := &ShownError{Text: "sick"}
	tests := map[string]struct {
		inner     Step
		daemon    bool
		watches   []Watch
		interrupt time.Duration
		cause     error
		want      string
		took      time.Duration
	}{
		"a watch that fails ends the step":        {inner: ends(never, 2*time.Second, nil), watches: []Watch{fails(time.Second, 0, sick)}, want: "sick", took: 3 * time.Second},
		"a step that fails ends the watches":      {inner: ends(time.Second, 0, errors.New("exit")), daemon: true, watches: []Watch{fails(never, 2*time.Second, sick)}, want: "exit", took: 3 * time.Second},
		"both failures are told":                  {inner: failsLate(errors.New("late")), watches: []Watch{fails(time.Second, 0, sick)}, want: "sick; late", took: time.Second},
		"a clean end ends the watches":            {inner: ends(time.Second, 0, nil), watches: []Watch{fails(never, 0, sick)}, took: time.Second},
		"a daemon is watched on":                  {inner: ends(time.Second, 0, nil), daemon: true, watches: []Watch{fails(5*time.Second, 0, sick)}, want: "sick", took: 5 * time.Second},
		"a daemon can be interrupted":             {inner: ends(time.Second, 0, nil), daemon: true, watches: []Watch{fails(never, 0, sick)}, interrupt: 3 * time.Second, cause: context.Canceled, want: "cancelled", took: 3 * time.Second},
		"leaving is no finding":                   {inner: ends(never, 0, nil), watches: []Watch{fails(never, 0, sick)}, interrupt: time.Second, cause: ErrDetached, want: "detached", took: time.Second},
		"leaving a daemon is no end of it either": {inner: ends(time.Second, 0, nil), daemon: true, watches: []Watch{fails(never, 0, sick)}, interrupt: 2 * time.Second, cause: ErrDetached, want: "detached", took: 2 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if tc.interrupt > 0 {
					time.AfterFunc(tc.interrupt, func() { cancel(tc.cause) })
				}
				start := time.Now()
				err := Watched(tc.inner, tc.daemon, tc.watches...)(ctx, func() {})
				if tc.want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, tc.want)
				}
				require.Equal(t, tc.took, time.Since(start))
			})
		})
	}
}

// failsLate fails for a reason of its own while it is being interrupted.
func failsLate(result error) Step {
	return func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		return result
	}
}

func TestWatchedIsReadyWithAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		at := make(chan time.Duration, 2)
		slow := func(_ context.Context, ready func(), _ func(error)) (stop func()) {
			timer := time.AfterFunc(3*time.Second, ready)
			return func() { timer.Stop() }
		}
		err := Watched(ends(10*time.Second, 0, nil), false, slow, fails(time.Hour, 0, nil))(t.Context(), func() { at <- time.Since(start) })
		require.NoError(t, err)
		require.Len(t, at, 1)
		require.Equal(t, 3*time.Second, <-at)
	})
}

package step

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor/logs"
)

// ends is a leaf that ends after a time, and takes some more to go when it is interrupted.
func ends(after, toGo time.Duration, result error) Step {
	return func(ctx context.Context, ready func()) error {
		ready()
		select {
		case <-time.After(after):
			return result
		case <-ctx.Done():
			time.Sleep(toGo) //nolint:forbidigo // the clock of the bubble
			return interrupted(ctx)
		}
	}
}

func TestComposition(t *testing.T) {
	t.Parallel()
	const never = 1000 * time.Hour
	bad := &ShownError{Text: "A: Exited with status 1"}
	worse := &ShownError{Text: "B: Exited with status 2"}
	limit := func(inner Step) Step {
		start := time.Now()
		return Timeout(inner, 5*time.Second, func() time.Time { return start })
	}
	tests := map[string]struct {
		step func() Step
		// interrupt is when the context ends; zero means never.
		interrupt time.Duration
		want      string
		took      time.Duration
	}{
		"serial stops at the first failure": {step: func() Step {
			return Serial(ends(1*time.Second, 0, nil), ends(1*time.Second, 0, bad), ends(never, 0, nil))
		}, want: bad.Text, took: 2 * time.Second},
		"serial starts nothing once it ended": {step: func() Step { return Serial(ends(2*time.Second, 0, nil), ends(never, 0, nil)) }, interrupt: time.Second, want: "cancelled", took: time.Second},
		"parallel waits for all":              {step: func() Step { return Parallel(ends(time.Second, 0, bad), ends(3*time.Second, 0, worse)) }, want: bad.Text + "; " + worse.Text, took: 3 * time.Second},
		"parallel returns when all are gone":  {step: func() Step { return Parallel(ends(never, time.Second, nil), ends(never, 4*time.Second, nil)) }, interrupt: time.Second, want: "cancelled", took: 5 * time.Second},
		"codependent: any exit ends all": {
			step: func() Step {
				return Codependent(Group{FailOnExit: true}, ends(time.Second, 0, nil), ends(never, 2*time.Second, nil))
			},
			want: "Codependent step exited", took: 3 * time.Second,
		},
		"codependent: a failure is the reason": {
			step: func() Step {
				return Codependent(Group{FailOnExit: true}, ends(time.Second, 0, bad), ends(never, 0, nil))
			},
			want: bad.Text, took: time.Second,
		},
		"a group may outlive a clean exit": {
			step: func() Step { return Codependent(Group{}, ends(time.Second, 0, nil), ends(3*time.Second, 0, bad)) },
			want: bad.Text, took: 3 * time.Second,
		},
		"a group may end with a clean exit": {
			step: func() Step {
				return Codependent(Group{CancelOnExit: true}, ends(time.Second, 0, nil), ends(never, 0, nil))
			},
			want: "cancelled", took: time.Second,
		},
		"a timeout waits until its child is gone":   {step: func() Step { return limit(ends(never, 2*time.Second, nil)) }, want: "exceeded 5s timeout", took: 7 * time.Second},
		"a timeout passes on what came in time":     {step: func() Step { return limit(ends(time.Second, 0, bad)) }, want: bad.Text, took: time.Second},
		"a timeout adds the child's own failure":    {step: func() Step { return limit(func(ctx context.Context, _ func()) error { <-ctx.Done(); return bad }) }, want: "exceeded 5s timeout; " + bad.Text, took: 5 * time.Second},
		"an interrupted timeout is no timeout":      {step: func() Step { return limit(ends(never, 0, nil)) }, interrupt: time.Second, want: "cancelled", took: time.Second},
		"try swallows a failure":                    {step: func() Step { return Try(ends(time.Second, 0, bad), func(error) {}) }, took: time.Second},
		"try waits for its child":                   {step: func() Step { return Try(ends(never, 3*time.Second, nil), func(error) {}) }, interrupt: time.Second, took: 4 * time.Second},
		"background passes on the end of its child": {step: func() Step { return Background(ends(time.Second, 0, bad)) }, want: bad.Text, took: time.Second},
		"background is left without a failure":      {step: func() Step { return Background(ends(never, 0, nil)) }, interrupt: time.Second, took: time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.interrupt > 0 {
					time.AfterFunc(tc.interrupt, cancel)
				}
				start := time.Now()
				err := tc.step()(ctx, func() {})
				if got := fmt.Sprint(err); got != tc.want && (err != nil || tc.want != "") {
					t.Errorf("result %q, want %q", got, tc.want)
				}
				require.Equal(t, tc.took, time.Since(start))
			})
		})
	}
}

func TestBackgroundDetachesItsChild(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var cause error
	err := Background(func(ctx context.Context, _ func()) error {
		cancel()
		<-ctx.Done()
		cause = context.Cause(ctx)
		return interrupted(ctx)
	})(ctx, func() {})
	require.NoError(t, err)
	require.ErrorIs(t, cause, ErrDetached)
}

func TestReadyOnce(t *testing.T) {
	t.Parallel()
	leaf := func(ready bool) Step {
		return func(_ context.Context, r func()) error {
			if ready {
				r()
				r()
			}
			return nil
		}
	}
	tests := map[string]struct {
		step Step
		want int
	}{
		"parallel is ready when all are":         {step: Parallel(leaf(true), leaf(true), leaf(true)), want: 1},
		"parallel is not ready while one is not": {step: Parallel(leaf(true), leaf(false)), want: 0},
		"codependent is ready when all are":      {step: Codependent(Group{}, leaf(true), leaf(true)), want: 1},
		"serial is ready with its last":          {step: Serial(leaf(true), leaf(false)), want: 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := make(chan struct{}, 10)
			require.NoError(t, tc.step(t.Context(), func() { calls <- struct{}{} }))
			require.Len(t, calls, tc.want)
		})
	}
}

type recorder struct{ lines []string }

func (r *recorder) Writer(string, logs.Stream) *logs.Writer { return logs.NewWriter(func(string) {}) }

func (r *recorder) Emit(source string, stream logs.Stream, message string) {
	r.lines = append(r.lines, fmt.Sprint(source, " ", stream, " ", message))
}

func TestEmitProgress(t *testing.T) {
	t.Parallel()
	messages := Messages{Start: "start", Success: "done", FailurePrefix: "failed", Source: "S"}
	tests := map[string]struct {
		result error
		again  bool
		want   []string
	}{
		"success":                         {want: []string{"S 1 start", "S 1 done"}},
		"a failure made for users":        {result: &ShownError{Text: "text"}, want: []string{"S 1 start", "S 2 failed: text"}},
		"a failure not made for users":    {result: errors.New("secret"), want: []string{"S 1 start", "S 2 failed"}},
		"the start is not told again":     {again: true, want: []string{"S 1 done"}},
		"leaving is neither good nor bad": {result: ErrDetached, want: []string{"S 1 start"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &recorder{}
			err := EmitProgress(func(context.Context, func()) error { return tc.result }, messages, log, func() bool { return tc.again })(t.Context(), func() {})
			require.ErrorIs(t, err, tc.result)
			require.Equal(t, tc.want, log.lines)
		})
	}
}

// Names of processes fit the engine, and two places never share one.
func TestProcessID(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		place := rapid.Custom(func(t *rapid.T) string {
			parts := rapid.SliceOfN(rapid.IntRange(0, 999), 0, 32).Draw(t, "parts")
			var b strings.Builder
			b.WriteString("sidecar")
			for _, p := range parts {
				fmt.Fprintf(&b, ".%d", p)
			}
			return b.String()
		})
		a, b := place.Draw(t, "a"), place.Draw(t, "b")
		if (processID(a) == processID(b)) != (a == b) {
			t.Fatalf("%q and %q become %q and %q", a, b, processID(a), processID(b))
		}
		if id := attemptID(processID(a), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)); len(id) > 63 {
			t.Fatalf("%q has %d characters", id, len(id))
		}
	})
}

func TestWords(t *testing.T) {
	t.Parallel()
	require.Equal(t, "512B", Bytes(512))
	require.Equal(t, "1.5K", Bytes(1536))
	require.Equal(t, "20M", Bytes(20<<20))
	cut := cutError(strings.Repeat("é", 1000))
	require.LessOrEqual(t, len(cut), 1024)
	require.True(t, strings.HasSuffix(cut, " (error truncated)"))
	shown, ok := Shown(JoinedError{ErrCancelled, &ShownError{Text: "a"}, &ShownError{Text: "b"}})
	require.True(t, ok)
	require.Equal(t, "a; b", shown)
}

package healthcheck

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var errRefused = errors.New("refused")

// pauses answers the only check of a schedule, again and again, and returns the pauses between.
func pauses(s *schedule, answers ...error) []time.Duration {
	got := []time.Duration{s.first()}
	for _, err := range answers {
		s.answer(0, err)
		if pause, due := s.next(0); due {
			got = append(got, pause)
		}
	}
	return got
}

func TestSchedulePauses(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	tests := map[string]struct {
		timing  Timing
		healthy time.Duration
		up      bool
		answers []error
		want    []time.Duration
	}{
		"every interval until it passes": {
			timing: Timing{UnhealthyInterval: 2 * time.Second}, healthy: 30 * time.Second,
			answers: []error{errRefused, errRefused, nil}, want: []time.Duration{0, 2 * time.Second, 2 * time.Second, 30 * time.Second},
		},
		"first attempts are quick": {
			timing: Timing{FirstRetry: 100 * ms, UnhealthyInterval: 500 * ms}, healthy: time.Minute,
			answers: []error{errRefused, errRefused, errRefused, errRefused, errRefused, nil},
			want:    []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 500 * ms, 500 * ms, time.Minute},
		},
		"never quicker than the interval": {
			timing: Timing{FirstRetry: 100 * ms, UnhealthyInterval: 50 * ms}, answers: []error{errRefused, errRefused}, want: []time.Duration{0, 50 * ms, 50 * ms},
		},
		"after the initial delay": {
			timing: Timing{InitialDelay: time.Minute, UnhealthyInterval: time.Second}, answers: []error{errRefused}, want: []time.Duration{time.Minute, time.Second},
		},
		"never again once healthy": {
			timing: Timing{UnhealthyInterval: time.Second}, answers: []error{nil}, want: []time.Duration{0},
		},
		"one that was ready is asked in the plain interval": {
			timing: Timing{FirstRetry: 100 * ms, UnhealthyInterval: 2 * time.Second}, healthy: time.Minute, up: true,
			answers: []error{nil, errRefused, errRefused, nil}, want: []time.Duration{0, time.Minute, 0, 2 * time.Second, time.Minute},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSchedule([]Check{{HealthyInterval: tc.healthy}}, tc.timing, tc.up)
			if diff := cmp.Diff(tc.want, pauses(&s, tc.answers...)); diff != "" {
				t.Errorf("pauses (-want +got):\n%s", diff)
			}
		})
	}
}

// A schedule is up exactly when every check has passed since it was last down, and none has failed since it is up.
func TestScheduleAgreesWithItsMeaning(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "checks")
		up := rapid.Bool().Draw(t, "up")
		s := newSchedule(make([]Check, n), Timing{UnhealthyInterval: time.Second}, up)
		passed := make([]bool, n)
		for range rapid.IntRange(0, 50).Draw(t, "answers") {
			i := rapid.IntRange(0, n-1).Draw(t, "check")
			var err error
			if rapid.Bool().Draw(t, "fails") {
				err = errRefused
			}
			before := up
			switch {
			case up && err != nil:
				up, passed = false, make([]bool, n)
			case !up && err == nil:
				passed[i], up = true, true
				for _, p := range passed {
					up = up && p
				}
			}
			require.Equal(t, before != up, s.answer(i, err))
			require.Equal(t, up, s.up)
			if _, due := s.next(i); due {
				require.False(t, !up && passed[i], "a check that has passed waits for the others")
			}
		}
	})
}

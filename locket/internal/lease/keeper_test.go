package lease

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	errDown  = errors.New("the store is down")
	errTaken = errors.New("somebody else has it")
	terms5   = Terms{TTL: 5 * time.Second} // trust 4 s, renewal after 1.67 s, patience 0.5 s
)

// script is a store that behaves differently over time. It notes when it was asked.
type script struct {
	begin  time.Time
	behave func(ctx context.Context, since time.Duration) error

	mu    sync.Mutex
	asked []time.Duration
}

func (s *script) try(ctx context.Context) error {
	since := time.Since(s.begin)
	s.mu.Lock()
	s.asked = append(s.asked, since)
	s.mu.Unlock()
	return s.behave(ctx, since)
}

func (s *script) keeper() *Keeper {
	s.begin = time.Now()
	return NewKeeper(terms5, s.begin, Attempts{Try: s.try, Final: func(err error) bool { return errors.Is(err, errTaken) }})
}

// hang answers nothing until the caller gives up.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestKeeperRenewsEveryThirdOfTheTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{behave: func(context.Context, time.Duration) error { return nil }}
		k := s.keeper()
		ctx, cancel := context.WithTimeout(t.Context(), 59*time.Second)
		defer cancel()
		require.NoError(t, k.Run(ctx))
		if len(s.asked) != 35 {
			t.Errorf("asked %d times in 59 s, want 35", len(s.asked))
		}
		if !k.Valid() {
			t.Error("the end of the context invalidated the lease, which was not given up")
		}
	})
}

func TestKeeperSurvivesAnOutageShorterThanItsTrust(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// Away from 1 s to 3.5 s: the renewal due at 1.67 s fails, and its repetitions, until 3.67 s.
		s := &script{behave: func(_ context.Context, since time.Duration) error {
			if since > time.Second && since < 3500*time.Millisecond {
				return errDown
			}
			return nil
		}}
		k := s.keeper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, k.Run(ctx))
	})
}

func TestKeeperGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		behave    func(ctx context.Context, since time.Duration) error
		wantCause error
	}{
		"when every request fails":    {func(context.Context, time.Duration) error { return errDown }, errDown},
		"when no request is answered": {func(ctx context.Context, _ time.Duration) error { return hang(ctx) }, ErrExpired},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{behave: tc.behave}
				k := s.keeper()
				err := k.Run(t.Context())
				require.ErrorIs(t, err, ErrExpired)
				require.ErrorIs(t, err, tc.wantCause)
				if got := time.Since(s.begin); got != 4*time.Second {
					t.Errorf("gave up after %v, want 4s: a second before the lease ends", got)
				}
				if k.Valid() {
					t.Error("still valid after it gave up")
				}
			})
		})
	}
}

// The deadline counts from before the request: an answer that took long buys no time.
func TestKeeperCountsFromBeforeTheRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow = 900 * time.Millisecond
		s := &script{behave: func(ctx context.Context, since time.Duration) error {
			if since > 2*time.Second {
				return hang(ctx)
			}
			timer := time.NewTimer(slow)
			defer timer.Stop()
			<-timer.C
			return nil
		}}
		k := s.keeper()
		require.ErrorIs(t, k.Run(t.Context()), ErrExpired)
		want := terms5.RenewEvery() + terms5.Trust()
		if got := time.Since(s.begin).Round(time.Millisecond); got != want.Round(time.Millisecond) {
			t.Errorf("gave up after %v, want %v", got, want)
		}
	})
}

func TestKeeperStopsAtOnceWhenAnotherHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{behave: func(context.Context, time.Duration) error { return errTaken }}
		k := s.keeper()
		require.ErrorIs(t, k.Run(t.Context()), errTaken)
		if got := time.Since(s.begin); got > 2*time.Second || k.Valid() {
			t.Errorf("noticed after %v, valid %v; want at the first renewal, and invalid", got, k.Valid())
		}
	})
}

// One frozen server out of two: the request beside it goes to the other one.
func TestAttemptAsksAgainBesideAnUnansweredRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Bool
		s := &script{begin: time.Now(), behave: func(ctx context.Context, _ time.Duration) error {
			if !asked.Swap(true) {
				return hang(ctx)
			}
			return nil
		}}
		sentAt, err := Attempt(t.Context(), terms5, Attempts{Try: s.try})
		require.NoError(t, err)
		if got := sentAt.Sub(s.begin); got != terms5.Patience() {
			t.Errorf("the successful request was sent after %v, want %v", got, terms5.Patience())
		}
	})
}

// A slow answer is an answer: the request that was sent first still counts when others are beside it.
// The failure of an older request says nothing about the newest, which is under way: it neither hurries nor delays the next.
func TestAttemptIgnoresTheLateFailureOfAnOlderRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{begin: time.Now(), behave: func(ctx context.Context, since time.Duration) error {
			if since == 0 { // fails a tenth of a second after the second was sent
				<-time.After(600 * time.Millisecond)
				return errDown
			}
			if since == terms5.Patience() { // is answered after 0.4 s
				<-time.After(400 * time.Millisecond)
				return nil
			}
			return hang(ctx)
		}}
		_, err := Attempt(t.Context(), terms5, Attempts{Try: s.try})
		require.NoError(t, err)
		require.Equal(t, []time.Duration{0, terms5.Patience()}, s.asked, "the second was answered before its patience was over")
	})
}

func TestAttemptTakesALateAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow = 1700 * time.Millisecond
		s := &script{begin: time.Now(), behave: func(ctx context.Context, since time.Duration) error {
			if since > 0 {
				return hang(ctx)
			}
			timer := time.NewTimer(slow)
			defer timer.Stop()
			<-timer.C
			return nil
		}}
		sentAt, err := Attempt(t.Context(), terms5, Attempts{Try: s.try})
		require.NoError(t, err)
		if age := time.Since(sentAt); age != slow {
			t.Errorf("the successful request is %v old, want %v", age, slow)
		}
		require.Len(t, s.asked, 4, "requests sent beside the unanswered one")
	})
}

func TestAttemptBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{begin: time.Now(), behave: func(_ context.Context, since time.Duration) error {
			if since > 4*time.Second {
				return nil
			}
			return errDown
		}}
		_, err := Attempt(t.Context(), terms5, Attempts{Try: s.try})
		require.NoError(t, err)
		want := []time.Duration{
			0, 250 * time.Millisecond, 750 * time.Millisecond, 1750 * time.Millisecond,
			2750 * time.Millisecond, 3750 * time.Millisecond, 4750 * time.Millisecond,
		}
		require.Equal(t, want, s.asked)
	})
}

// A process that was stopped past its deadline finds out from Valid, before any renewal has run.
func TestKeeperNoticesASuspension(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(terms5, time.Now(), Attempts{})
		require.True(t, k.Valid())
		timer := time.NewTimer(terms5.Trust())
		<-timer.C
		require.False(t, k.Valid(), "valid at its deadline")
	})
}

// A renewal that succeeds in a process that sleeps through its deadline does not revive the lease.
func TestKeeperDoesNotTrustAnAnswerThatCameTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(terms5, time.Now().Add(-10*time.Second), Attempts{Try: func(context.Context) error { return nil }})
		require.ErrorIs(t, k.Run(t.Context()), ErrExpired)
		require.False(t, k.Valid())
	})
}

func TestKeeperHurry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{behave: func(context.Context, time.Duration) error { return nil }}
		k := s.keeper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		k.Hurry()
		k.Hurry() // one renewal tells both
		require.NoError(t, k.Run(ctx))
		require.Equal(t, []time.Duration{0}, s.asked)
	})
}

func TestKeeperGiveUpIsFinal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{behave: func(context.Context, time.Duration) error { return nil }}
		k := s.keeper()
		k.GiveUp()
		require.False(t, k.Valid())
		require.ErrorIs(t, k.Run(t.Context()), ErrExpired, "a lease that was given up cannot be renewed")
	})
}

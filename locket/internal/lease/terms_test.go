package lease

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTermsOfTheDefault(t *testing.T) {
	t.Parallel()
	terms := Terms{TTL: DefaultTTL}
	for name, tc := range map[string]struct{ got, want time.Duration }{
		"margin":   {terms.Margin(), time.Second},
		"trust":    {terms.Trust(), 4 * time.Second},
		"renewal":  {terms.RenewEvery(), 5 * time.Second / 3},
		"patience": {terms.Patience(), 500 * time.Millisecond},
	} {
		if tc.got != tc.want {
			t.Errorf("%s of a lease of %v: got %v, want %v", name, terms.TTL, tc.got, tc.want)
		}
	}
}

// Whatever the TTL, a holder stops at least a second before its lease ends, and has the time for
// more than one attempt between the renewal and its deadline.
func TestTermsLeaveRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		terms := Terms{TTL: time.Duration(rapid.Int64Range(int64(MinHeldTTL), int64(MaxTTL)).Draw(t, "ttl"))}
		if left := terms.TTL - terms.Trust(); left < time.Second {
			t.Fatalf("only %v between the deadline and the expiry of %v", left, terms.TTL)
		}
		if room := terms.Trust() - terms.RenewEvery(); room < 3*terms.Patience() {
			t.Fatalf("only %v to renew a lease of %v", room, terms.TTL)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	want := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, time.Second, time.Second}
	for i, pause := range want {
		if got := RetryAfter(i + 1); got != pause {
			t.Errorf("RetryAfter(%d): got %v, want %v", i+1, got, pause)
		}
	}
	if got := RetryAfter(10_000); got != time.Second {
		t.Errorf("RetryAfter(10000): got %v, want 1s", got)
	}
}

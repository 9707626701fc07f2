package effect

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff counts failures in a row and says how long to wait after them: first, doubling up to most,
// each between half and all of it, so that many who failed together do not come back together.
type backoff struct {
	first, most time.Duration
	failures    int
}

func (b *backoff) reset() { b.failures = 0 }

// next counts one more failure.
func (b *backoff) next() time.Duration {
	delay := b.first
	for n := 0; n < b.failures && delay < b.most; n++ {
		delay *= 2
	}
	b.failures++
	return jitter(min(delay, b.most))
}

// jitter shortens a pause by up to half.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, protects nothing
}

// pause waits, and reports whether it was not cut short by the end of ctx.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

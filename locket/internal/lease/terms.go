// Package lease owns the rules of a lease that need neither a database nor a network: how long a
// holder may trust it, when it renews and how it retries, and which claim may replace which.
//
// It does not own where leases are kept (package store) nor how they are asked for (lockclient).
// Everything is a function of its arguments, save the Keeper, whose only outside world is time.
package lease

import "time"

// Limits of a time to live. Below MinHeldTTL nothing would be left of a lock after its margin.
const (
	MinHeldTTL = 3 * time.Second
	MaxTTL     = 300 * time.Second
	DefaultTTL = 5 * time.Second
)

// minMargin is the least time between the end of the holder's trust and the expiry in the store.
const minMargin = time.Second

// Terms are the time to live of a lease and all that follows from it for its holder.
type Terms struct {
	TTL time.Duration
}

// Margin is what the holder keeps between its own deadline and the end of the lease: the time to
// stop work, and the room for clocks that do not run equally fast.
func (t Terms) Margin() time.Duration { return max(minMargin, t.TTL/5) }

// Trust is how long after sending a successful request the holder may act on the lease.
func (t Terms) Trust() time.Duration { return max(0, t.TTL-t.Margin()) }

// RenewEvery is the pause from one successful request to the next.
func (t Terms) RenewEvery() time.Duration { return t.TTL / 3 }

// Patience is how long a request may go unanswered before another one is sent beside it, which the
// connection directs to the next server. The first one stays under way: a slow answer is still one.
// Between a renewal and the deadline there is room for several.
func (t Terms) Patience() time.Duration { return min(time.Second, max(250*time.Millisecond, t.TTL/10)) }

// First and longest pause after a failed request.
const (
	firstRetry   = 250 * time.Millisecond
	longestRetry = time.Second
)

// RetryAfter is the pause after the given number of failures in a row, counted from 1.
func RetryAfter(failures int) time.Duration {
	pause := firstRetry
	for range failures - 1 {
		if pause *= 2; pause >= longestRetry {
			return longestRetry
		}
	}
	return pause
}

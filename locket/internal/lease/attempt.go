package lease

import (
	"context"
	"sync"
	"time"
)

// Try is one request for a lease. It must return soon after its context ends.
type Try func(ctx context.Context) error

// Attempts says what to try, which errors end the trying, and who is told of the others. Final and
// Observe may be nil; Observe is called from the goroutine that called Attempt.
type Attempts struct {
	Try     Try
	Final   func(error) bool
	Observe func(error)
}

// Attempt repeats a.Try until it succeeds, and returns when the successful request was sent.
//
// After a failure it pauses for RetryAfter; when a request goes unanswered for Patience it sends
// another one beside it, so that one frozen server costs no lease while a slow one still counts. It
// gives up with the error of the try when a.Final says so, and with the cause of ctx when that
// ends. It blocks until every request it sent has returned.
func Attempt(ctx context.Context, terms Terms, a Attempts) (sentAt time.Time, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	type answer struct {
		number int
		sentAt time.Time
		err    error
	}
	answers := make(chan answer)
	sent := 0
	send := func() {
		sent++
		number, at := sent, time.Now()
		running.Go(func() {
			// An answer that comes after Trust would be a lease that is over already.
			tryCtx, done := context.WithTimeout(ctx, terms.Trust())
			defer done()
			result := answer{number: number, sentAt: at, err: a.Try(tryCtx)}
			select {
			case answers <- result:
			case <-ctx.Done():
			}
		})
	}

	next := time.NewTimer(0)
	defer next.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case <-next.C:
			send()
			next.Reset(terms.Patience())
		case got := <-answers:
			if got.err == nil {
				return got.sentAt, nil
			}
			if a.Final != nil && a.Final(got.err) {
				return time.Time{}, got.err
			}
			if ctx.Err() != nil {
				return time.Time{}, context.Cause(ctx)
			}
			if a.Observe != nil {
				a.Observe(got.err)
			}
			// The failure of an older request says nothing about the newest, which is under way.
			if got.number == sent {
				failures++
				next.Reset(pauseWithin(ctx, RetryAfter(failures)))
			}
		}
	}
}

// pauseWithin shortens a pause towards the deadline of ctx, so that the last moments of a lease are
// not slept through.
func pauseWithin(ctx context.Context, pause time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return pause
	}
	return min(pause, max(firstRetry, time.Until(deadline)/2))
}

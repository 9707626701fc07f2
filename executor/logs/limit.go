package logs

import (
	"fmt"
	"time"
)

// quiet is how long everything is dropped after a limit was exceeded.
const quiet = time.Second

// limiter is a pair of token buckets shared by all streams of one container: bytes first, then lines. The caller locks.
type limiter struct {
	bytesPerSecond int64 // -1 unlimited, 0 nothing
	linesPerSecond int   // 0 off

	bytes, lines float64
	filled       time.Time
	quietUntil   time.Time
}

func newLimiter(bytesPerSecond int64, linesPerSecond int, now time.Time) limiter {
	return limiter{
		bytesPerSecond: bytesPerSecond,
		linesPerSecond: linesPerSecond,
		bytes:          float64(max(bytesPerSecond, 0)),
		lines:          float64(linesPerSecond),
		filled:         now,
	}
}

// admit says how many bytes of a message of n bytes may pass, and what to report if a limit was exceeded just now. A
// message larger than the whole bucket passes in part, so that the start of a huge line is still seen.
func (l *limiter) admit(n int, now time.Time) (allowed int, report string) {
	if l.bytesPerSecond == 0 || now.Before(l.quietUntil) {
		return 0, ""
	}
	elapsed := now.Sub(l.filled).Seconds()
	l.filled = now
	if l.bytesPerSecond > 0 {
		l.bytes = min(l.bytes+elapsed*float64(l.bytesPerSecond), float64(l.bytesPerSecond))
		if float64(n) > l.bytes {
			allowed, l.bytes = int(l.bytes), 0
			l.quietUntil = now.Add(quiet)
			return allowed, fmt.Sprintf("app instance exceeded log rate limit (%d bytes/sec)", l.bytesPerSecond)
		}
	}
	if l.linesPerSecond > 0 {
		l.lines = min(l.lines+elapsed*float64(l.linesPerSecond), float64(l.linesPerSecond))
		if l.lines < 1 {
			l.quietUntil = now.Add(quiet)
			return 0, fmt.Sprintf("app instance exceeded log rate limit (%d log-lines/sec) set by platform operator", l.linesPerSecond)
		}
		l.lines--
	}
	if l.bytesPerSecond > 0 {
		l.bytes -= float64(n)
	}
	return n, ""
}

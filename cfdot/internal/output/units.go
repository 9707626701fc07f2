package output

import (
	"fmt"
	"time"
)

// Age is the time since a moment in nanoseconds since 1970, as people say it; empty for 0.
func Age(since int64, now time.Time) string {
	if since == 0 {
		return ""
	}
	return Duration(now.Sub(time.Unix(0, since)))
}

// Duration as people say it, in its two largest units; what is negative counts as nothing.
func Duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// Latency is a short time as people compare it, in milliseconds below a second.
func Latency(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// Mebibytes as people say them, and without rounding: what is not a tenth of a GiB stays in MiB.
func Mebibytes(mb int32) string {
	switch {
	case mb >= 1024 && mb%1024 == 0:
		return fmt.Sprintf("%d GiB", mb/1024)
	case mb >= 1024 && mb%256 == 0:
		return fmt.Sprintf("%g GiB", float64(mb)/1024)
	default:
		return fmt.Sprintf("%d MiB", mb)
	}
}

// Bytes as people say them, in powers of 1024.
func Bytes(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/step, 0
	for value >= step && unit < 3 {
		value, unit = value/step, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, [...]string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

// Percent of a total; a total of nothing is a dash.
func Percent(used, total int32) string {
	if total <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", int64(used)*100/int64(total))
}

// Count of things with the right ending: 1 cell, 2 cells.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

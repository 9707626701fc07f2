package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage may wait to be collected: a share of what is in use, and of a small state more, because then the same memory
// saves many collections. Most of what is in use are records, which live long and lie in few large pieces, so that to look through
// them is cheap. At the usual 100 percent half of the memory of a large process would be garbage that waits; at 40 percent a
// small one spends a third of its processor time on collections. A large one, of 150,000 LRPs and more, is where memory runs out first.
const (
	leastGrowth  = 40 // percent of what is in use
	largeGrowth  = 30 // percent of what is in use if that is large
	large        = 512 << 20
	mostGrowth   = 100      // percent
	leastGarbage = 32 << 20 // bytes
	growthPeriod = 2 * time.Second
)

// boundHeap adjusts until ctx ends how much memory garbage may take, unless the environment says it (GOGC).
func boundHeap(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	ticker := time.NewTicker(growthPeriod)
	defer ticker.Stop()
	for set := 0; ; {
		metrics.Read(live)
		if percent := growthOf(live[0].Value.Uint64()); percent != set {
			debug.SetGCPercent(percent)
			set = percent
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// growthOf a heap with so many bytes in use, in percent; in steps of ten, because to change it stops the program for a moment.
func growthOf(live uint64) int {
	if live > large {
		return largeGrowth
	}
	percent := mostGrowth
	if live > 0 {
		percent = int(min(mostGrowth, leastGarbage*100/live))
	}
	return max(leastGrowth, percent/10*10)
}

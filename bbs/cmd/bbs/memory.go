package main

import (
	"os"
	"runtime/debug"
)

// heapGrowth is how much the heap may grow before garbage is collected, in percent of what is in use. Most of what is in use are
// records, which live long and lie in few large pieces, so that to look through them is cheap; what calls leave behind is small
// beside them. At the usual 100 percent half of the memory of the process would be garbage that waits. Measured: with 5,000 LRPs
// and 1,100 connections a fifth less memory than at 100 for a tenth more processor time per heartbeat.
const heapGrowth = 40

// boundHeap sets how much memory garbage may take, unless the environment says it (GOGC).
func boundHeap() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}

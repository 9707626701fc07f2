package store

import (
	"runtime"
	"testing"
)

// heapInUse is what is in use after a collection.
func heapInUse() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

// BenchmarkMemoryOfRecords reports what one LRP with one running instance takes in memory, without Postgres; see BenchmarkMemory.
func BenchmarkMemoryOfRecords(b *testing.B) {
	const n = 50000
	for b.Loop() {
		before := heapInUse()
		state := benchState(b, n)
		b.ReportMetric((heapInUse()-before)/n, "bytes/lrp")
		runtime.KeepAlive(state)
	}
}

package cells_test

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/auctioneer/internal/cells"
	"diego.internal/auctioneer/internal/simulationtest"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/telemetry"
)

// BenchmarkSnapshotOf200Cells measures what the states of two hundred cells over mutual TLS cost: the first time, with the
// handshakes, and then from batch to batch. The cells are in this process, so their half of the work is in the figures.
func BenchmarkSnapshotOf200Cells(b *testing.B) {
	world := simulationtest.New(b)
	world.AddCells(200)
	f := cells.New(cells.Config{
		Lister: bbsv1.NewCellsClient(world.DialBBS()), Connect: world.Connect, StateTimeout: 10 * time.Second, PerformTimeout: 10 * time.Second,
		SoftDeadline: 2 * time.Second, StaleLimit: 10 * time.Second, Workers: 1000, Log: telemetry.Discard().Log, Registry: prometheus.NewRegistry(),
	})
	b.Cleanup(f.Close)
	before, began, cpu := heap(), time.Now(), cpuTime(b)
	for {
		s, err := f.Snapshot(b.Context(), time.Now().Add(-time.Minute))
		if err != nil {
			b.Fatal(err)
		}
		if s.Open == 200 {
			break
		}
	}
	first, firstCPU, firstHeap := time.Since(began), cpuTime(b)-cpu, heap()-before
	cpu = cpuTime(b)
	b.ResetTimer()
	for range b.N {
		if _, err := f.Snapshot(b.Context(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(first.Milliseconds()), "first-ms")
	b.ReportMetric(float64(firstCPU.Milliseconds()), "first-cpu-ms")
	b.ReportMetric(float64(firstHeap)/(1<<20), "first-MiB")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

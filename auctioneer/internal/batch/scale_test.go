package batch

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// BenchmarkQueueOf250000 measures the memory of a quarter of a million processes that wait at once, each with a request of
// its own, and of the batch that decides them on a thousand cells.
func BenchmarkQueueOf250000(b *testing.B) {
	const starts, fleet = 250_000, 1000
	cells := make([]auction.Cell, fleet)
	total := auction.Resources{MemoryMB: 1000, DiskMB: 1000, Containers: 400}
	profile := &auction.Profile{FixedRootFS: map[string][]string{"preloaded": {"stack"}}}
	for i := range cells {
		cells[i] = auction.Cell{ID: fmt.Sprintf("cell-%d", i), Zone: fmt.Sprintf("z%d", i%3), Profile: profile, Total: total, Available: total, StartSlots: auction.NoStartLimit}
	}
	for b.Loop() {
		before := inUse()
		q := NewQueue(1_000_000)
		for i := range starts {
			works, err := work.Instances(&auctioneerv1.LRPStart{
				ProcessGuid: fmt.Sprintf("3f0c1b1e-8d35-4bd6-a0f2-%012d-2d9c1f0a-7e2b-4f7f-9b7b-3a1f2f3c4d5e", i), Domain: "cf-apps", Indices: []int32{0}, DefinitionId: "definition",
				Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 1}, Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"},
			}, time.Now())
			if err == nil {
				err = q.Add(works)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(inUse()-before)/(1<<20), "queued-MiB")
		works := q.Take(true)
		items := make([]auction.Item, len(works))
		for i, w := range works {
			items[i] = w.Item
		}
		a := auction.New(cells, auction.Options{StartingWeight: 0.25})
		result := a.Schedule(items)
		b.ReportMetric(float64(inUse()-before)/(1<<20), "decided-MiB")
		if len(result.Placements) != starts {
			b.Fatalf("%d of %d placed", len(result.Placements), starts)
		}
		runtime.KeepAlive(a)
		runtime.KeepAlive(q)
	}
}

// inUse is the live heap in bytes.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

package auction_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"diego.internal/auctioneer/internal/auction"
)

// fleet is n empty cells of like size in three zones.
func fleet(n int) []auction.Cell {
	profile := &auction.Profile{FixedRootFS: map[string][]string{"preloaded": {"stack"}}}
	cells := make([]auction.Cell, n)
	for i := range cells {
		total := auction.Resources{MemoryMB: 64 * 1024, DiskMB: 128 * 1024, Containers: 500}
		cells[i] = auction.Cell{
			ID: fmt.Sprintf("cell-%04d", i), Zone: fmt.Sprintf("z%d", i%3), Index: i, Profile: profile,
			Total: total, Available: total, ProxyMemoryMB: 32, StartSlots: auction.NoStartLimit,
		}
	}
	return cells
}

// starts is n instances: half of them of processes with one instance, half of large
// ones with 250 each, in three sizes.
func starts(n int) []auction.Item {
	rng := rand.New(rand.NewPCG(1, 2))
	requests := []*auction.Request{}
	for _, mb := range []int64{32, 64, 128} {
		requests = append(requests, &auction.Request{MemoryMB: mb, DiskMB: 64, Proxy: true, RootFS: "preloaded:stack"})
	}
	items := make([]auction.Item, 0, n)
	for p := 0; len(items) < n; p++ {
		size := 1
		if len(items) >= n/2 {
			size = 250
		}
		r := requests[rng.IntN(len(requests))]
		for i := 0; i < size && len(items) < n; i++ {
			items = append(items, auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("process-%06d", p), Index: i, Request: r})
		}
	}
	rng.Shuffle(n, func(i, j int) { items[i], items[j] = items[j], items[i] })
	return items
}

func BenchmarkSchedule(b *testing.B) {
	for _, size := range []struct{ cells, items int }{{1000, 1}, {100, 10_000}, {500, 50_000}, {1000, 250_000}} {
		b.Run(fmt.Sprintf("%d_on_%d_cells", size.items, size.cells), func(b *testing.B) {
			cells, items := fleet(size.cells), starts(size.items)
			for b.Loop() {
				r := auction.New(cells, auction.Options{StartingWeight: 0.25}).Schedule(items)
				if len(r.Refusals) > 0 {
					b.Fatalf("%d refused: %s", len(r.Refusals), r.Refusals[0].Text)
				}
			}
		})
	}
}

// BenchmarkScheduleOverfull: most of the work finds no room.
func BenchmarkScheduleOverfull(b *testing.B) {
	cells, items := fleet(100), starts(100_000)
	for b.Loop() {
		r := auction.New(cells, auction.Options{StartingWeight: 0.25}).Schedule(items)
		if len(r.Refusals) == 0 {
			b.Fatal("all placed")
		}
	}
}

// BenchmarkScheduleInterleaved: twelve processes share everything, so that each is on
// every cell, and the cells differ in size.
func BenchmarkScheduleInterleaved(b *testing.B) {
	cells := fleet(1000)
	for i := range cells {
		cells[i].Total.MemoryMB += int64(i % 97)
		cells[i].Available = cells[i].Total
	}
	items := make([]auction.Item, 250_000)
	requests := []*auction.Request{{MemoryMB: 32, RootFS: "preloaded:stack"}, {MemoryMB: 64, RootFS: "preloaded:stack"}, {MemoryMB: 128, RootFS: "preloaded:stack"}}
	for i := range items {
		items[i] = auction.Item{Kind: auction.LRP, GUID: fmt.Sprintf("process-%02d", i%12), Index: i / 12, Request: requests[i%3]}
	}
	for b.Loop() {
		if r := auction.New(cells, auction.Options{StartingWeight: 0.25}).Schedule(items); len(r.Refusals) > 0 {
			b.Fatalf("%d refused: %s", len(r.Refusals), r.Refusals[0].Text)
		}
	}
}

package main

import "testing"

func TestGarbageIsBoundedByWhatIsInUse(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 100, 1: 100, 32 << 20: 100, 40 << 20: 80, 53 << 20: 60, 80 << 20: 40, 512 << 20: 40, 512<<20 + 1: 30, 1 << 30: 30, 1 << 40: 30} {
		if got := growthOf(live); got != want {
			t.Errorf("%d MiB in use: %d%%, want %d%%", live>>20, got, want)
		}
	}
}

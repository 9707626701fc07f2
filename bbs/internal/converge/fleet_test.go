package converge

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func cellIDs(n int) []string {
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint("cell-", i))
	}
	return ids
}

func statuses(c Cells) map[CellStatus]int {
	counts := map[CellStatus]int{}
	for _, status := range c {
		counts[status]++
	}
	return counts
}

func after(d time.Duration) time.Time { return now.Add(d) }

func TestFleetOneCell(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do    func(*Fleet)
		after time.Duration
		want  CellStatus
	}{
		"a present cell":                          {func(*Fleet) {}, time.Hour, Present},
		"an expired presence proves the loss":     {func(f *Fleet) { f.Expired("cell-0", now) }, 0, Lost},
		"a released presence too":                 {func(f *Fleet) { f.Released("cell-0", now) }, 0, Lost},
		"a cell that is missed is not lost yet":   {func(f *Fleet) { f.Missed("cell-0", now) }, 5*time.Second - 1, Unsure},
		"a cell that is missed for a TTL is":      {func(f *Fleet) { f.Missed("cell-0", now) }, 5 * time.Second, Lost},
		"a list without the cell misses it":       {func(f *Fleet) { f.Sync(cellIDs(4)[1:], now) }, 5*time.Second - 1, Unsure},
		"a list without the cell, a TTL ago":      {func(f *Fleet) { f.Sync(cellIDs(4)[1:], now) }, 5 * time.Second, Lost},
		"a cell that came back in time":           {func(f *Fleet) { f.Missed("cell-0", now); f.Arrived("cell-0") }, time.Hour, Present},
		"a list repeated does not begin anew":     {func(f *Fleet) { f.Sync(cellIDs(4)[1:], now.Add(-4*time.Second)); f.Sync(cellIDs(4)[1:], now) }, time.Second, Lost},
		"a record of a present cell says nothing": {func(f *Fleet) { f.Noted("cell-0", now) }, time.Hour, Present},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := NewFleet(DefaultFleetConfig())
			f.Sync(cellIDs(4), now.Add(-time.Minute))
			test.do(f)
			if got := f.View(after(test.after))["cell-0"]; got != test.want {
				t.Errorf("status %v, want %v", got, test.want)
			}
		})
	}
}

func TestFleetNotedCellIsLostAfterATTL(t *testing.T) {
	t.Parallel()
	f := NewFleet(DefaultFleetConfig())
	f.Sync(cellIDs(3), now)
	f.Noted("ghost", now)
	f.Noted("ghost", after(4*time.Second))
	if got := f.View(after(4 * time.Second))["ghost"]; got != Unsure {
		t.Errorf("status %v at first", got)
	}
	if got := f.NextChange(now); got != after(5*time.Second) {
		t.Errorf("changes at %v", got)
	}
	if got := f.View(after(5 * time.Second))["ghost"]; got != Lost {
		t.Errorf("status %v after a TTL", got)
	}
}

func TestBrake(t *testing.T) {
	t.Parallel()
	expire := func(f *Fleet, from, to int, at time.Time) {
		for _, id := range cellIDs(to)[from:] {
			f.Expired(id, at)
		}
	}
	type check struct {
		at   time.Duration
		want map[CellStatus]int
	}
	tests := map[string]struct {
		do     func(*Fleet)
		checks []check
	}{
		"half of the cells may go": {
			func(f *Fleet) { expire(f, 0, 5, now) },
			[]check{{0, map[CellStatus]int{Present: 5, Lost: 5}}},
		},
		"more than half are not believed before a minute is over": {
			func(f *Fleet) { expire(f, 0, 6, now) },
			[]check{
				{0, map[CellStatus]int{Present: 4, Unsure: 6}},
				{time.Minute - 1, map[CellStatus]int{Present: 4, Unsure: 6}},
				{time.Minute, map[CellStatus]int{Present: 4, Lost: 6}},
				{time.Minute + 1, map[CellStatus]int{Present: 4, Lost: 6}},
			},
		},
		"none at all": {
			func(f *Fleet) { f.Sync(nil, now) },
			[]check{{5 * time.Second, map[CellStatus]int{Unsure: 10}}, {65 * time.Second, map[CellStatus]int{Lost: 10}}},
		},
		"those who come back release it at once": {
			func(f *Fleet) {
				expire(f, 0, 9, now)
				f.View(now)
				f.Sync(cellIDs(8), after(10*time.Second))
			},
			[]check{{11 * time.Second, map[CellStatus]int{Present: 8, Unsure: 1, Lost: 1}}},
		},
		"released cells are no sign of trouble": {
			func(f *Fleet) {
				for _, id := range cellIDs(9) {
					f.Released(id, now)
				}
			},
			[]check{{0, map[CellStatus]int{Present: 1, Lost: 9}}},
		},
		"losses of long ago do not count": {
			func(f *Fleet) {
				expire(f, 0, 4, now)
				f.View(now)
				expire(f, 4, 6, after(11*time.Minute))
			},
			[]check{{11 * time.Minute, map[CellStatus]int{Present: 4, Lost: 6}}},
		},
		"an operator releases it": {
			func(f *Fleet) { expire(f, 0, 9, now); f.Override(false, after(time.Minute)) },
			[]check{{0, map[CellStatus]int{Present: 1, Lost: 9}}, {90 * time.Second, map[CellStatus]int{Present: 1, Lost: 9}}},
		},
		"an operator holds it": {
			func(f *Fleet) { expire(f, 0, 1, now); f.Override(true, after(time.Hour)) },
			[]check{
				{0, map[CellStatus]int{Present: 9, Unsure: 1}},
				{30 * time.Minute, map[CellStatus]int{Present: 9, Unsure: 1}},
				{time.Hour, map[CellStatus]int{Present: 9, Lost: 1}},
			},
		},
		"an operator who holds it believes nothing, and the minute begins when he lets go": {
			func(f *Fleet) {
				expire(f, 0, 9, now)
				f.View(now)
				f.Override(true, after(50*time.Second))
				f.View(after(time.Second))
			},
			[]check{
				{50 * time.Second, map[CellStatus]int{Present: 1, Unsure: 9}},
				{109 * time.Second, map[CellStatus]int{Present: 1, Unsure: 9}},
				{110 * time.Second, map[CellStatus]int{Present: 1, Lost: 9}},
			},
		},
		"a second loss has a minute of its own, after one that ended": {
			func(f *Fleet) {
				expire(f, 0, 9, now)
				f.View(now)
				f.Sync(cellIDs(10), after(10*time.Second))
				f.View(after(10 * time.Second))
				expire(f, 0, 9, after(50*time.Second))
			},
			[]check{
				{109 * time.Second, map[CellStatus]int{Present: 1, Unsure: 9}},
				{110 * time.Second, map[CellStatus]int{Present: 1, Lost: 9}},
			},
		},
		"and after one that was believed": {
			func(f *Fleet) {
				expire(f, 0, 9, now)
				f.View(now)
				f.View(after(time.Minute))
				f.Sync(cellIDs(10), after(2*time.Minute))
				expire(f, 0, 9, after(3*time.Minute))
			},
			[]check{
				{3*time.Minute + 59*time.Second, map[CellStatus]int{Present: 1, Unsure: 9}},
				{4 * time.Minute, map[CellStatus]int{Present: 1, Lost: 9}},
			},
		},
		"a cell that goes meanwhile is not believed with the others: now none is left": {
			func(f *Fleet) { expire(f, 0, 9, now); f.View(now); f.Missed("cell-9", after(59*time.Second)) },
			[]check{{64 * time.Second, map[CellStatus]int{Unsure: 10}}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := NewFleet(DefaultFleetConfig())
			f.Sync(cellIDs(10), now.Add(-time.Minute))
			test.do(f)
			for _, c := range test.checks {
				at := after(c.at)
				// The loop asks whenever something changes by time.
				for next := f.NextChange(now); !next.IsZero() && next.Before(at); next = f.NextChange(next) {
					f.View(next)
				}
				if d := cmp.Diff(c.want, statuses(f.View(at))); d != "" {
					t.Errorf("after %v (-want +got):\n%s", c.at, d)
				}
			}
		})
	}
}

// With a share of 0 only the loss of every cell engages the brake.
func TestBrakeWithoutShare(t *testing.T) {
	t.Parallel()
	config := DefaultFleetConfig()
	config.BrakeShare = 0
	f := NewFleet(config)
	f.Sync(cellIDs(10), now)
	for _, id := range cellIDs(9) {
		f.Expired(id, now)
	}
	if f.Braked(now) {
		t.Error("it engaged though a cell is left")
	}
	f.Expired("cell-9", now)
	if !f.Braked(now) {
		t.Error("it did not engage though no cell is left")
	}
}

func TestFleetNextChange(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(*Fleet)
		want time.Time
	}{
		"nothing is missing":               {func(*Fleet) {}, time.Time{}},
		"a cell that is missed":            {func(f *Fleet) { f.Missed("cell-1", now) }, after(5 * time.Second)},
		"the first of two":                 {func(f *Fleet) { f.Missed("cell-1", after(time.Second)); f.Missed("cell-2", now) }, after(5 * time.Second)},
		"the end of what an operator said": {func(f *Fleet) { f.Missed("cell-1", now); f.Override(true, after(2*time.Second)) }, after(2 * time.Second)},
		"the end of the brake": {func(f *Fleet) {
			f.Expired("cell-0", now)
			f.Expired("cell-1", now)
			f.Expired("cell-2", now)
			f.View(now)
		}, after(time.Minute)},
		"a loss that is past says nothing":  {func(f *Fleet) { f.Expired("cell-1", now.Add(-time.Second)) }, time.Time{}},
		"an override that is past does not": {func(f *Fleet) { f.Override(true, now.Add(-time.Second)) }, time.Time{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := NewFleet(DefaultFleetConfig())
			f.Sync(cellIDs(4), now.Add(-time.Minute))
			test.do(f)
			if got := f.NextChange(now); got != test.want {
				t.Errorf("next change at %v, want %v", got, test.want)
			}
		})
	}
}

func TestFleetForgets(t *testing.T) {
	t.Parallel()
	f := NewFleet(DefaultFleetConfig())
	f.Sync(cellIDs(2), now)
	f.Expired("cell-0", now)
	f.Forget(after(24 * time.Hour))
	if present, missing := f.Count(); present != 1 || missing != 1 {
		t.Errorf("after a day %d present, %d missing", present, missing)
	}
	f.Forget(after(24*time.Hour + 1))
	if present, missing := f.Count(); present != 1 || missing != 0 {
		t.Errorf("after more than a day %d present, %d missing", present, missing)
	}
}

package store

import (
	"fmt"
	"testing"
	"time"

	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/lrp"
)

// benchState holds n LRPs with one running instance each, as batches would have left them.
func benchState(tb testing.TB, n int) *View {
	tb.Helper()
	s := newState()
	now := time.Now()
	for i := range n {
		change, err := lrp.Desire(nil, benchDesired(tb, i), nil, lrp.Stamp{Now: now, Epoch: benchGUID(i)[:36]})
		if err != nil {
			tb.Fatal(err)
		}
		new(recordEncoder).desired(change.Desired)
		s.put(change.Desired)
		_, by := benchKeys(i)
		out, err := lrp.Start(change.Indices[0].Outcome.After, benchReport(i, 0), lrp.Stamp{Now: now, Epoch: benchGUID(i)[:36]})
		if err != nil {
			tb.Fatal(err)
		}
		if out.After.Ordinary.InstanceKey != by {
			tb.Fatalf("%v is not %v", out.After.Ordinary.InstanceKey, by)
		}
		s.put(new(recordEncoder).actual(out.After.Ordinary))
	}
	return &View{records: records{s}, revision: 1}
}

// BenchmarkConverge is what convergence does in its intervals when there is nothing to do: a look at everything, as after a
// take-over and under load, and a look at what is unsettled with a twentieth of what is settled.
func BenchmarkConverge(b *testing.B) {
	for _, n := range [...]int{5000, 50000, 250000} {
		state := benchState(b, n)
		cells := converge.Cells{}
		for i := range benchCells {
			cells[fmt.Sprintf("cell-%04d", i)] = converge.Present
		}
		v := &converge.View{Now: time.Now(), Cells: cells, Config: converge.DefaultConfig(), Remember: n}
		check := func(plan *converge.Plan, looked int) {
			if len(plan.LRPs)+len(plan.Unsettled)+len(plan.Drifted) > 0 || plan.Looked != looked {
				b.Fatalf("looked at %d of %d, unsettled are %v", plan.Looked, looked, plan.Unsettled)
			}
		}
		b.Run(fmt.Sprint("everything of ", n), func(b *testing.B) {
			b.ReportAllocs()
			v.Compared = 1
			for b.Loop() {
				plan := v.Make(state)
				check(&plan, n)
			}
		})
		b.Run(fmt.Sprint("unsettled of ", n), func(b *testing.B) {
			b.ReportAllocs()
			v.Compared = 0
			section := ""
			for b.Loop() {
				plan := v.MakeOf(state, nil)
				check(&plan, 0)
				plan, section = v.MakeSection(state, section, n/20)
				check(&plan, n/20)
			}
		})
	}
}

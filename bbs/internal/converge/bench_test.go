package converge

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// lists is a snapshot of sorted lists, which costs next to nothing to walk.
type lists struct {
	world
	desireds []*lrp.Desired
	records  []*lrp.Actual
}

func (l *lists) DesiredsFrom(guid string) iter.Seq[*lrp.Desired] {
	at, _ := slices.BinarySearchFunc(l.desireds, guid, func(d *lrp.Desired, guid string) int { return cmp.Compare(d.ProcessGUID, guid) })
	return slices.Values(l.desireds[at:])
}

func (l *lists) RecordsFrom(guid string) iter.Seq[*lrp.Actual] {
	at, _ := slices.BinarySearchFunc(l.records, guid, func(a *lrp.Actual, guid string) int { return cmp.Compare(a.ProcessGUID, guid) })
	return slices.Values(l.records[at:])
}

func (l *lists) Tasks() iter.Seq[*task.Task] { return slices.Values([]*task.Task(nil)) }

// idle is a state of n LRPs of one running instance each on 1,000 cells, with nothing to do.
func idle(n int) (*lists, *View) {
	l := &lists{world: *newWorld()}
	l.fresh()
	cells := Cells{}
	for i := range n {
		guid := fmt.Sprintf("8d2b9d0c-6a5e-4b64-9d7e-%012d", i)
		cell := fmt.Sprintf("cell-%d", i%1000)
		cells[cell] = Present
		l.desireds = append(l.desireds, &lrp.Desired{
			ProcessGUID: guid, Domain: "apps", Instances: 1, InternalHostnames: []string{guid + ".apps.internal"},
			MetricTags: []lrp.MetricTag{
				{Name: "app_id", Static: guid}, {Name: "instance_id", Dynamic: lrp.DynamicIndex}, {Name: "source_id", Static: guid},
			},
		})
		l.records = append(l.records, &lrp.Actual{
			Key: lrp.Key{ProcessGUID: guid}, InstanceKey: lrp.InstanceKey{InstanceGUID: guid, CellID: cell}, Domain: "apps",
			State: lrp.Running, Routable: true, Since: now.Add(-time.Hour).UnixNano(), InternalRoutes: []string{guid + ".apps.internal"},
			MetricTags: []lrp.TagValue{{Name: "app_id", Value: guid}, {Name: "instance_id", Value: "0"}, {Name: "source_id", Value: guid}},
		})
	}
	return l, view(cells)
}

func TestNothingToDoAllocatesNothingPerRecord(t *testing.T) {
	few, v := idle(100)
	many, w := idle(2000)
	base := testing.AllocsPerRun(10, func() { v.Make(few) })
	// But for a few in each section.
	if got := testing.AllocsPerRun(10, func() { w.Make(many) }); got > base+10*2000/sectionSize {
		t.Errorf("%v allocations for 2,000 LRPs, %v for 100", got, base)
	}
}

func BenchmarkPlanWithNothingToDo(b *testing.B) {
	for _, n := range []int{5_000, 50_000, 200_000} {
		l, v := idle(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if plan := v.Make(l); len(plan.LRPs)+len(plan.Drifted) > 0 {
					b.Fatalf("planned %v", plan)
				}
			}
		})
	}
}

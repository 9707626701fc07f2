package compare

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/cfdot/internal/spec"
)

func TestDifferences(t *testing.T) {
	t.Parallel()
	now := time.Unix(100_000, 0)
	old, young := now.Add(-time.Hour).UnixNano(), now.Add(-time.Second).UnixNano()
	record := func(index int32, state string, since int64, change func(*spec.ActualLRP)) spec.ActualLRP {
		l := spec.ActualLRP{ProcessGUID: "p", Index: index, Domain: "d", State: state, Presence: "ORDINARY", CellID: "c", Since: since, Routable: state == "RUNNING"}
		if change != nil {
			change(&l)
		}
		return l
	}
	suspect := func(l *spec.ActualLRP) { l.Presence = "SUSPECT" }
	evacuating := func(l *spec.ActualLRP) { l.Presence = "EVACUATING" }
	for name, test := range map[string]struct {
		records []spec.ActualLRP
		want    []Kind
	}{
		"as it should be":                             {[]spec.ActualLRP{record(0, "RUNNING", old, nil)}, nil},
		"no record":                                   {nil, []Kind{Missing}},
		"waiting for a second":                        {[]spec.ActualLRP{record(0, "UNCLAIMED", young, nil)}, nil},
		"waiting for an hour":                         {[]spec.ActualLRP{record(0, "UNCLAIMED", old, nil)}, []Kind{NotPlaced}},
		"refused a second ago":                        {[]spec.ActualLRP{record(0, "UNCLAIMED", young, func(l *spec.ActualLRP) { l.PlacementError = "memory" })}, []Kind{NotPlaced}},
		"starting":                                    {[]spec.ActualLRP{record(0, "CLAIMED", young, nil)}, nil},
		"starting for an hour":                        {[]spec.ActualLRP{record(0, "CLAIMED", old, nil)}, []Kind{Starting}},
		"crashed a second ago":                        {[]spec.ActualLRP{record(0, "CRASHED", young, nil)}, nil},
		"crashed":                                     {[]spec.ActualLRP{record(0, "CRASHED", old, nil)}, []Kind{Crashed}},
		"not routable":                                {[]spec.ActualLRP{record(0, "RUNNING", old, func(l *spec.ActualLRP) { l.Routable = false })}, []Kind{NotRoutable}},
		"what was wanted before":                      {[]spec.ActualLRP{record(0, "RUNNING", old, func(l *spec.ActualLRP) { l.DefinitionID = "v1" })}, []Kind{OldDefinition}},
		"a lost cell":                                 {[]spec.ActualLRP{record(0, "RUNNING", old, suspect)}, []Kind{Suspect}},
		"a lost cell and a replacement to come":       {[]spec.ActualLRP{record(0, "UNCLAIMED", young, nil), record(0, "RUNNING", old, suspect)}, []Kind{Suspect}},
		"a lost cell and a replacement that runs":     {[]spec.ActualLRP{record(0, "RUNNING", old, suspect), record(0, "RUNNING", young, nil)}, nil},
		"being moved, with a replacement":             {[]spec.ActualLRP{record(0, "RUNNING", young, nil), record(0, "RUNNING", old, evacuating)}, nil},
		"an index too many":                           {[]spec.ActualLRP{record(0, "RUNNING", old, nil), record(1, "RUNNING", old, nil)}, []Kind{WrongIndex}},
		"a process that nobody wants":                 {[]spec.ActualLRP{record(0, "RUNNING", old, nil), record(0, "RUNNING", old, func(l *spec.ActualLRP) { l.ProcessGUID = "q" })}, []Kind{Extra}},
		"being moved, although nobody wants it there": {[]spec.ActualLRP{record(0, "RUNNING", old, nil), record(7, "RUNNING", old, evacuating)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(Config{Patience: time.Minute, Now: now})
			c.Desire(spec.SchedulingInfo{ProcessGUID: "p", Domain: "d", Instances: 1, DefinitionID: "v2"})
			for _, l := range test.records {
				c.Run(l)
			}
			got, counts := c.Differences()
			var kinds []Kind
			for _, d := range got {
				kinds = append(kinds, d.Kind)
			}
			require.Equal(t, test.want, kinds)
			require.Equal(t, 1, counts.Desired)
		})
	}
}

// TestAllRunningIsNoDifference, whatever is wanted and in which order it comes; and one record less is one difference more.
func TestAllRunningIsNoDifference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int32Range(0, 5), 1, 10).Draw(t, "sizes")
		var records []spec.ActualLRP
		fill := func() *Comparison {
			c := New(Config{Now: time.Unix(0, 0)})
			for i, size := range sizes {
				c.Desire(spec.SchedulingInfo{ProcessGUID: fmt.Sprint(i), Instances: size})
			}
			return c
		}
		for i, size := range sizes {
			for index := range size {
				records = append(records, spec.ActualLRP{ProcessGUID: fmt.Sprint(i), Index: index, State: "RUNNING", Presence: "ORDINARY", Routable: true})
			}
		}
		records = rapid.Permutation(records).Draw(t, "order")
		c := fill()
		for _, l := range records {
			c.Run(l)
		}
		if got, counts := c.Differences(); len(got) != 0 || counts.Running != len(records) || counts.Processes != len(sizes) {
			t.Fatalf("%v, %+v", got, counts)
		}
		if len(records) == 0 {
			return
		}
		c = fill()
		for _, l := range records[1:] {
			c.Run(l)
		}
		if got, _ := c.Differences(); len(got) != 1 || got[0].Kind != Missing || got[0].Index != records[0].Index {
			t.Fatalf("%v", got)
		}
	})
}

func TestBoth(t *testing.T) {
	t.Parallel()
	a, b, c := Difference{Kind: Missing, ProcessGUID: "a"}, Difference{Kind: Extra, ProcessGUID: "b", CellID: "1"}, Difference{Kind: Missing, ProcessGUID: "b", Index: 1}
	require.Equal(t, []string{"a", "b"}, Processes([]Difference{a, b, c}))
	moved := b
	moved.CellID = "2"
	require.Equal(t, []Difference{moved, c}, Both([]Difference{a, b, c}, []Difference{moved, c, {Kind: Crashed, ProcessGUID: "a"}}))
	empty := New(Config{})
	require.True(t, empty.Empty())
	empty.Run(spec.ActualLRP{})
	require.False(t, empty.Empty())
}

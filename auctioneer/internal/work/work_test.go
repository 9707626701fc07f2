package work

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/auctioneer/internal/auction"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func goodLRP() *auctioneerv1.LRPStart {
	return &auctioneerv1.LRPStart{
		ProcessGuid: "app", Domain: "d", Indices: []int32{2, 0, 2}, DefinitionId: "def", TraceId: "trace",
		Resources: &workloadv1.Resources{MemoryMb: 64, DiskMb: 32},
		Placement: &workloadv1.PlacementConstraint{
			RootFs: "preloaded:stack", VolumeDrivers: []string{"nfs"},
			Constraint: &workloadv1.Constraint{Require: []string{"gpu"}},
		},
	}
}

func TestInstances(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		edit        func(*auctioneerv1.LRPStart)
		want, field string
	}{
		"no process guid":    {edit: func(s *auctioneerv1.LRPStart) { s.ProcessGuid = "" }, want: "proccess guid is empty", field: "process_guid"}, //nolint:misspell // the spelling is what clients know
		"no domain":          {edit: func(s *auctioneerv1.LRPStart) { s.Domain = "" }, want: "domain is empty", field: "domain"},
		"no indices":         {edit: func(s *auctioneerv1.LRPStart) { s.Indices = nil }, want: "indices must not be empty", field: "indices"},
		"a negative index":   {edit: func(s *auctioneerv1.LRPStart) { s.Indices = []int32{1, -1} }, want: "indices must not be negative", field: "indices"},
		"negative memory":    {edit: func(s *auctioneerv1.LRPStart) { s.Resources.MemoryMb = -1 }, want: "resources cannot be less than 0", field: "resources.memory_mb"},
		"negative disk":      {edit: func(s *auctioneerv1.LRPStart) { s.Resources.DiskMb = -1 }, want: "resources cannot be less than 0", field: "resources.disk_mb"},
		"no placement":       {edit: func(s *auctioneerv1.LRPStart) { s.Placement = nil }, want: "placement constraint cannot be empty", field: "placement.root_fs"},
		"no root filesystem": {edit: func(s *auctioneerv1.LRPStart) { s.Placement.RootFs = "" }, want: "placement constraint cannot be empty", field: "placement.root_fs"},
		"a process guid that no cell takes": {
			edit: func(s *auctioneerv1.LRPStart) { s.ProcessGuid = strings.Repeat("x", 256) }, want: "process_guid must be at most 255 characters", field: "process_guid",
		},
		"a root filesystem that is too long": {
			edit: func(s *auctioneerv1.LRPStart) { s.Placement.RootFs = strings.Repeat("x", 1025) },
			want: "placement.root_fs must be at most 1024 characters", field: "placement.root_fs",
		},
		"negative pids": {edit: func(s *auctioneerv1.LRPStart) { s.Resources.MaxPids = -1 }, want: "resources.max_pids must be greater than or equal to 0", field: "resources.max_pids"},
		"an empty tag": {
			edit: func(s *auctioneerv1.LRPStart) { s.Placement.PlacementTags = []string{"a", ""} },
			want: "placement.placement_tags[1] must be at least 1 characters", field: "placement.placement_tags[1]",
		},
		"no resources are no limits": {edit: func(s *auctioneerv1.LRPStart) { s.Resources = nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := goodLRP()
			tt.edit(start)
			works, err := Instances(start, time.Now())
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, InvalidError{Field: tt.field, Problem: tt.want}, err)
			require.Empty(t, works)
		})
	}
}

func TestInstancesExpand(t *testing.T) {
	t.Parallel()
	now := time.Unix(5, 0)
	works, err := Instances(goodLRP(), now)
	require.NoError(t, err)
	require.Len(t, works, 2, "a repeated index counts once")
	want := auction.Item{Kind: auction.LRP, GUID: "app", Index: 2, Queued: now, Request: &auction.Request{
		MemoryMB: 64, DiskMB: 32, Proxy: true, RootFS: "preloaded:stack", VolumeDrivers: []string{"nfs"},
		Constrained: true, Require: []string{"gpu"},
	}}
	if diff := cmp.Diff(want, works[1].Item); diff != "" {
		t.Errorf("item (-want +got):\n%s", diff)
	}
	require.Same(t, works[0].Request, works[1].Request)
	require.Equal(t, []string{"d", "def", "trace"}, []string{works[1].Domain, works[1].DefinitionID, works[1].TraceID})
	require.Equal(t, "app.2", works[1].Key().String())
	require.Equal(t, int32(2), works[1].ActualLRPKey().GetIndex())
}

func TestTask(t *testing.T) {
	t.Parallel()
	good := func() *auctioneerv1.TaskStart {
		return &auctioneerv1.TaskStart{
			TaskGuid: "task", Resources: &workloadv1.Resources{MemoryMb: 1},
			Placement: &workloadv1.PlacementConstraint{RootFs: "docker:///x", PlacementTags: []string{"a"}},
		}
	}
	tests := map[string]struct {
		edit        func(*auctioneerv1.TaskStart)
		want, field string
	}{
		"no guid":                   {edit: func(s *auctioneerv1.TaskStart) { s.TaskGuid = "" }, want: "task guid is empty", field: "task_guid"},
		"a guid that no cell takes": {edit: func(s *auctioneerv1.TaskStart) { s.TaskGuid = strings.Repeat("x", 256) }, want: "task_guid must be at most 255 characters", field: "task_guid"},
		"negative resources":        {edit: func(s *auctioneerv1.TaskStart) { s.Resources.DiskMb = -1 }, want: "resources cannot be less than zero", field: "resources.disk_mb"},
		"no root filesystem":        {edit: func(s *auctioneerv1.TaskStart) { s.Placement.RootFs = "" }, want: "placement constraint cannot be empty", field: "placement.root_fs"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := good()
			tt.edit(start)
			_, err := Task(start, time.Now())
			require.Equal(t, InvalidError{Field: tt.field, Problem: tt.want}, err)
		})
	}
	w, err := Task(good(), time.Now())
	require.NoError(t, err)
	require.Equal(t, "task", w.Key().String())
	require.False(t, w.Request.Proxy, "tasks run without a proxy")
	require.Equal(t, []string{"a"}, w.Request.PlacementTags)
}

// BenchmarkInstances is what reading one item costs, of which there are as many as processes.
func BenchmarkInstances(b *testing.B) {
	start, now := goodLRP(), time.Now()
	for b.Loop() {
		if _, err := Instances(start, now); err != nil {
			b.Fatal(err)
		}
	}
}

package presence

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	workloadv1 "diego.internal/proto/workload/v1"
)

func TestValueHasTheNamesOfTheContract(t *testing.T) {
	t.Parallel()
	want := &workloadv1.CellPresence{
		CellId: "cell-1", RepAddress: "10.0.0.1:1801", Zone: "z1", Capacity: &workloadv1.CellCapacity{MemoryMb: 1, DiskMb: 2, Containers: 3},
		RootfsProviders: []*workloadv1.RootFSProvider{{Scheme: "preloaded", FixedSet: true, Names: []string{"cflinuxfs4"}}},
		PlacementTags:   []string{"a"}, OptionalPlacementTags: []string{"b"}, Version: "1",
	}
	value, err := Value(want)
	require.NoError(t, err)
	for _, name := range []string{`"cell_id"`, `"rep_address"`, `"memory_mb"`, `"rootfs_providers"`, `"optional_placement_tags"`} {
		require.Contains(t, string(value), name)
	}
	got := &workloadv1.CellPresence{}
	require.NoError(t, protojson.Unmarshal(value, got))
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	_, err = Value(&workloadv1.CellPresence{CellId: "cell-1", Zone: "\xff"})
	require.ErrorContains(t, err, `wording the presence of cell "cell-1"`)
}
